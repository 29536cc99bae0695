"""Quotas of a running server: who takes more than its share is told so, and its connection goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server.cli import main
from tests.harness import Server, channel_path, publish, request, wait_until
from tests.jwts import jwt
from tests.restclient import Answer, RestClient
from tests.test_protocol import ended_with
from tests.wsclient import Action, RefusedError, WsClient

CONFIG = """
[limits.key]
channels_per_connection = 20

[[apps]]
id = "app1"
keys = [
    { key = "app1.slow:s", limits = { messages_in = 5 } },
    { key = "app1.each:s", limits = { connection = { messages_in = 5, messages_out = 70000 } } },
    { key = "app1.bytes:s", limits = { connection = { bytes_in = 50 } } },
    { key = "app1.reader:s", limits = { messages_out = 5 } },
    { key = "app1.few:s", limits = { connections = 2 } },
    { key = "app1.small:s", limits = { max_message_size = 100, channels_per_connection = 3 } },
    { key = "app1.open:s", limits = { channels_per_connection = "unlimited" } },
]

[[apps]]
id = "app2"
limits = { messages_in = 5 }
keys = ["app2.one:s"]

[[apps]]
id = "app3"
limits = { connections = 1 }
keys = ["app3.one:s", "app3.two:s"]

[namespaces.calm]
limits = { messages_in = 5, max_message_size = 50 }
"""
TRIES = 100  # publishes of one message at once: each would have to take a second for none to be refused


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), config=CONFIG) as running:
        yield running
    assert not running.complaints(), running.complaints()


def until_refused(do: Callable[[int], object]) -> tuple[int, RefusedError]:
    """How many were taken before the first that was not, and why it was not."""
    for number in range(TRIES):
        try:
            do(number)
        except RefusedError as error:
            return number, error
    raise AssertionError(f"{TRIES} publishes have passed a limit of one a second")


def publish_rest(server: Server, channel: str, key: str, body: Any) -> Answer:
    with RestClient(server.address, key=key) as rest:
        return rest.post(channel, body, origin="https://page.example")


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize(
    ("key", "prefix", "code"),
    [
        ("app1.each:s", "", 42911),
        ("app1.slow:s", "", 42910),
        ("app2.one:s", "", 42910),
        ("app1.key1:secret", "calm:", 42913),
    ],
)
def test_fast_publisher_gets_a_nack_and_continues_in_time(
    server: Server, channel: str, format: str, key: str, prefix: str, code: int
) -> None:
    name = prefix + channel
    with WsClient(server.address, format=format, key=key) as client:
        client.attach(name)
        taken: list[str] = []

        def one(number: int) -> None:
            client.publish(name, {"data": f"m{number}"})
            taken.append(f"m{number}")

        wait_until(lambda: _passes(lambda: one(-1)), what="room after the last test")
        _, error = until_refused(one)
        assert (error.code, error.status) == (code, 429)
        found = re.search(r"try again in (\d+) ms", str(error))
        assert found is not None
        assert int(found[1]) <= 1001
        wait_until(lambda: _passes(lambda: one(-2)), what="room again")
        assert [message["data"] for message in client.deliveries(name, len(taken))] == taken


def _passes(do: Callable[[], object]) -> bool:
    try:
        do()
    except RefusedError:
        return False
    return True


def test_burst_is_stored_in_order_up_to_the_limit(
    make_server: Callable[..., Server],
) -> None:
    """All in one write, so in one turn of the server: on the short way for publishes, and on the long one."""
    server = make_server(config="[limits.connection]\nmessages_in = 100\n")
    with WsClient(server.address) as client, WsClient(server.address) as reader:
        reader.attach("burst")
        client.pour("burst", *(f"m{n}" for n in range(300)))
        answers: dict[int, int] = {}
        while len(answers) < 300:
            answer = client.expect(1, 2)
            for serial in range(answer["msgSerial"], answer["msgSerial"] + answer["count"]):
                answers[serial] = answer["action"]
            if answer["action"] == 2:
                assert answer["error"]["code"] == 42911
        taken = [serial for serial, action in answers.items() if action == 1]
        assert taken[:100] == list(range(100))
        assert len(taken) < 300
        got: list[str] = []
        while len(got) < len(taken):
            got += [message["data"] for message in reader.expect(15)["messages"]]
        assert got == [f"m{serial}" for serial in taken]


def test_bytes_count_as_messages_do(server: Server, channel: str) -> None:
    with WsClient(server.address, key="app1.bytes:s") as client:
        client.publish(channel, {"data": "x" * 60})
        _, error = until_refused(lambda _: client.publish(channel, {"data": "x" * 60}))
        assert (error.code, "50 bytes" in str(error)) == (42911, True)


def test_fast_request_gets_429_and_a_time_to_retry(server: Server, channel: str) -> None:
    for _ in range(TRIES):
        response = publish_rest(server, "calm:" + channel, "app1.key1:secret", {"data": "x"})
        if response.status != 201:
            break
    assert (response.status, response.headers["x-ably-errorcode"], response.headers["retry-after"]) == (
        429,
        "42913",
        "1",
    )
    assert "Retry-After" in response.headers["access-control-expose-headers"]
    assert response.value["error"]["code"] == 42913  # type: ignore[attr-defined]
    assert publish_rest(server, channel, "app1.key1:secret", {"data": "x"}).status == 201


def test_who_is_refused_opens_no_channels(make_server: Any, channel: str) -> None:
    """Each would cost memory, a look into the journal, and a channel in the statistics."""
    limits = "[limits.key]\nmessages_in = 1\n[namespaces.small]\nlimits = { max_message_size = 10 }\n"
    server = make_server(config=limits)
    refused = 0
    for number in range(30):
        name = f"small:{number}" if number % 2 else f"{channel}{number}"
        data = "x" * 11 if number % 2 else "x"
        status, _, _ = request(server.address, "POST", channel_path(name), {"data": data})
        refused += status in (400, 429)
    with WsClient(server.address) as client:
        for number in range(30):
            try:
                client.publish(f"{channel}-{number}", {"data": "x"})
            except RefusedError:
                refused += 1
    assert refused > 40
    _, health, _ = request(server.address, "GET", "/health")
    assert health["channels"] == 60 - refused


def test_a_page_of_history_counts_as_deliveries_do(server: Server, channel: str) -> None:
    publish(server.address, channel, [{"data": "x"}] * 20)
    path = f"{channel_path(channel)}?limit=10"
    status, page, _ = request(server.address, "GET", path, key="app1.reader:s")
    assert (status, len(page)) == (200, 10)
    status, answer, _ = request(server.address, "GET", path, key="app1.reader:s")
    assert (status, answer["error"]["code"]) == (429, 42910)
    assert "this key may read 5 messages a second; try again in" in answer["error"]["message"]
    wait_until(lambda: request(server.address, "GET", path, key="app1.reader:s")[0] == 200, what="its turn")
    assert request(server.address, "GET", path)[0] == 200


def test_one_channel_of_a_batch_is_refused_and_the_other_is_not(server: Server, channel: str) -> None:
    body = {"channels": ["calm:" + channel, channel], "messages": [{"data": "x"}]}
    for _ in range(TRIES):
        _, answer, _ = request(server.address, "POST", "/messages?v=6", body, headers={"X-Ably-Version": "6"})
        if answer["failureCount"]:
            break
    assert answer["results"][0]["error"]["code"] == 42913
    assert "serials" in answer["results"][1]


def test_connections_beyond_a_quota_are_told_to_come_back(server: Server) -> None:
    with WsClient(server.address, key="app1.few:s"), WsClient(server.address, key="app1.few:s") as second:
        with WsClient(server.address, key="app1.few:s", greet=False) as third:
            error = ended_with(third, Action.DISCONNECTED)["error"]
            assert (error["code"], error["statusCode"]) == (40150, 401)
            assert "this key has reached its maximum of 2 open connections" in error["message"]
        second.close()
        wait_until(lambda: _connects(server, "app1.few:s"), what="its place")
    with (
        WsClient(server.address, key="app3.one:s") as one,
        WsClient(server.address, key="app3.two:s", greet=False) as two,
    ):
        reason = ended_with(two, Action.DISCONNECTED)["error"]["message"]
        assert "this app has reached its maximum of 1 open connections" in reason
        one.close()


def test_resumed_connection_keeps_its_place_and_a_lost_one_none(server: Server) -> None:
    mine: dict[str, Any] = {"address": server.address, "key": "app3.one:s"}

    def resumed() -> bool:
        greeting = _greeting(**mine, resume=handle)
        if greeting["action"] == Action.CONNECTED:
            assert greeting["connectionId"] == first.connection_id, "what was refused for want of room can be resumed"
        return bool(greeting["action"] == Action.CONNECTED)

    with WsClient(**mine) as first, WsClient(**mine, resume=first.connection_key) as second:
        assert second.connection_id == first.connection_id
        second.drop()
        wait_until(lambda: _connects(server, "app3.one:s"), what="the place of the lost one")
        handle = second.connection_key
        other = WsClient(server.address, key="app3.two:s")
        with other, WsClient(**mine, greet=False, resume=handle) as late:
            assert ended_with(late, Action.DISCONNECTED)["error"]["code"] == 40150
        wait_until(resumed, what="its place")


def _greeting(**options: Any) -> dict[str, Any]:
    with WsClient(greet=False, **options) as client:
        greeting = client.receive()
        if greeting["action"] == Action.CONNECTED:
            client.close()  # its place is free when this returns
        return greeting


def _connects(server: Server, key: str) -> bool:
    return bool(_greeting(address=server.address, key=key)["action"] == Action.CONNECTED)


def test_key_has_its_own_message_size_and_channel_count(server: Server, channel: str) -> None:
    with WsClient(server.address, key="app1.small:s") as client:
        assert client.connected["connectionDetails"]["maxMessageSize"] == 100
        client.publish(channel, {"data": "x" * 100})
        with pytest.raises(RefusedError) as refused:
            client.publish(channel, {"data": "x" * 101})
        assert (refused.value.code, refused.value.status) == (40009, 400)
        client.publish(channel, {"data": "x"})
        for number in range(3):
            client.attach(f"{channel}-{number}")
        with pytest.raises(RefusedError) as refused:
            client.attach(f"{channel}-3")
        assert (refused.value.code, refused.value.status) == (90010, 400)
        client.publish(channel, {"data": "still there"})
    response = publish_rest(server, channel, "app1.small:s", {"data": "x" * 101})
    assert (response.status, response.headers["x-ably-errorcode"]) == (400, "40009")


def test_a_namespace_has_its_own_size_of_messages(server: Server, channel: str) -> None:
    with WsClient(server.address) as client:
        wait_until(lambda: _passes(lambda: client.publish(f"calm:{channel}", {"data": "x" * 50})))
        with pytest.raises(RefusedError) as refused:
            client.publish(f"calm:{channel}", {"data": "x" * 51})
        assert refused.value.code == 40009


def test_unlimited_stands_above_the_general_limit(server: Server, channel: str) -> None:
    with WsClient(server.address, key="app1.open:s") as client:
        for number in range(30):
            client.attach(f"{channel}-{number}")
    with WsClient(server.address) as client:
        for number in range(20):
            client.attach(f"{channel}-{number}")
        with pytest.raises(RefusedError) as refused:
            client.attach(f"{channel}-20")
        assert refused.value.code == 90010


def test_a_client_is_told_the_rates_of_its_connection(server: Server) -> None:
    with WsClient(server.address, key="app1.each:s") as client:
        details = client.connected["connectionDetails"]
        assert (details["maxInboundRate"], details["maxOutboundRate"]) == (5, 70000)
    with WsClient(server.address) as client:
        assert "maxInboundRate" not in client.connected["connectionDetails"]


def test_token_is_bound_by_the_limits_of_its_own_key(server: Server, channel: str) -> None:
    def token(name: str) -> str:
        return jwt(key=f"{name}:s", client_id="me")

    with WsClient(server.address, key=None, access_token=token("app1.small")) as client:
        assert client.connected["connectionDetails"]["maxMessageSize"] == 100
        client.publish(channel, {"data": "x"})
        client.send({"action": Action.AUTH, "auth": {"accessToken": token("app1.open")}})
        assert client.expect(Action.CONNECTED)["connectionDetails"]["maxMessageSize"] == 65536
        client.publish(channel, {"data": "x" * 101})
        client.publish(channel, {"data": "x" * 101})
        client.send({"action": Action.AUTH, "auth": {"accessToken": token("app1.small")}})
        client.expect(Action.CONNECTED)
        with pytest.raises(RefusedError):
            client.publish(channel, {"data": "x" * 101})


def test_connection_takes_its_place_to_another_key_and_rates(server: Server, channel: str) -> None:
    few, slow = (jwt(key=f"app1.{name}:s") for name in ("few", "each"))
    with WsClient(server.address, key=None, access_token=few) as client, WsClient(server.address, key="app1.few:s"):
        for number in range(10):  # which opens the short way for more
            client.publish(channel, {"name": f"m{number}"})
        for token, free in ((slow, True), (few, False), (few, False), (slow, True)):
            client.send({"action": Action.AUTH, "auth": {"accessToken": token}})
            assert ("maxInboundRate" in client.expect(Action.CONNECTED)["connectionDetails"]) == free
            wait_until(lambda free=free: _connects(server, "app1.few:s") == free, what="its place")
        _, refused = until_refused(lambda _: client.publish(channel, {"data": "x"}))
        assert refused.code == 42911


def test_connection_to_a_full_key_is_told_to_come_back(server: Server, channel: str) -> None:
    few, slow = (jwt(key=f"app1.{name}:s") for name in ("few", "each"))
    with WsClient(server.address, key="app1.few:s"), WsClient(server.address, key="app1.few:s") as second:
        with WsClient(server.address, key=None, access_token=slow) as client:
            client.send({"action": Action.AUTH, "auth": {"accessToken": few}})
            error = ended_with(client, Action.DISCONNECTED)["error"]
            assert (error["code"], error["statusCode"]) == (40150, 401)
        second.drop()
        wait_until(lambda: _connects(server, "app1.few:s"), what="its place")
        with WsClient(server.address, key=None, access_token=few, resume=client.connection_key) as again:
            assert again.connection_id == client.connection_id
            assert not _connects(server, "app1.few:s"), "it counts as often as it is there"
    own = jwt(key="app3.one:s")
    with WsClient(server.address, key=None, access_token=own) as only:
        only.send({"action": Action.AUTH, "auth": {"accessToken": jwt(key="app3.two:s")}})
        assert only.expect(Action.CONNECTED), "the one place of the app is its own"


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_a_jwt_has_its_holder_publish_no_faster_than_it_says(server: Server, channel: str, format: str) -> None:
    def token(**rates: float) -> str:
        claim = "ably.limits.publish.perAttachment.maxRate."
        return jwt(**{f"{claim}{channel}:{name}": rate for name, rate in rates.items()})

    def refused_at(client: WsClient, name: str) -> int:
        many, error = until_refused(lambda _: client.publish(f"{channel}:{name}", {"data": "x"}))
        assert (error.code, error.status) == (42911, 429)
        return many

    with WsClient(server.address, key=None, access_token=token(slow=0.1, fast=8), format=format) as client:
        assert refused_at(client, "slow") == 1
        for number in range(TRIES):
            client.publish(f"{channel}:other", {"name": f"m{number}"})
        assert refused_at(client, "fast") >= 8
        with pytest.raises(RefusedError, match=r"0\.1 messages a second.*try again in [89]"):
            client.publish(f"{channel}:slow", {"data": "x"})
        for rates, fast in (({"slow": 0.1}, TRIES), ({"slow": 0.1, "other": 2}, 0)):
            client.send({"action": Action.AUTH, "auth": {"accessToken": token(**rates)}})
            client.expect(Action.CONNECTED)
            assert refused_at(client, "slow") == 0, "coming again with a token makes nobody faster"
            for _ in range(fast):
                client.publish(f"{channel}:fast", {"data": "x"})
        assert refused_at(client, "other") >= 2  # and soon, though it had the short way before


def test_limits_of_a_new_key_are_in_force_at_once_and_stay(
    make_server: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server = make_server()
    limits = ("--limit", "connections=1", "--limit", "connection.messages_in=5")
    assert main(["keys", "create", "--app", "app1", "--data", str(server.data), *limits]) == 0
    key = capsys.readouterr().out.strip()

    def in_force() -> bool:
        with WsClient(server.address, key=key, greet=False) as client:
            if (greeting := client.receive())["action"] != Action.CONNECTED:
                return False  # the server has not seen the key yet
            assert greeting["connectionDetails"]["maxInboundRate"] == 5
            until_refused(lambda _: client.publish("room", {"data": "x"}))
            assert not _connects(server, key)
            client.close()
            return True

    wait_until(in_force, what="the new key")
    server.restart()
    wait_until(in_force, what="the key in the next life")
    publish(server.address, "room", {"data": "x"})
    assert main(["keys", "list", "--data", str(server.data)]) == 0
    assert "connections=1 connection.messages_in=5" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given",
    [
        "connections",
        "connections=",
        "connections=0",
        "connections=-1",
        "sockets=5",
        "key.connections=5",
        "connections=x",
    ],
)
def test_a_limit_that_is_none_makes_no_key(tmp_path: Any, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--data", str(tmp_path / "data"), "--limit", given]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("unbroken: --limit")
