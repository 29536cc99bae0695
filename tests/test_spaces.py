"""White space around a token or a key (a file's last line, a copy from somewhere) is no part of it, by every way in."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Callable

import pytest

from tests.harness import KEY, token
from tests.jwts import jwt
from tests.restclient import RestClient
from tests.wsclient import Action, RefusedError, Served

AROUND = ["{}\n", " {}", "\t{}\r\n", "\r\n {} \n\n", "\u00a0{}"]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def over_websocket(served: Served, *, key: str | None = None, authorization: str | None = None, **query: str) -> None:
    with served.client(key=key, authorization=authorization, **query) as client:
        assert client.connected["action"] == Action.CONNECTED


def over_rest(served: Served, path: str = "/channels/c/messages", authorization: str | None = None) -> None:
    for method, body, good in (("GET", None, 200), ("POST", {"data": "x"}, 201)):
        with RestClient(served.server.address, key=None, tls=served.tls) as rest:
            assert rest.ask(method, path, body, authorization=authorization).status == good


def in_auth(served: Served, spaced: str) -> None:
    with served.client() as client:
        client.send({"action": Action.AUTH, "auth": {"accessToken": spaced}})
        assert client.expect(Action.CONNECTED, Action.ERROR)["action"] == Action.CONNECTED


def in_path(name: str) -> Callable[[Served, str], None]:
    def ask(served: Served, spaced: str) -> None:
        over_rest(served, f"/channels/c/messages?{name}={urllib.parse.quote(spaced)}")

    return ask


TOKENS: dict[str, Callable[[Served, str], None]] = {
    "access_token": lambda served, spaced: over_websocket(served, access_token=spaced),
    "accessToken": lambda served, spaced: over_websocket(served, accessToken=spaced),
    "Authorization of a WebSocket": lambda served, spaced: over_websocket(
        served, authorization=f"Bearer  {spaced.strip()}"
    ),
    "Authorization of a WebSocket, base64": lambda served, spaced: over_websocket(
        served, authorization=f"Bearer {encoded(spaced)}"
    ),
    "AUTH": in_auth,
    "access_token of REST": in_path("access_token"),
    "accessToken of REST": in_path("accessToken"),
    "Authorization": lambda served, spaced: over_rest(served, authorization=f"Bearer   {spaced.strip()} "),
    "Authorization, a tab": lambda served, spaced: over_rest(served, authorization=f"Bearer\t{spaced.strip()}"),
    "Authorization, base64": lambda served, spaced: over_rest(served, authorization=f"Bearer {encoded(spaced)}"),
}
KEYS: dict[str, Callable[[Served, str], None]] = {
    "key": lambda served, spaced: over_websocket(served, key=spaced),
    "key of REST": in_path("key"),
    "Basic": lambda served, spaced: over_rest(served, authorization=f"Basic {encoded(spaced)}"),
    "Basic of a WebSocket": lambda served, spaced: over_websocket(served, authorization=f"Basic {encoded(spaced)}"),
}


@pytest.mark.parametrize("way", TOKENS.values(), ids=TOKENS.keys())
@pytest.mark.parametrize("kind", ["token", "JWT"])
def test_white_space_around_a_token_is_no_part_of_it(
    served: Served, way: Callable[[Served, str], None], kind: str
) -> None:
    rights = {"*": ["publish", "history"]}
    wildcard = token(served.server.address, rights, client_id="*", tls=served.tls)
    good = wildcard if kind == "token" else jwt(client_id="*")
    for around in AROUND:
        way(served, around.format(good))


@pytest.mark.parametrize("way", KEYS.values(), ids=KEYS.keys())
def test_nor_is_it_of_a_key(served: Served, way: Callable[[Served, str], None]) -> None:
    for around in AROUND:
        way(served, around.format(KEY))


def test_white_space_within_a_token_is(served: Served) -> None:
    good = token(served.server.address, {"*": ["publish"]}, tls=served.tls)
    with pytest.raises(RefusedError) as refused:
        over_websocket(served, access_token=f"{good[:10]} {good[10:]}")
    assert refused.value.code == 40101
