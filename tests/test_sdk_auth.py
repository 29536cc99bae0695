"""Both SDKs with every form of credentials, as an application gives them out; and what happens when they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Server, publish, request, wait_until
from tests.sdk.driving import SDKS, Client, Driver, SdkError, driver_of, text
from tests.sdk.issuing import Issuer

pytestmark = pytest.mark.sdk

FORMS = ("jwt", "embedded", "token", "details", "request")
REVOCABLE = "app1.rev:topsecret"
CONFIG = '[[apps]]\nid = "app1"\nkeys = [{ key = "app1.rev:topsecret", revocable_tokens = true }]\n'


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Driver]]:
    with contextlib.ExitStack() as stack:
        yield {sdk: stack.enter_context(driver_of(sdk, tmp_path_factory.mktemp("driver"))) for sdk in SDKS}


@pytest.fixture(params=SDKS)
def driver(request: pytest.FixtureRequest, drivers: dict[str, Driver]) -> Iterator[Driver]:
    yield drivers[request.param]
    drivers[request.param].close_clients()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("revocable"), config=CONFIG) as running:
        yield running
    assert not running.complaints(), running.complaints()


@pytest.mark.parametrize("way", ["authUrl", "authCallback"])
@pytest.mark.parametrize("form", FORMS)
def test_credentials_of_any_form_are_good_for_what_they_say(
    driver: Driver, server: Server, channel: str, form: str, way: str
) -> None:
    binary = way == "authUrl"
    rights = {f"{channel}:*": ["publish", "subscribe"], "other": ["subscribe"]}
    with Issuer(server.address, client_id="alice", capability=rights) as issuer:
        client = driver.connect(server.port, binary=binary, **{way: issuer.url(form)})
        client.subscribe(f"{channel}:a")
        client.publish(f"{channel}:a", {"name": "realtime"})
        driver.rest_publish(server.port, f"{channel}:a", {"name": "rest"}, binary=binary, **{way: issuer.url(form)})
        got = client.messages(f"{channel}:a", last="rest")
        assert [(message["name"], message["clientId"]) for message in got] == [("realtime", "alice"), ("rest", "alice")]
        for refused in (
            lambda: client.publish("other", {"name": "n"}),
            lambda: client.publish(f"{channel}:a", {"name": "n", "clientId": "bob"}),
            lambda: client.attach("elsewhere"),
            lambda: driver.rest_publish(server.port, "other", {"name": "n"}, **{way: issuer.url(form)}),
        ):
            with pytest.raises(SdkError):
                refused()
        assert client.connection()["state"] == "connected"


@pytest.mark.parametrize("form", ["jwt", "details"])
def test_who_has_another_client_id_than_its_token_fails(driver: Driver, server: Server, form: str) -> None:
    with Issuer(server.address, client_id="bob") as issuer:
        client = driver.client(server.port, authCallback=issuer.url(form), clientId="alice")
        client.connect() if form == "jwt" else _connect_quietly(client)
        state = client.wait("failed")
        assert state["error"]["code"] == 40102


def _connect_quietly(client: Client) -> None:
    """The library may find out by itself, and say so at once."""
    with contextlib.suppress(SdkError):
        client.connect()


@pytest.mark.parametrize("form", ["jwt", "details"])
def test_a_wildcard_client_speaks_for_anybody(driver: Driver, server: Server, channel: str, form: str) -> None:
    with Issuer(server.address, client_id="*") as issuer:
        client = driver.connect(server.port, authCallback=issuer.url(form))
        client.subscribe(channel)
        for name in ("alice", "bob"):
            client.publish(channel, {"name": "n", "clientId": name, "data": text("x")})
        assert [message["clientId"] for message in client.messages(channel, 2)] == ["alice", "bob"]


def test_tokens_that_expire_are_renewed_and_nothing_is_missed(
    drivers: dict[str, Driver], server: Server, channel: str
) -> None:
    """All at once, because it takes as long as the tokens live.

    The Python library renews at an expiry only once: it keeps the reason of the first one as its last error, and takes
    the next for a sign that renewing has not helped. When it is asked in good time it goes on and on. It attaches anew
    each time then, from the last message it knows of, and hands out what comes before the answer, too.
    """
    expiry, hint = 1.5, 31.5  # seconds; who has more than 30 left is asked for another token when they begin
    loops = [
        ("js", "jwt", expiry, 3),
        ("js", "request", expiry, 3),
        ("js", "jwt", hint, 3),
        ("python", "jwt", expiry, 1),
        ("python", "request", expiry, 1),
        ("python", "jwt", hint, 3),
        ("python", "request", hint, 3),
    ]
    with contextlib.ExitStack() as stack:
        for driver in drivers.values():
            stack.callback(driver.close_clients)
        clients: list[tuple[Client, str]] = []
        issuers: list[tuple[Issuer, int]] = []
        for sdk, form, ttl, renewals in loops:
            # The Python library believes that a JWT alone is of nobody, and would refuse it as another client's.
            claims = {} if form == "jwt" else {"client_id": sdk}
            issuers.append((stack.enter_context(Issuer(server.address, ttl=ttl, **claims)), renewals))
            client = drivers[sdk].connect(server.port, binary=True, authCallback=issuers[-1][0].url(form))
            clients.append((client, client.connection()["id"]))
            client.subscribe(channel)
        sent: list[str] = []

        def renewed() -> bool:
            sent.append(f"m{len(sent)}")
            publish(server.address, channel, {"name": sent[-1]})
            return all(issuer.given > renewals for issuer, renewals in issuers)

        wait_until(renewed, what="all renewals")
        sent.append("end")
        publish(server.address, channel, {"name": "end"})
        for (client, first), (_, _, ttl, renewals) in zip(clients, loops, strict=True):
            if renewals > 1:
                assert [message["name"] for message in client.messages(channel, last="end")] == sent
                assert client.wait("connected")["id"] == first, "it is the same connection all the time"
            states = client.connection()["states"]
            assert "failed" not in [change["state"] for change in states]
            codes = {change["error"]["code"] for change in states if "error" in change}
            assert codes == ({40142} if ttl == expiry else set())


def test_rights_change_on_the_open_connection(driver: Driver, server: Server, channel: str) -> None:
    with Issuer(server.address, client_id="alice", capability={f"{channel}:a": ["*"]}) as issuer:
        # Not a JWT: the Python library believes that one without TokenDetails is of nobody, and refuses it by itself.
        client = driver.connect(server.port, authCallback=issuer.url("request"))
        before = client.connection()["id"]
        client.subscribe(f"{channel}:a")
        with pytest.raises(SdkError):
            client.publish(f"{channel}:b", {"name": "n"})
        issuer.claims["capability"] = {f"{channel}:*": ["*"]}
        assert client.authorize()["id"] == before
        client.publish(f"{channel}:b", {"name": "n"})
        client.subscribe(f"{channel}:b")
        issuer.claims["capability"] = {f"{channel}:b": ["subscribe"]}
        client.authorize()
        wait_until(lambda: client.events(f"{channel}:a")[-1].get("state") == "failed", what="the end of the channel")
        assert client.events(f"{channel}:a")[-1]["error"]["code"] == 40160
        with pytest.raises(SdkError) as refused:
            client.publish(f"{channel}:b", {"name": "n"})
        assert refused.value.code == 40160
        publish(server.address, f"{channel}:b", {"name": "end"})
        assert client.messages(f"{channel}:b", last="end")
        issuer.claims["client_id"] = "bob"
        with pytest.raises(SdkError) as refused:  # by the server, or by the library itself
            client.authorize()
        assert refused.value.code == 40102


@pytest.mark.parametrize("margin", [False, True])
def test_a_client_whose_token_is_revoked_comes_with_another(
    driver: Driver, own: Server, channel: str, margin: bool
) -> None:
    with Issuer(own.address, key=REVOCABLE, client_id=channel) as issuer:
        client = driver.connect(own.port, authCallback=issuer.url("jwt"))
        client.subscribe(channel)
        before = client.connection()["id"]
        body: dict[str, Any] = {"targets": [f"clientId:{channel}"], "allowReauthMargin": margin}
        status, answer, _ = request(own.address, "POST", "/keys/app1.rev/revokeTokens", body, key=REVOCABLE)
        assert status == 201, answer
        wait_until(lambda: issuer.given >= 2, what="another token")
        state = client.wait("connected")
        publish(own.address, channel, {"name": "end"})
        assert client.messages(channel, last="end")
        assert state["id"] == before
        lost = [change for change in client.connection()["states"] if change["state"] == "disconnected"]
        assert bool(lost) is not margin


def test_client_with_a_revoked_jwt_is_back_at_its_first_try(driver: Driver, own: Server, channel: str) -> None:
    """Its library asks for another JWT before each try, and so for one in each round: they are counted."""
    rounds = 2
    with Issuer(own.address, key=REVOCABLE, client_id=channel) as issuer:
        client = driver.connect(own.port, authCallback=issuer.url("jwt"))
        client.subscribe(channel)
        for number in range(1, rounds + 1):
            time.sleep(1.0 - time.time() % 1.0)  # so that most of the second is still to come
            body = {"targets": [f"clientId:{channel}"]}
            status, answer, _ = request(own.address, "POST", "/keys/app1.rev/revokeTokens", body, key=REVOCABLE)
            assert status == 201, answer
            wait_until(lambda number=number: issuer.given > number, what="another token")
            client.wait("connected")
            publish(own.address, channel, {"name": f"n{number}"})
            assert client.messages(channel, last=f"n{number}")
        assert issuer.given == 1 + rounds
