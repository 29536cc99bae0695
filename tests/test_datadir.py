"""What server.datadir promises: one server at a time, and nothing that matters is lost or made anew in silence."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import StartupFailed
from server.datadir import LIVES, UNTOLD_MS, DataDirectory

NOW = 1_700_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some" / "data"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_and_its_files_are_for_the_owner_alone(path: Path) -> None:
    with DataDirectory.open(path) as directory:
        directory.keep_revocations(b"[]")
        directory.note_alive(NOW)
        assert mode(path) == 0o700
        assert {file.name: mode(file) for file in path.iterdir()} == dict.fromkeys(
            ("lock", "secret", "revocations", "alive"), 0o600
        )


def test_the_secret_is_random_and_stays(path: Path, tmp_path: Path) -> None:
    with DataDirectory.open(path) as first:
        secret = first.secret
    with DataDirectory.open(path) as second, DataDirectory.open(tmp_path / "other") as other:
        assert second.secret == secret != other.secret
        assert len(secret) == 32
        assert len(second.dedup_key) == 16
        assert second.dedup_key != other.dedup_key
        assert second.dedup_key not in secret


@pytest.mark.parametrize("content", [b"", b"short", bytes(31), bytes(33)])
def test_a_damaged_secret_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    DataDirectory.open(path).close()
    (path / "secret").write_bytes(content)
    with pytest.raises(StartupFailed, match=f"secret: has {len(content)} bytes instead of 32"):
        DataDirectory.open(path)
    assert (path / "secret").read_bytes() == content


def test_a_secret_has_a_checksum_and_one_without_gets_it(path: Path) -> None:
    with DataDirectory.open(path) as directory:
        secret = directory.secret
    content = (path / "secret").read_bytes()
    assert len(content) > 32
    (path / "secret").write_bytes(secret)  # as it was kept before
    for _ in range(2):
        with DataDirectory.open(path) as directory:
            assert directory.secret == secret
        assert (path / "secret").read_bytes() == content
    assert mode(path / "secret") == 0o600


def test_a_flipped_bit_in_the_secret_is_reported_and_left_alone(path: Path) -> None:
    DataDirectory.open(path).close()
    content = (path / "secret").read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (path / "secret").write_bytes(damaged)
        with pytest.raises(StartupFailed, match=r"secret: is damaged.*--new-secret"):
            DataDirectory.open(path)
        assert (path / "secret").read_bytes() == damaged


@pytest.mark.parametrize("damage", ["missing", "flipped", "short"])
def test_new_secret_on_request_changes_nothing_else(path: Path, damage: str) -> None:
    with DataDirectory.open(path) as directory:
        old = directory.secret
        with directory.apps.changing() as apps:
            apps["shop"] = {"keys": []}
    (path / "journal").mkdir()
    if damage == "missing":
        (path / "secret").unlink()
    else:
        (path / "secret").write_bytes(b"x" * 40 if damage == "flipped" else b"x")
    with pytest.raises(StartupFailed, match="--new-secret"):
        DataDirectory.open(path)
    with DataDirectory.open(path, new_secret=True) as directory:
        made = directory.secret
    with DataDirectory.open(path) as directory:
        assert directory.secret == made
        assert directory.secret != old
        assert directory.apps.read() == {"shop": {"keys": []}}
    assert (path / "journal").is_dir()


def test_no_new_secret_is_made_while_a_server_runs(path: Path) -> None:
    with DataDirectory.open(path):
        content = (path / "secret").read_bytes()
        with pytest.raises(StartupFailed, match="uses this data directory"):
            DataDirectory.open(path, new_secret=True)
    assert (path / "secret").read_bytes() == content


@pytest.mark.parametrize("remains", ["apps.json", "alive", "journal"])
def test_a_secret_that_has_gone_missing_is_not_made_anew(path: Path, remains: str) -> None:
    DataDirectory.open(path).close()
    (path / "secret").unlink()
    (path / remains).touch()
    with pytest.raises(StartupFailed, match=f"is missing, although {remains} exists"):
        DataDirectory.open(path)
    assert not (path / "secret").exists()


def test_start_cut_off_before_the_secret_begins_again(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "lock").touch()
    (path / "secret.new").write_bytes(b"half")
    with DataDirectory.open(path) as directory:
        assert len(directory.secret) == 32


def test_second_server_is_refused_and_names_the_first_process(path: Path) -> None:
    with DataDirectory.open(path), pytest.raises(StartupFailed, match=f"process {os.getpid()}.*--data"):
        DataDirectory.open(path)
    DataDirectory.open(path).close()


def test_a_killed_server_leaves_no_lock_behind(path: Path) -> None:
    program = (
        "import os; from pathlib import Path; from server.datadir import DataDirectory\n"
        f"d = DataDirectory.open(Path({str(path)!r})); print('locked', flush=True); os.read(0, 1)"
    )
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(StartupFailed, match=f"process {other.pid}"):
            DataDirectory.open(path)
        other.kill()
    DataDirectory.open(path).close()


def test_a_refused_start_frees_the_lock(path: Path) -> None:
    DataDirectory.open(path).close()
    content = (path / "secret").read_bytes()
    (path / "secret").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StartupFailed, match="secret"):
            DataDirectory.open(path)
    (path / "secret").write_bytes(content)
    DataDirectory.open(path).close()


def test_closing_twice_closes_nothing_else(path: Path) -> None:
    directory = DataDirectory.open(path)
    directory.close()
    with path.joinpath("other").open("w") as other:  # takes the freed descriptor
        directory.close()
        other.write("x")


def test_a_path_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupFailed, match=f"{tmp_path / 'file'}: cannot be used"):
        DataDirectory.open(tmp_path / "file")


# lives


def test_each_run_is_a_new_life_and_knows_the_earlier_ones(path: Path) -> None:
    with DataDirectory.open(path) as first:
        assert first.earlier_lives == {}
        first.note_alive(NOW)
        first.note_alive(NOW + 1)
    with DataDirectory.open(path) as second:
        assert second.life != first.life
        assert 0 <= second.life < 1 << 32
        assert second.earlier_lives == {first.life: NOW + 1}
        second.note_alive(NOW + 2)
    with DataDirectory.open(path) as third:
        assert third.earlier_lives == {second.life: NOW + 2, first.life: NOW + 1}


def test_run_too_short_to_be_noted_keeps_the_earlier_lives(path: Path) -> None:
    with DataDirectory.open(path) as first:
        first.note_alive(NOW)
    DataDirectory.open(path).close()
    with DataDirectory.open(path) as third:
        assert third.earlier_lives == {first.life: NOW}


def test_only_the_newest_lives_are_kept(path: Path) -> None:
    lives = []
    for at in range(LIVES + 3):
        with DataDirectory.open(path) as directory:
            lives.append(directory.life)
            directory.note_alive(NOW + at)
    with DataDirectory.open(path) as last:
        assert list(last.earlier_lives) == lives[::-1][:LIVES]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"nonsense", b"00000001 -5", b"00000001 " + b"9" * 20])
def test_a_damaged_note_of_lives_is_as_good_as_none(path: Path, content: bytes) -> None:
    DataDirectory.open(path).close()
    (path / "alive").write_bytes(content)
    with DataDirectory.open(path) as directory:
        assert directory.earlier_lives == {}


def test_the_newest_key_of_each_life_is_known_to_the_next_ones(path: Path) -> None:
    with DataDirectory.open(path) as first:
        first.note_alive(NOW)
        first.note_key(NOW + 7)
    with DataDirectory.open(path) as second:
        assert second.newest_keys == {first.life: NOW + 7}
        second.note_alive(NOW + 10)
        second.note_key(NOW + 11)
        second.note_alive(NOW + 12)
    with DataDirectory.open(path) as third:
        assert third.newest_keys == {first.life: NOW + 7, second.life: NOW + 11}
        assert third.earlier_lives == {first.life: NOW, second.life: NOW + 12}


def test_unnoted_keys_of_an_older_server_count_for_a_while(path: Path) -> None:
    DataDirectory.open(path).close()
    (path / "alive").write_text(f"0000000a {NOW}\n")
    with DataDirectory.open(path) as directory:
        assert directory.newest_keys == {10: NOW + UNTOLD_MS}


@pytest.mark.parametrize("content", [b"", b"\xff", b"0000000a", b"0000000b 5\n", b"0000000a -1\n"])
def test_a_damaged_note_of_keys_leaves_what_was_noted_before(path: Path, content: bytes) -> None:
    DataDirectory.open(path).close()
    (path / "alive").write_text(f"0000000a {NOW} {NOW - 9}\n")
    (path / "issued").write_bytes(content)
    with DataDirectory.open(path) as directory:
        assert directory.newest_keys == {10: NOW - 9}
