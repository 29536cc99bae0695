"""Limits on what is delivered, at a running server: who may not have it now gets it later, all of it, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.harness import Server, publish
from tests.jwts import jwt
from tests.wsclient import Action, WsClient

RATE = 800
# The ring is small, so that who has to wait for long is served from the journal in between.
CONFIG = f"""
[limits]
ring_bytes_per_channel = 65536

[[apps]]
id = "app1"
keys = [
    {{ key = "app1.gentle:s", limits = {{ connection = {{ messages_out = {RATE} }} }} }},
    {{ key = "app1.shared:s", limits = {{ messages_out = {RATE} }} }},
    {{ key = "app1.bytes:s", limits = {{ connection = {{ bytes_out = 40000 }} }} }},
]

[namespaces.calm]
limits = {{ messages_out = {RATE} }}
"""
COUNT = 2000
BATCH = 100
SEND = 150  # messages that one send may take beyond the rate: some 16 KiB of them


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), config=CONFIG) as running:
        yield running
    assert not running.complaints(), running.complaints()


def pour(server: Server, channel: str, count: int = COUNT) -> list[str]:
    names = [f"m{number}" for number in range(count)]
    for begin in range(0, count, BATCH):
        publish(server.address, channel, [{"name": name} for name in names[begin : begin + BATCH]])
    return names


def taken(client: WsClient, channel: str, count: int) -> list[str]:
    return [str(message["name"]) for message in client.deliveries(channel, count)]


@pytest.mark.parametrize(
    ("key", "prefix", "format"),
    [("app1.gentle:s", "", "json"), ("app1.shared:s", "", "msgpack"), ("app1.key1:secret", "calm:", "json")],
)
def test_subscriber_gets_its_rate_and_finally_everything(
    server: Server, channel: str, key: str, prefix: str, format: str
) -> None:
    name = prefix + channel
    with WsClient(server.address, key=key, format=format) as client:
        client.attach(name)
        begin = time.monotonic()
        sent = pour(server, name)
        assert taken(client, name, COUNT) == sent
        # A burst of a second, and then as the rate says. It may take longer, never less.
        assert time.monotonic() - begin >= (COUNT - 2 * RATE - SEND) / RATE
        client.publish(name, {"name": "after"})
        assert taken(client, name, 1) == ["after"]


def test_others_do_not_wait_for_one_who_has_to(server: Server, channel: str) -> None:
    with WsClient(server.address, key="app1.gentle:s") as gentle, WsClient(server.address) as free:
        gentle.attach(channel)
        free.attach(channel)
        begin = time.monotonic()
        sent = pour(server, channel)
        assert taken(free, channel, COUNT) == sent
        meanwhile = time.monotonic() - begin
        assert taken(gentle, channel, COUNT) == sent
        assert meanwhile < time.monotonic() - begin


def test_connections_of_one_key_share_its_rate(server: Server, channel: str) -> None:
    with WsClient(server.address, key="app1.shared:s") as one, WsClient(server.address, key="app1.shared:s") as two:
        for client in (one, two):
            client.attach(channel)
        begin = time.monotonic()
        sent = pour(server, channel, COUNT // 2)
        for client in (one, two):
            assert taken(client, channel, COUNT // 2) == sent
        assert time.monotonic() - begin >= (COUNT - 2 * RATE - 2 * SEND) / RATE


def test_a_rate_comes_with_new_credentials(server: Server, channel: str) -> None:
    with WsClient(server.address) as client:
        client.attach(channel)
        client.send({"action": Action.AUTH, "auth": {"accessToken": jwt(key="app1.gentle:s", client_id="*")}})
        client.expect(Action.CONNECTED)
        begin = time.monotonic()
        sent = pour(server, channel)
        assert taken(client, channel, COUNT) == sent
        assert time.monotonic() - begin >= (COUNT - 2 * RATE - SEND) / RATE


def test_bytes_count_as_messages_do(server: Server, channel: str) -> None:
    with WsClient(server.address, key="app1.bytes:s") as client:
        client.attach(channel)
        begin = time.monotonic()
        for number in range(12):
            publish(server.address, channel, {"name": f"m{number}", "data": "x" * 10_000})
        assert taken(client, channel, 12) == [f"m{number}" for number in range(12)]
        assert time.monotonic() - begin >= (120_000 - 2 * 40_000 - 16_384) / 40_000


@pytest.mark.parametrize("prefix", ["", "calm:"])
def test_replay_obeys_the_rate_and_the_client_is_still_heard(server: Server, channel: str, prefix: str) -> None:
    name = prefix + channel
    with WsClient(server.address, key="app1.gentle:s") as client:
        serial = client.attach(name)["channelSerial"]
    sent = pour(server, name)
    with WsClient(server.address, key="app1.gentle:s") as client:
        begin = time.monotonic()
        client.attach(name, channelSerial=serial)
        client.publish(f"{channel}-other", {"name": "x"})
        assert taken(client, name, COUNT) == sent
        assert time.monotonic() - begin >= (COUNT - 2 * RATE - SEND) / RATE
        client.publish(name, {"name": "after"})
        assert taken(client, name, 1) == ["after"]


def test_a_slow_rate_does_not_silence_the_connection(make_server: Callable[..., Server], channel: str) -> None:
    """Answers and heartbeats are no deliveries, and do not wait behind them."""
    server = make_server(config="[limits]\nmax_idle_interval_ms = 3000\n[limits.connection]\nmessages_out = 1\n")
    with WsClient(server.address) as client:
        client.attach(channel)
        publish(server.address, channel, [{"name": f"m{number}"} for number in range(20)])
        publish(server.address, channel, {"name": "later"})
        assert taken(client, channel, 20) == [f"m{number}" for number in range(20)]
        client.publish(f"{channel}-other", {"name": "x"})
        client.send({"action": 0, "id": "ping"})
        while client.receive() != {"action": 0, "id": "ping"}:
            pass
        client.send({"action": 12, "channel": channel})
        while client.receive()["action"] != 13:
            pass
