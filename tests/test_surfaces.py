"""Whoever has every right but the one that is needed is refused, wherever he tries; with that one alone he is let in.

what is tried            x  its way in: WebSocket in both formats, attached or not; HTTP by every route and body
all rights but this one     40160
this one on another name    40160
this one alone              done (or refused for what it is, not for who asks)"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest

from engine.auth.capability import NAMES
from tests.harness import Address, Server, channel_path, publish
from tests.jwts import jwt
from tests.restclient import RestClient
from tests.test_guards import ABSENT_MODES, DENIED, MODES
from tests.test_protocol import until_pong
from tests.wsclient import Action, RefusedError, WsClient

Outcome = tuple[int, int] | None  # code and status of the refusal; None: it was done
JSON, MSGPACK = "application/json", "application/x-msgpack"
UNAVAILABLE = (40000, 400)  # of what is not built: told to those who might do it
SPACES = b" " * 70_000  # make a body that is not read at once


@dataclass(frozen=True)
class Surface:
    """One way to try something; ``needs`` any one of these on the channel (or on everything)."""

    name: str
    needs: tuple[str, ...]
    attempt: Callable[[Address, str, str], Outcome]
    everywhere: bool = False
    done: Outcome = None


# HTTP


def ask(
    address: Address,
    token: str,
    method: str,
    path: str,
    body: bytes | None = None,
    kind: str = JSON,
    version: str = "6",
) -> tuple[int, Any]:
    with RestClient(address) as rest:
        kinds = {"content_type": kind if body is not None else None, "x_ably_version": version}
        answer = rest.ask(method, path, body, authorization=f"Bearer {token}", **kinds)
        return answer.status, answer.value


def over_http(method: str, path: str, body: bytes | None = None, kind: str = JSON) -> Any:
    """``path`` has {c} for the channel's."""

    def attempt(address: Address, token: str, channel: str) -> Outcome:
        filled = path.replace("{c}", channel_path(channel).rpartition("/")[0]).replace("{name}", channel)
        status, answer = ask(address, token, method, filled, body, kind)
        if status < 300:
            return None
        assert answer["error"]["statusCode"] == status
        return answer["error"]["code"], status

    return attempt


def chunked(address: Address, token: str, channel: str) -> Outcome:
    """A body without a length, which goes the long way."""
    body: Any = iter([b'{"data"', b':"x"}'])
    return over_http("POST", "{c}/messages", body)(address, token, channel)  # type: ignore[no-any-return]


def batch(version: str) -> Any:
    def attempt(address: Address, token: str, channel: str) -> Outcome:
        body = json.dumps({"channels": [channel], "messages": {"data": "x"}}).encode()
        status, answer = ask(address, token, "POST", "/messages", body, version=version)
        if version == "2":
            assert status == (400 if "batchResponse" in answer else 201)
            [result] = answer["batchResponse"] if status == 400 else answer
        else:
            assert status == 201
            [result] = answer["results"]
        return (result["error"]["code"], result["error"]["statusCode"]) if "error" in result else None

    return attempt


# WebSocket


def open_client(address: Address, token: str, format: str) -> WsClient:
    return WsClient(address, key=None, access_token=token, format=format)


def outcome(act: Callable[[], object]) -> Outcome:
    try:
        act()
    except RefusedError as refused:
        assert refused.code is not None
        assert refused.status is not None
        return refused.code, refused.status
    return None


def attaching(mode: str) -> Any:
    def attempt(address: Address, token: str, channel: str) -> Outcome:
        with open_client(address, token, "json") as client:
            return outcome(lambda: client.attach(channel, flags=(MODES | ABSENT_MODES)[mode]))

    return attempt


def receiving(address: Address, token: str, channel: str) -> Outcome:
    """By the default modes one gets in without it, and then hears nothing."""
    with open_client(address, token, "json") as client:
        found = outcome(lambda: client.attach(channel))
        if found is not None:
            return found
        publish(address, channel, {"data": "x"})
        heard = any(message["action"] == Action.MESSAGE for message in until_pong(client))
        return None if heard else DENIED


def publishing(format: str, *, attached: bool, **fields: Any) -> Any:
    """Twice: the first publish that is accepted opens a shorter way for those after it."""

    def attempt(address: Address, token: str, channel: str) -> Outcome:
        with open_client(address, token, format) as client:
            if attached:
                outcome(lambda: client.attach(channel))  # who may not attach may publish all the same
            first, second = (outcome(lambda: client.publish(channel, {"data": "x", **fields})) for _ in range(2))
            assert first == second
            return first

    return attempt


def saying(action: int, **fields: Any) -> Any:
    def attempt(address: Address, token: str, channel: str) -> Outcome:
        with open_client(address, token, "json") as client:
            client.send({"action": action, "channel": channel, "msgSerial": 0, **fields})
            answer = client.expect(Action.ACK, Action.NACK)
            return (answer["error"]["code"], answer["error"]["statusCode"]) if "error" in answer else None

    return attempt


PRESENCE, OBJECT, ANNOTATION = 14, 19, 21
PUBLISHED = [
    ("JSON", b'{"data":"x"}', JSON),
    ("an array", b'[{"data":"x"},{"data":"y"}]', JSON),
    ("MessagePack", msgpack.packb({"data": "x"}), MSGPACK),
    ("plain text", b"x", "text/plain"),
    ("bytes", b"\0", "application/octet-stream"),
    ("a large body", b'{"data":"x"}' + SPACES, JSON),
]

SURFACES = [
    *(Surface(f"publish {name} by HTTP", ("publish",), over_http("POST", "{c}/messages", body, kind))
      for name, body, kind in PUBLISHED),
    Surface("publish in chunks by HTTP", ("publish",), chunked),
    Surface("publish a batch", ("publish",), batch("6")),
    Surface("publish a batch as of old", ("publish",), batch("2")),
    *(Surface(f"publish over {format}{' attached' * attached}", ("publish",), publishing(format, attached=attached))
      for format in ("json", "msgpack") for attached in (False, True)),
    *(Surface(f"attach for {mode}", (mode,), attaching(mode)) for mode in MODES),
    *(Surface(f"attach for {mode}", (mode,), attaching(mode), done=UNAVAILABLE) for mode in ABSENT_MODES),
    Surface("receive messages", ("subscribe",), receiving),
    *(Surface(f"presence action {action}", ("presence",),
              saying(PRESENCE, presence=[{"action": action, "clientId": "x"}]), done=UNAVAILABLE)
      for action in (2, 3, 4)),
    Surface("annotate", ("annotation-publish",), saying(ANNOTATION, annotations=[{}]), done=UNAVAILABLE),
    Surface("change an object", ("object-publish",), saying(OBJECT, state=[{}]), done=UNAVAILABLE),
    *(Surface(f"history by {path}", ("history",), over_http("GET", f"{{c}}/{path}"))
      for path in ("messages", "history")),
    Surface("status of a channel", ("channel-metadata",), over_http("GET", "{c}")),
    Surface("enumeration", ("channel-metadata",), over_http("GET", "/channels"), everywhere=True),
    Surface("statistics", ("stats",), over_http("GET", "/stats"), everywhere=True),
]  # fmt: skip


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_every_right_but_the_one_that_is_needed_opens_nothing(server: Server, channel: str, surface: Surface) -> None:
    others = [name for name in NAMES if name not in surface.needs]
    resource = "*" if surface.everywhere else channel
    assert surface.attempt(server.address, jwt(capability={resource: others}), channel) == DENIED
    elsewhere = {channel: ["*"], "[meta]*": ["*"], f"{channel}:*": ["*"]} if surface.everywhere else {
        channel + "2": ["*"], f"{channel}:*": ["*"], f"[meta]{channel}": ["*"], f"{channel}*": ["*"]
    }  # fmt: skip
    assert surface.attempt(server.address, jwt(capability=elsewhere), channel) == DENIED


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_the_one_that_is_needed_is_enough(server: Server, channel: str, surface: Surface) -> None:
    for right in surface.needs:
        for resource in ("*", "[*]*") if surface.everywhere else (channel, "*", "[*]*"):
            token = jwt(capability={resource: [right]})
            assert surface.attempt(server.address, token, channel) == surface.done, (right, resource)
