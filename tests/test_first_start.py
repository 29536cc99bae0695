"""The first start: a port that is taken makes nothing, the first key is its owner's, development is this machine's."""

from __future__ import annotations

import errno
import os
import pty
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import StartupFailed
from server.transport import ports
from tests.harness import request

UNBROKEN = Path(sys.executable).with_name("unbroken")
KEY = re.compile(r"[0-9a-f]{6}\.[0-9a-f]{6}:[0-9a-f]{32}")


def serve(data: Path, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [str(UNBROKEN), "serve", "--data", str(data), *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


def refused(data: Path, *arguments: str) -> str:
    process = serve(data, *arguments)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert err.startswith("unbroken: ") and err.count("\n") == 1, err
    return err


def until_ready(read: object, process: subprocess.Popen[str]) -> str:
    """What it prints until it is ready; then it is ended."""
    said = ""
    while " ready on " not in said or not said.endswith("\n"):
        part = read()  # type: ignore[operator]
        assert part, said
        said += part
    port = re.search(r"http://127\.0\.0\.1:(\d+)", said)
    assert port is not None
    keys = KEY.findall(Path(re.search(r"saved in (\S+?):?\s", said)[1]).read_text())  # type: ignore[index]
    assert request(("127.0.0.1", int(port[1])), "GET", "/channels/x/messages", key=keys[0])[0] == 200
    process.terminate()
    logged = process.communicate(timeout=60)[1]
    assert f"INFO unbroken.keys: key {keys[0].partition(':')[0]} was created\n" in logged
    assert not KEY.search(logged)
    return said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_taken_port_is_detected_before_anything_is_created(tmp_path: Path, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(tmp_path / "data", "--listen", f"{host}:{port}")
    assert f"cannot listen on {host}:{port}: Address already in use: another program uses this address; stop it" in said
    assert not (tmp_path / "data").exists()


def test_slower_of_two_servers_on_one_port_is_told() -> None:
    first = ports.bind("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    second = ports.bind("127.0.0.1", port)
    try:
        ports.listen(first)
        with pytest.raises(StartupFailed, match=rf"127\.0\.0\.1:{port}: Address already in use: another program"):
            ports.listen(second)
    finally:
        ports.close([*first, *second])


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("nowhere.invalid", r"cannot listen on nowhere\.invalid:\d+: .*"),
        ("a..b", r"cannot listen on a\.\.b:\d+: it is not a valid host name"),
        ("192.0.2.1", r"cannot listen on 192\.0\.2\.1:\d+: .*: this machine has no such address; 127\.0\.0\.1 accepts"),
    ],
)
def test_foreign_address_is_named_with_advice(host: str, said: str) -> None:
    with pytest.raises(StartupFailed, match=said):
        ports.bind(host, 8080)


def test_a_port_for_those_who_may_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", forbidden)
    with pytest.raises(StartupFailed, match=r"127\.0\.0\.1:80: Permission denied: ports below 1024 .* --listen"):
        ports.bind("127.0.0.1", 80)


def test_all_addresses_of_a_host_have_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{number}", 0)) for number in (1, 2, 3)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: here)
    bound = ports.bind("several", 0)
    try:
        assert [each.getsockname()[0] for each in bound] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        assert len({each.getsockname()[1] for each in bound} - {0}) == 1
    finally:
        ports.close(bound)


def test_first_key_is_in_a_private_file_and_in_no_log(tmp_path: Path) -> None:
    data = tmp_path / "data"
    process = serve(data, "--listen", "127.0.0.1:0")
    assert process.stdout is not None
    said = until_ready(process.stdout.readline, process)
    file = data / "first-key"
    assert f"with a key of full capability, saved in {file}\n" in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert KEY.fullmatch(file.read_text().rstrip("\n"))
    assert not KEY.search(said)


def test_who_sits_at_a_terminal_is_shown_the_first_key(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = serve(tmp_path / "data", "--listen", "127.0.0.1:0", stdout=theirs)
    os.close(theirs)
    said = until_ready(lambda: os.read(ours, 4096).decode().replace("\r\n", "\n"), process)
    os.close(ours)
    assert KEY.findall(said) == [(tmp_path / "data" / "first-key").read_text().strip()]


@pytest.mark.parametrize("host", ["0.0.0.0", *(["[::]"] if Path("/proc/net/if_inet6").exists() else [])])
def test_public_development_mode_must_be_requested(tmp_path: Path, host: str) -> None:
    said = refused(tmp_path / "data", "--listen", f"{host}:0", "--dev")
    assert re.match(rf"unbroken: dev: anybody who can reach {re.escape(host)}:\d+ .* --dev-anywhere", said), said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("host", "options"),
    [("127.0.0.1", ["--dev"]), ("localhost", ["--dev"]), ("0.0.0.0", ["--dev", "--dev-anywhere"]), ("0.0.0.0", [])],
)
def test_local_development_and_other_addresses_are_unchanged(tmp_path: Path, host: str, options: list[str]) -> None:
    process = serve(tmp_path / "data", "--listen", f"{host}:0", "--key", "a.b:secret", *options)
    assert process.stdout is not None
    assert " ready on " in process.stdout.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
