"""Every way to publish a message: over a WebSocket or HTTP, plain or with TLS, in JSON or msgpack, short or long.

    with ways(server, tls=None) as each:
        for way in each: way.publish(channel, {"data": "x"})       -> serials, or RefusedError

The short ways are those without Python per message (ext/net/ingest.pyx, ext/net/permit.pyx); whatever is unusual takes
the long one. What comes of a publish must not depend on its way."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.harness import KEY, Server
from tests.restclient import RestClient
from tests.wsclient import RefusedError, WsClient

Message = Mapping[str, Any]


@dataclass
class Way:
    name: str
    publish: Callable[..., list[str]]  # channel, messages
    client: WsClient | None = None  # whose connection it is, if it is one


def refusal(way: Way, channel: str, *messages: Message) -> int:
    """The code with which it is refused; 0: it is not."""
    try:
        way.publish(channel, *messages)
    except RefusedError as error:
        return int(error.code or -1)
    return 0


@contextmanager
def ways(server: Server, tls: ssl.SSLContext | None = None, bearer: str | None = None) -> Iterator[list[Way]]:
    """``bearer``: a token, in place of the key."""
    with ExitStack() as stack:
        made: list[Way] = []
        for packed in (False, True):
            named = "msgpack" if packed else "JSON"
            for short in (True, False):
                format, who = "msgpack" if packed else "json", {} if bearer is None else {"accessToken": bearer}
                key = KEY if bearer is None else None
                client = stack.enter_context(WsClient(server.address, format=format, key=key, tls=tls, **who))
                made.append(Way(f"WebSocket, {named}, short={short}", over_socket(client, short), client))
                rest = stack.enter_context(
                    RestClient(server.address, packed=packed, short=short, key=bearer or KEY, tls=tls)
                )
                made.append(Way(f"POST, {named}, short={short}", over_http(rest, short)))
            made.append(Way(f"batch, {named}", as_batch(rest)))
        yield made


def over_socket(client: WsClient, short: bool) -> Callable[..., list[str]]:
    granted: set[str] = set()

    def publish(channel: str, *messages: Message) -> list[str]:
        if short and channel not in granted:  # the first one is asked about
            granted.add(channel)
            client.publish(channel, {"data": "to be granted"})
        if not short:
            client.send(
                {
                    "action": 15,
                    "channel": channel,
                    "msgSerial": client.next_serial,
                    "messages": list(messages),
                    "params": {},
                }
            )
            client.next_serial += 1
            return answered(client)
        return client.publish(channel, *messages)

    return publish


def answered(client: WsClient) -> list[str]:
    answer = client.expect(1, 2)  # type: ignore[arg-type]  # ACK, NACK
    if answer["action"] == 2:
        raise RefusedError(answer["error"])
    return list(answer["res"][0]["serials"])


def over_http(rest: RestClient, short: bool) -> Callable[..., list[str]]:
    granted: set[str] = set()

    def publish(channel: str, *messages: Message) -> list[str]:
        if short and channel not in granted:
            granted.add(channel)
            rest.publish(channel, {"data": "to be granted"})
        answer = rest.post(channel, list(messages) if len(messages) > 1 else messages[0])
        if answer.status != 201:
            raise RefusedError(answer.value["error"])
        return list(answer.value["serials"])

    return publish


def as_batch(rest: RestClient) -> Callable[..., list[str]]:
    def publish(channel: str, *messages: Message) -> list[str]:
        answer = rest.ask("POST", "/messages", {"channels": [channel], "messages": list(messages)})
        assert answer.status == 201, answer
        (result,) = answer.value["results"]
        if "error" in result:
            raise RefusedError(result["error"])
        return list(result["serials"])

    return publish
