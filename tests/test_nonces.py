"""What server.nonces promises: a request that was answered is known to the next life, and the files stay small."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.auth.tokens import sign
from engine.errors import PubSubError, StartupFailed
from server.nonces import NonceFile
from tests.harness import KEY, request

NOW = 1_700_000_000_000
WINDOW = 240_000


def mac(number: int) -> str:
    return f"{number:043d}="


def opened(directory: Path, now_ms: int = NOW) -> NonceFile:
    return NonceFile(directory, WINDOW, now_ms)


def test_remembered_nonce_is_known_to_the_next_life(tmp_path: Path) -> None:
    file = opened(tmp_path)
    assert file.known == {}
    file.remember(mac(1), NOW + WINDOW, NOW)
    file.remember(mac(2), NOW + 2 * WINDOW, NOW)
    # It is not closed: so does a crash leave it.
    assert opened(tmp_path, NOW + WINDOW).known == {mac(1): NOW + WINDOW, mac(2): NOW + 2 * WINDOW}
    assert opened(tmp_path, NOW + WINDOW + 1).known == {mac(2): NOW + 2 * WINDOW}
    assert opened(tmp_path, NOW + 3 * WINDOW).known == {}
    file.close()
    file.close()


def test_two_files_take_turns_and_never_forget_too_early(tmp_path: Path) -> None:
    file, now_ms = opened(tmp_path), NOW
    for number in range(1000):
        now_ms += 1_000
        file.remember(mac(number), now_ms + WINDOW, now_ms)
        size = sum((tmp_path / name).stat().st_size for name in os.listdir(tmp_path))
        assert size <= 2 * (WINDOW // 1_000 + 1) * 59
    expected = {mac(number) for number in range(1000 - WINDOW // 1_000 - 1, 1000)}
    assert set(opened(tmp_path, now_ms).known) == expected
    assert {os.stat(tmp_path / name).st_mode & 0o777 for name in os.listdir(tmp_path)} == {0o600}
    file.close()


def test_half_a_line_of_a_crash_is_passed_over(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.remember(mac(1), NOW + WINDOW, NOW)
    file.close()
    with (tmp_path / "nonces").open("ab") as half:
        half.write(b"1700000000000 AAAA")
    again = opened(tmp_path)
    assert set(again.known) == {mac(1)}
    again.remember(mac(2), NOW + WINDOW, NOW)
    assert set(opened(tmp_path).known) == {mac(1), mac(2)}


def test_what_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = opened(tmp_path)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("server.nonces.os.write", full)
        with pytest.raises(PubSubError, match="No space left"):
            file.remember(mac(1), NOW + WINDOW, NOW)
        patched.setattr("server.nonces.os.write", lambda descriptor, data: len(data) - 1)
        with pytest.raises(PubSubError, match="disk is full"):
            file.remember(mac(1), NOW + WINDOW, NOW)
    file.close()


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "nonces").mkdir()
    with pytest.raises(StartupFailed, match="nonces"):
        opened(tmp_path)


def test_a_signed_request_counts_once_across_a_kill(make_server) -> None:
    server = make_server()
    name, _, secret = KEY.partition(":")

    def ask(body: dict[str, object]) -> tuple[int, int]:
        status, answer, _ = request(
            server.address, "POST", f"/keys/{name}/requestToken", body, headers={"Authorization": "x"}
        )
        return status, answer["error"]["code"] if status >= 300 else 0

    now_ms = request(server.address, "GET", "/time")[1][0]
    bodies = []
    for nonce in ("0123456789abcdef", "0123456789abcdeg", "0123456789abcdeh"):
        mac = sign(secret, (name, "", "", "", str(now_ms), nonce))
        bodies.append({"keyName": name, "timestamp": now_ms, "nonce": nonce, "mac": mac})
        assert ask(bodies[-1])[0] in (200, 201)
        assert ask(bodies[-1]) == (401, 40105)
    server.restart()
    assert [ask(body) for body in bodies] == [(401, 40105)] * 3


def test_a_token_is_told_that_it_makes_no_token(server) -> None:
    name = KEY.partition(":")[0]
    path = f"/keys/{name}/requestToken"
    token = request(server.address, "POST", path, {"keyName": name})[1]["token"]
    for headers, query in (
        ({"Authorization": f"Bearer {token}"}, ""),
        ({"Authorization": ""}, f"?access_token={token}"),
    ):
        status, answer, _ = request(server.address, "POST", path + query, {"keyName": name}, headers=headers)
        assert (status, answer["error"]["code"]) == (401, 40162)
