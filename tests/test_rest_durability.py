"""Over HTTP: 2xx means stored, nothing but 2xx means accepted. On a disk that takes no more, and with ``kill -9``."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import Server, channel_path, history, request
from tests.restclient import RestClient

MIB = 1 << 20
PADDING = "." * 20_000


def limited() -> None:
    """In the child, before it becomes the server: no file may grow beyond this."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, 3 * MIB))


def bodies(kind: str, channel: str, number: int) -> tuple[str, Any, list[str]]:
    """Path, body, and what is stored if it is accepted."""
    marks = [f"{kind}/{number}/{index}" for index in range(1 if kind == "single" else 3)]
    messages = [{"name": mark, "data": PADDING} for mark in marks]
    if kind == "single":
        return channel_path(channel), messages[0], marks
    if kind == "array":
        return channel_path(channel), messages, marks
    return "/messages", {"channels": [channel], "messages": messages}, marks


def test_only_2xx_answers_are_stored(make_server: Callable[..., Server], channel: str) -> None:
    server = make_server(before_exec=limited)
    accepted: list[str] = []
    refused = 0
    for number in range(150):
        for kind in ("single", "array", "batch"):
            path, body, marks = bodies(kind, channel, number)
            status, answer, _ = request(server.address, "POST", path, body, headers={"X-Ably-Version": "6"})
            error = answer["results"][0].get("error") if kind == "batch" and status == 201 else answer.get("error")
            if error is not None:
                refused += 1
                assert (error["code"], error["statusCode"]) == (50003, 503), error
                assert kind == "batch" or status == 503
            else:
                assert status == 201
                accepted += marks
    assert refused and accepted
    server.kill()
    server.before_exec = None
    server.start()
    assert [message["name"] for message in history(server.address, channel)] == accepted


@pytest.mark.parametrize("kind", ["single", "array", "batch"])
def test_what_was_answered_is_there_after_a_kill_at_once(
    make_server: Callable[..., Server], channel: str, kind: str
) -> None:
    server = make_server()
    path, body, marks = bodies(kind, channel, 0)
    for life in range(2):
        assert request(server.address, "POST", path, body, headers={"X-Ably-Version": "6"})[0] == 201
        server.restart()
        assert [message["name"] for message in history(server.address, channel)] == marks * (life + 1)


def test_publish_before_a_kill_is_known_when_repeated(make_server: Callable[..., Server], channel: str) -> None:
    server = make_server()
    array, single = [{"id": f"b:{n}", "data": str(n)} for n in range(2)], {"id": "one", "data": "2"}
    with RestClient(server.address) as rest:
        first = [rest.publish(channel, body) for body in (array, single)]
    server.restart()
    for packed in (False, True):
        with RestClient(server.address, packed=packed, short=packed) as rest:
            assert [rest.publish(channel, body) for body in (array, single)] == first
    assert [message["data"] for message in history(server.address, channel)] == ["0", "1", "2"]
