"""REST over one connection that is kept, as libraries keep theirs; asked in JSON or msgpack, and by either way in.

    with RestClient(address, packed=True, short=False) as rest:
        rest.publish("room", {"data": b"\\x01"})           the body of its 201
        rest.ask("GET", "/channels/room/messages")         an Answer, whatever it is

The usual publish over a plain connection is served without a task (server/rest/posting.py). Who has ever asked for
something unusual there stays with the library for HTTP (server/http/serving.py). What is answered must not depend on
it."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import msgpack
import pytest

from tests.harness import KEY, REQUEST_SECONDS, Address, channel_path

JSON, MSGPACK = "application/json", "application/x-msgpack"


@dataclass(frozen=True, slots=True)
class Answer:
    """``value`` is the decoded body; ``headers`` has their names in lower case, several of one name are joined."""

    status: int
    headers: dict[str, str]
    value: Any

    @property
    def refusal(self) -> tuple[int, int]:
        """Status and code of an error: body and headers must say the same."""
        error = self.value["error"]
        assert error["statusCode"] == self.status >= 400, self
        assert error.keys() == {"code", "statusCode", "message"}, self
        assert self.headers["x-ably-errorcode"] == str(error["code"])
        assert self.headers["x-ably-errormessage"], self
        assert ("www-authenticate" in self.headers) == (self.status == 401)
        return self.status, error["code"]


class RestClient:
    """One connection; not ``short``: it begins with something unusual. ``key`` may be a token, too."""

    def __init__(
        self,
        address: Address,
        *,
        packed: bool = False,
        short: bool = True,
        key: str | None = KEY,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.packed = packed
        self._kind = MSGPACK if packed else JSON
        self._headers = {"Content-Type": self._kind, "Accept": self._kind, "X-Ably-Version": "6"}
        if key is not None:
            scheme = "Basic" if ":" in key else "Bearer"
            self._headers["Authorization"] = f"{scheme} {base64.b64encode(key.encode()).decode()}"
        if tls is None:
            self._connection = http.client.HTTPConnection(*address, timeout=REQUEST_SECONDS)
        else:
            self._connection = http.client.HTTPSConnection(*address, timeout=REQUEST_SECONDS, context=tls)
        if not short:
            assert self.ask("POST", "/channels/x/messages?x=1", b"", authorization=None).status == 401

    def ask(self, method: str, path: str, body: Any = None, **headers: str | None) -> Answer:
        """One request; bytes are sent as they are, of an iterator in chunks. A header given as None is left out."""
        if body is not None and not isinstance(body, bytes | Iterator):
            body = msgpack.packb(body) if self.packed else json.dumps(body).encode()
        given = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        fields = {name: value for name, value in self._headers.items() if name.lower() not in given}
        fields |= {name: value for name, value in given.items() if value is not None}
        self._connection.request(method, path, body, fields)
        response = self._connection.getresponse()
        content = response.read()
        told: dict[str, str] = {}
        for name, value in response.getheaders():
            told[name.lower()] = f"{told[name.lower()]}, {value}" if name.lower() in told else value
        assert not content or told["content-type"] in (JSON, MSGPACK), told
        value = None
        if content:
            value = json.loads(content) if told["content-type"] == JSON else msgpack.unpackb(content)
        return Answer(response.status, told, value)

    def post(self, channel: str, body: Any, query: str = "", **headers: str | None) -> Answer:
        return self.ask("POST", channel_path(channel) + query, body, **headers)

    def publish(self, channel: str, body: Any, query: str = "", **headers: str | None) -> dict[str, Any]:
        answer = self.post(channel, body, query, **headers)
        assert answer.status == 201, answer
        told: dict[str, Any] = answer.value
        return told

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


WAYS = pytest.mark.parametrize("short", [True, False], ids=["usual", "by a task"])
FORMATS = pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
