"""JWTs of the second in which they are revoked: none of it is good, and nobody is sent for another one too early.

Whoever has been told, by whatever way, that its token is revoked, makes another one at once, and that one is good."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness import Server, request
from tests.jwts import jwt
from tests.restclient import Answer, RestClient
from tests.test_protocol import ended_with
from tests.wsclient import Action, GoneError, RefusedError, Served, WsClient

REVOCABLE = "app1.rev:topsecret"
CONFIG = """
[[apps]]
id = "app1"
keys = [{ key = "app1.rev:topsecret", revocable_tokens = true }]
"""


class WithTokens(Served):
    def connect(self, token: str, format: str = "json") -> WsClient:
        return self.client(format, key=None, access_token=token)

    def revoke(self, client_id: str) -> None:
        path, body = "/keys/app1.rev/revokeTokens", {"targets": [f"clientId:{client_id}"]}
        status, answer, _ = request(self.server.address, "POST", path, body, key=REVOCABLE, tls=self.tls)
        assert status == 201, answer


@pytest.fixture(scope="module", params=["plain", "TLS"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithTokens]:
    arguments, tls = ([], None) if request.param == "plain" else request.getfixturevalue("authority")
    with Server(tmp_path_factory.mktemp("revoked"), config=CONFIG, arguments=arguments) as server:
        yield WithTokens(server, tls)
    assert not server.complaints(), server.complaints()


def made_now(client_id: str) -> str:
    """As the common libraries make them: in whole seconds."""
    return jwt(key=REVOCABLE, client_id=client_id)


def early_in_a_second() -> None:
    """So that most of it is still to come."""
    time.sleep(1.0 - time.time() % 1.0)


def test_who_is_cut_off_is_told_when_its_next_token_is_good(served: WithTokens, channel: str) -> None:
    name = f"{channel}-{served.tls is not None}"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.connect(made_now(name), format)) for format in ("json", "msgpack")]
        for client in clients:
            client.attach(name)
        early_in_a_second()
        served.revoke(name)
        for client in clients:
            assert ended_with(client, Action.DISCONNECTED)["error"]["code"] == 40141
            served.connect(made_now(name), client.format).close()


def test_revoked_connection_is_silent_from_the_answer_on(served: WithTokens, channel: str) -> None:
    name = f"{channel}-{served.tls is not None}"
    with served.connect(made_now(name)) as client, served.connect(made_now(f"{name}-2")) as other:
        client.attach(name)
        client.publish(name, {"data": "before"})
        other.publish(name, {"data": "before, too"})
        assert [message["data"] for message in client.deliveries(name, 2)] == ["before", "before, too"]
        early_in_a_second()
        served.revoke(name)
        with contextlib.suppress(GoneError):  # if the second is over
            client.send_messages(name, [{"data": "after"}])
            client.send_messages(name, [{"data": "after", "name": "of the long way", "extras": {"a": [1]}}])
        other.publish(name, {"data": "after, by another"})
        assert client.receive()["action"] == Action.DISCONNECTED
        with pytest.raises(GoneError):
            client.receive()
    stored = [message["data"] for message in served.history(name)]
    assert stored == ["before", "before, too", "after, by another"]


@dataclass
class Way:
    """Of coming with a token; some have been granted what they do before, and are not asked about any more."""

    name: str
    refusal: Callable[[str], tuple[int, int]]  # with this token: status and code; none: (0, 0)
    come: Callable[[], None]  # with a new one, made now


def ways(served: WithTokens, name: str, token: str, stack: contextlib.ExitStack) -> Iterator[Way]:
    def refused(token: str) -> tuple[int, int]:
        try:
            served.connect(token).close()
        except RefusedError as error:
            return int(error.status or 0), int(error.code or 0)
        return 0, 0

    yield Way("WebSocket", refused, lambda: served.connect(made_now(name)).close())
    requests: dict[str, tuple[str, str, Any]] = {
        "history": ("GET", f"/channels/{name}/messages", None),
        "publish": ("POST", f"/channels/{name}/messages", {"data": "x"}),
        "batch": ("POST", "/messages", {"channels": [name], "messages": {"data": "x"}}),
    }
    for (what, asked), short, before in itertools.product(requests.items(), (True, False), (0, 3)):
        rest = stack.enter_context(RestClient(served.server.address, key=None, short=short, tls=served.tls))

        def ask(token: str, rest: RestClient = rest, asked: tuple[str, str, Any] = asked) -> Answer:
            return rest.ask(*asked, authorization=f"Bearer {token}")

        def come(ask: Callable[[str], Answer] = ask) -> None:
            answer = ask(made_now(name))
            assert answer.status in (200, 201), answer

        for _ in range(before):
            assert ask(token).status in (200, 201)
        yield Way(f"{what}, short={short}, after {before}", lambda token, ask=ask: ask(token).refusal, come)


def test_comer_with_a_token_of_that_second_is_told_in_time(served: WithTokens, channel: str) -> None:
    """All ways at once, for each has to wait."""
    name = f"{channel}-{served.tls is not None}"

    def goes(way: Way) -> tuple[str, tuple[int, int]]:
        refusal = way.refusal(token)
        way.come()
        return way.name, refusal

    with contextlib.ExitStack() as stack:
        early_in_a_second()
        token = made_now(name)
        made = list(ways(served, name, token, stack))
        threads = stack.enter_context(ThreadPoolExecutor(len(made)))
        served.revoke(name)
        assert dict(threads.map(goes, made)) == {way.name: (401, 40141) for way in made}
