"""What server.apps promises: apps are kept whole or as they were; those who change them take turns."""

import os
import stat
import threading
from pathlib import Path

import pytest

from engine.auth.capability import Capability
from engine.auth.keys import Key
from engine.errors import StartupFailed
from server.apps import AppsFile, keys_of, namespaces_of, new_key, stored_key


@pytest.fixture
def file(tmp_path: Path) -> AppsFile:
    return AppsFile(tmp_path)


def test_apps_are_kept_whole_or_as_they_were(file: AppsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file.read() == {}
    with file.changing() as apps:
        apps["a"] = {"keys": []}

    def cut(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(OSError, match="gone"), file.changing() as apps:
        apps["b"] = {"keys": []}
    monkeypatch.undo()
    with pytest.raises(KeyError), file.changing() as apps:
        apps["c"] = apps["nowhere"]
    assert file.read() == {"a": {"keys": []}}


def test_the_files_are_for_the_owner_of_the_directory_alone(file: AppsFile) -> None:
    with file.changing():
        pass
    file.keep_copy()
    assert {made.name for made in file.path.parent.iterdir()} == {"apps.json", "apps.json.copy", "apps.lock"}
    for made in file.path.parent.iterdir():
        found = made.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_uid == file.path.parent.stat().st_uid


def test_what_root_makes_belongs_to_the_owner_of_the_directory(file: AppsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda descriptor, user, group: given.append((user, group)))
    with file.changing():
        pass
    owner = file.path.parent.stat()
    file.keep_copy()
    assert given == [(owner.st_uid, owner.st_gid)] * 4  # the lock and the file, the lock and its copy


def test_concurrent_changes_take_turns_and_none_is_lost(file: AppsFile) -> None:
    def change(name: str) -> None:
        for number in range(5):
            with AppsFile(file.path.parent).changing() as apps:
                apps[f"{name}{number}"] = {"keys": []}

    threads = [threading.Thread(target=change, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(file.read()) == {f"{name}{number}" for name in "abcd" for number in range(5)}


def test_secret_of_a_public_example_is_refused(file: AppsFile) -> None:
    key = Key("a", "k", "Change-Me-Please")
    with pytest.raises(StartupFailed, match="app 'a' is damaged: its secret is from a public example"):
        list(keys_of({"a": {"keys": [stored_key(key)]}}, file.path))


def test_the_copy_is_of_what_was_good_last(file: AppsFile) -> None:
    copy = file.path.with_name("apps.json.copy")
    file.keep_copy()
    assert not copy.exists()
    with file.changing() as apps:
        apps["a"] = {"keys": [stored_key(Key("a", "k", "secret"))]}
    file.keep_copy()
    good = file.path.read_bytes()
    assert copy.read_bytes() == good
    for bad in (b"{", b"[]", b'{"a":{"keys":[{"id":"k"}]}}', b'{"a":{"keys":[],"namespaces":5}}'):
        file.path.write_bytes(bad)
        file.keep_copy()
        assert copy.read_bytes() == good
    file.path.unlink()
    with pytest.raises(StartupFailed, match=r"apps\.json: is missing, although apps\.json\.copy .* `cp -p "):
        file.read()
    with pytest.raises(StartupFailed, match="is missing"), file.changing():
        raise AssertionError("it would begin anew")
    file.path.write_bytes(b"{}")
    file.keep_copy()
    assert copy.read_bytes() == b"{}"
    file.path.unlink()
    copy.write_bytes(b"{")
    assert file.read() == {}


def test_another_content_has_another_stamp(file: AppsFile) -> None:
    stamps = [file.stamp()]
    for name in ("a", "b"):
        with file.changing() as apps:
            apps[name] = {}
        stamps.append(file.stamp())
        assert file.stamp() == stamps[-1]
    assert stamps[0] is None
    assert len(set(stamps)) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"\xff"])
def test_damaged_apps_are_refused_and_left_alone(file: AppsFile, content: bytes) -> None:
    file.path.write_bytes(content)
    with pytest.raises(StartupFailed, match=r"apps\.json: .*restore"):
        file.read()
    with pytest.raises(StartupFailed), file.changing():
        raise AssertionError("it has been read")
    assert file.path.read_bytes() == content


@pytest.mark.parametrize(
    "key",
    [
        Key("app", "k", "s", Capability.parse('{ "a": ["publish"] }'), revocable_tokens=True, enabled=False),
        new_key("app"),
        new_key("app", Capability.parse('{"a":["*"]}'), revocable=True),
    ],
)
def test_stored_keys_are_keys_again(file: AppsFile, key: Key) -> None:
    with file.changing() as apps:
        apps["app"] = {"keys": [stored_key(key)]}
    assert list(keys_of(file.read(), file.path)) == [key]


def test_a_key_from_before_there_was_a_flag_is_enabled() -> None:
    stored = {"id": "k", "secret": "s", "capability": '{"a":["publish"]}', "revocableTokens": True}
    expected = Key("app", "k", "s", Capability.parse('{"a":["publish"]}'), True)
    assert list(keys_of({"app": {"keys": [stored]}}, Path("f"))) == [expected]
    assert not next(iter(keys_of({"app": {"keys": [{**stored, "enabled": "no"}]}}, Path("f")))).enabled


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ({}, "keys: is missing"),
        ({"keys": [{"id": "k", "secret": "s", "revocableTokens": False}]}, r"keys\[0\]\.capability: is missing"),
        ({"keys": [{"id": "k", "secret": 90125, "capability": "{}"}]}, r"keys\[0\]\.secret: must be a string;"),
        ({"keys": [], "namespaces": {"a": 9000}}, "namespaces: must be hours by namespace"),
    ],
)
def test_what_is_wrong_with_a_damaged_app_is_named(app: object, said: str) -> None:
    for read in (lambda: list(keys_of({"a1": app}, Path("f"))), lambda: namespaces_of({"a1": app}, Path("f"))):
        with pytest.raises(StartupFailed, match=f"app 'a1' is damaged: {said}"):
            read()


def test_no_two_new_keys_are_alike() -> None:
    keys = [new_key("app") for _ in range(20)]
    assert len({key.secret for key in keys}) == 20
    assert all(len(key.secret) >= 32 for key in keys)


@pytest.mark.parametrize(
    "app",
    [
        {},
        5,
        None,
        {"keys": 5},
        {"keys": [5]},
        {"keys": [{"id": "k", "secret": "topsecret", "capability": "x", "revocableTokens": False}]},
        {"keys": [{"id": "k", "secret": "topsecret", "revocableTokens": False}]},
        {"keys": [{"id": "k", "secret": ["topsecret"], "capability": "x", "revocableTokens": False}]},
        {"keys": ["a1.k:topsecret"]},
        {"keys": "a1.k:topsecret"},
        {"keys": [{"id": "k", "secret": "top:secret", "capability": '{"*":["*"]}', "revocableTokens": False}]},
    ],
)
def test_a_damaged_app_is_named_and_its_secrets_are_not(app: object) -> None:
    with pytest.raises(StartupFailed, match="app 'a1' is damaged") as refused:
        list(keys_of({"a1": app}, Path("f")))
    assert "top" not in str(refused.value)
