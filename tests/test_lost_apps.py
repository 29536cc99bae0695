"""apps.json is gone, and the journal is not: no server goes on with other apps as if nothing had been there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.journal.port import Block
from engine.journal.rocks import RocksJournal

UNBROKEN = Path(sys.executable).with_name("unbroken")


def start(data: Path, *arguments: str) -> tuple[int, str]:
    """Start a server and ask it to stop once it is ready: its exit code, and all that it said."""
    command = [str(UNBROKEN), "serve", "--listen", "127.0.0.1:0", "--data", str(data), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if " ready on " in line:
                process.terminate()
        return process.wait(20), said


def publish(data: Path, app: str) -> None:
    journal = RocksJournal(data / "journal")
    at = journal.head() + 65536
    journal.append([Block(f"{app}:room", "w", journal.series, [(at, 0, b"x")])], synced=True)
    journal.close()


def keys(data: Path, *arguments: str) -> str:
    command = [str(UNBROKEN), "keys", *arguments, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_server_with_lost_apps_reports_it_and_creates_none(tmp_path: Path) -> None:
    status, said = start(tmp_path)
    found = re.search(r"created app (\w+)", said)
    assert status == 0
    assert found is not None
    publish(tmp_path, found[1])
    kept = (tmp_path / "apps.json").read_bytes()
    for file in tmp_path.glob("apps.json*"):  # where the copy is left, it is what is put back: test_damaged_files.py
        file.unlink()
    for arguments in ([], ["--key", "other.key:secret"], ["--dev"]):
        status, said = start(tmp_path, *arguments)
        assert status == 1, said
        assert "apps.json: is missing, although the journal beside it holds messages" in said
        assert f"unbroken keys create --data {tmp_path}" in said
        assert not (tmp_path / "apps.json").exists()
    (tmp_path / "apps.json").write_bytes(kept)
    assert start(tmp_path)[0] == 0
    for file in tmp_path.glob("apps.json*"):
        file.unlink()
    assert keys(tmp_path, "create", "--app", found[1]).startswith(f"{found[1]}.")
    assert start(tmp_path)[0] == 0


def test_server_with_configured_keys_creates_no_other_app(tmp_path: Path) -> None:
    assert start(tmp_path, "--key", "shop.key:secret")[0] == 0
    publish(tmp_path, "shop")
    assert start(tmp_path, "--key", "shop.key:secret")[0] == 0, "apps.json was never needed"
    status, said = start(tmp_path)
    assert status == 1
    assert "configure the keys that the server used before" in said


@pytest.mark.parametrize("lock", [False, True], ids=["new", "cut off before apps.json"])
def test_unused_directory_gets_an_app_as_before(tmp_path: Path, lock: bool) -> None:
    assert start(tmp_path, "--key", "shop.key:secret")[0] == 0
    if lock:
        (tmp_path / "apps.lock").touch()
    status, said = start(tmp_path)
    assert status == 0
    assert "created app" in said
