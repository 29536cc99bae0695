"""What a reload promises: every setting is switched, or named; all of it or nothing; and connections go on."""

from __future__ import annotations

import dataclasses
import http.client
import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from engine.reloading import SWITCHED
from tests.harness import KEY, Server, channel_path, request
from tests.peer import Peer
from tests.reloads import OUTCOMES, config_of, refused, reload
from tests.restclient import RestClient
from tests.ways import refusal, ways
from tests.wsclient import Action, WsClient, unique

GRANTED = "granted"
PATIENT = "handshake_seconds = 600"
BASE = f"[limits]\nwindow_seconds = 3\n{PATIENT}\n"


def test_each_switched_setting_has_a_probe() -> None:
    elsewhere = {"tls_cert", "tls_key", "keys", "namespaces", "log_level"}
    assert {name for probe in PROBES for name in probe.covers} | elsewhere == SWITCHED


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all who leave it as it was: with BASE."""
    with Server(tmp_path_factory.mktemp("reload"), config=BASE) as server:
        yield server
    assert not server.complaints(), server.complaints()


@pytest.fixture
def live(running: Server) -> Iterator[WsClient]:
    """A client that was there before, and has published to GRANTED: by the short way from then on."""
    with WsClient(running.address) as client:
        client.publish(GRANTED, {"data": "x"})
        yield client


# what can be switched: a table of what is written, and what comes of it


def rest_publish(server: Server, messages: object, channel: str | None = None) -> tuple[int, object, list[str]]:
    return request(server.address, "POST", channel_path(channel or unique("room")), messages)


def small_messages(server: Server, live: WsClient) -> None:
    told = live.expect(Action.CONNECTED)["connectionDetails"]
    assert told["maxMessageSize"] == 100, "who is there is told of it"
    with ways(server) as each:
        for way in each:
            assert refusal(way, unique("small"), {"data": "x" * 200}) == 40009, way.name
            assert refusal(way, unique("small"), {"data": "x" * 50}) == 0, way.name
    assert refused(lambda: live.publish(GRANTED, {"data": "x" * 200})) == 40009


def small_frames(server: Server, live: WsClient) -> None:
    with WsClient(server.address) as client:
        assert client.connected["connectionDetails"]["maxFrameSize"] == 2048
        client.send_raw("x" * 3000)
        assert client.expect(Action.ERROR)["error"]["code"] == 40009


def few_together(server: Server, live: WsClient) -> None:
    many = [{"data": "x"}] * 3
    with ways(server) as each:
        for way in each:
            assert refusal(way, unique("few"), *many) == 40034, way.name
            assert refusal(way, unique("few"), *many[:2]) == 0, way.name
    assert refused(lambda: live.publish(GRANTED, *many)) == 40034


def one_channel_each(server: Server, live: WsClient) -> None:
    with WsClient(server.address) as client:
        for each in (client, live):
            each.attach(unique("first"))
            assert refused(lambda each=each: each.attach(unique("second"))) == 90010  # type: ignore[misc]


def one_attachment(server: Server, live: WsClient) -> None:
    live.attach(unique("first"))
    assert refused(lambda: live.attach(unique("second"))) == 50004


def newcomer(server: Server) -> int:
    """The code with which one more is turned away."""
    with WsClient(server.address, greet=False) as client:
        return int(client.receive()["error"]["code"])


def one_connection(server: Server, live: WsClient) -> None:
    assert newcomer(server) == 50004


def one_open_channel(server: Server, live: WsClient) -> None:
    assert refused(lambda: live.attach(unique("another"))) == 50004


def health(server: Server, live: WsClient) -> None:
    _, told, _ = request(server.address, "GET", "/health")
    assert (told["ringBytesMost"], told["partBytesMost"]) == (1 << 21, 9 << 20)


def little_on_its_way(server: Server, live: WsClient) -> None:
    """Where one waits for its channel to be read back, others find too much on its way already."""
    spec = {"channels": [unique("room") for _ in range(50)], "messages": {"data": "x"}}
    _, answer, _ = request(server.address, "POST", "/messages", spec)
    codes = [each.get("error", {}).get("code", 0) for each in answer["results"]]
    assert set(codes) == {0, 42910}, codes


def few_ids(server: Server, live: WsClient) -> None:
    assert refused(lambda: rest_publish(server, [{"data": "x"}] * 5)) == 42910
    assert refused(lambda: live.publish(GRANTED, *[{"data": "x"}] * 5)) == 42910


def small_bodies(server: Server, live: WsClient) -> None:
    for short in (True, False):
        with RestClient(server.address, short=short) as rest:
            answer = rest.post(unique("room"), {"data": "x", "extras": {"headers": {"x": "y" * 3000}}})
            assert answer.refusal == (413, 40009)


def small_heads(server: Server, live: WsClient) -> None:
    assert request(server.address, "GET", "/time", headers={"X-Padding": "x" * 3000})[0] == 431


def little_patience(server: Server, live: WsClient) -> None:
    with Peer(server.address) as silent:
        assert silent.hears_end(), "it would have had ten minutes"


def slow_connections(server: Server, live: WsClient) -> None:
    """A message a second, by the general quota, for who was there, too: a minute's worth at once, and then no more."""
    with WsClient(server.address) as client:
        assert client.connected["connectionDetails"]["maxInboundRate"] == 1
        client.publish(GRANTED, *[{"data": "x"}] * 60)
        assert refused(lambda: client.publish(GRANTED, {"data": "x"})) == 42911
    live.publish(GRANTED, *[{"data": "x"}] * 60)
    assert refused(lambda: live.publish(GRANTED, {"data": "x"})) == 42911


def one_connection_of_the_app(server: Server, live: WsClient) -> None:
    assert newcomer(server) == 40150


def a_key_from_anywhere(server: Server, live: WsClient) -> None:
    """As from another machine: over an address of this one that is not loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        here = probe.getsockname()[0]
    connection = http.client.HTTPConnection(*server.address, timeout=20, source_address=(here, 0))
    connection.request("GET", f"/channels/x/messages?key={KEY}")
    assert connection.getresponse().status == 200
    connection.close()


@dataclasses.dataclass(frozen=True)
class Probe:
    """What is written in place of a line of BASE, before or behind all of them; and what is found then."""

    covers: tuple[str, ...]
    look: Callable[[Server, WsClient], None]
    limits: str = PATIENT
    more: str = ""
    before: str = ""

    @property
    def config(self) -> str:
        return self.before + BASE.replace(PATIENT, self.limits) + self.more


PROBES = [
    Probe(("limits.max_message_size",), small_messages, "max_message_size = 100"),
    Probe(("limits.max_frame_size",), small_frames, "max_message_size = 2048\nmax_frame_size = 2048"),
    Probe(("limits.messages_per_publish",), few_together, "messages_per_publish = 2"),
    Probe(("limits.channels_per_connection",), one_channel_each, "channels_per_connection = 1"),
    Probe(("limits.attachments",), one_attachment, "attachments = 1"),
    Probe(("limits.connections",), one_connection, "connections = 1"),
    Probe(("limits.channels",), one_open_channel, "channels = 1"),
    Probe(("limits.ring_bytes", "limits.bodies_bytes"), health, f"ring_bytes={1 << 21}\nbodies_bytes={9 << 20}"),
    Probe(("limits.staged_bytes",), little_on_its_way, "staged_bytes = 1"),
    Probe(("limits.dedup_ids",), few_ids, "dedup_ids = 1"),
    Probe(("limits.request_body_bytes",), small_bodies, "request_body_bytes = 2048"),
    Probe(("limits.request_head_bytes",), small_heads, "request_head_bytes = 1024"),
    Probe(("limits.handshake_seconds", "limits.drain_seconds"), little_patience, "handshake_seconds = 1"),
    Probe(("quotas",), slow_connections, more="[limits.connection]\nmessages_in = 1\n"),
    Probe(("app_quotas",), one_connection_of_the_app, more="[[apps]]\nid = 'app1'\nlimits = { connections = 1 }\n"),
    Probe(("tls_ended_by_proxy",), a_key_from_anywhere, before="tls_ended_by_proxy = true\n"),
]


@pytest.mark.parametrize("probe", PROBES, ids=[probe.covers[0] for probe in PROBES])
def test_what_is_switched_holds_from_then_on(running: Server, live: WsClient, probe: Probe) -> None:
    try:
        said = reload(running, probe.config)
        assert "reloaded: " in said and "until a restart" not in said, said
        probe.look(running, live)
    finally:
        said = reload(running, BASE)
        assert "reloaded: " in said and "until a restart" not in said, said
    with WsClient(running.address) as client:
        client.publish(unique("after"), {"data": "x" * 300})


def test_the_time_to_drain_is_the_one_that_was_read_last(make_server) -> None:
    server = make_server(config="[limits]\ndrain_seconds = 3600\n")
    reload(server, "[limits]\ndrain_seconds = 1\n")
    with Peer(server.address) as half:
        half.send(b"POST /channels/x/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        server.terminate()
        assert server.wait(20) == 0  # and not when the request has had its 30 s
    assert "have up to 1 s" in server.stderr()


def test_the_log_tells_as_much_as_was_read_last(make_server) -> None:
    server = make_server(config='log_level = "error"\n')
    assert "reloaded: log_level\n" in reload(server, 'log_level = "info"\n')


# what stays


def test_what_waits_for_a_restart_is_named_in_the_log_and_left(make_server) -> None:
    server = make_server(config="")
    said = reload(
        server,
        """
        dev = true
        durability = "written"
        [limits]
        messages_per_publish = 2
        window_seconds = 60
        connection_state_seconds = 60
        max_idle_interval_ms = 1000
        ring_bytes_per_channel = 1000000
        ring_entries_per_channel = 64
        """,
    )
    for name in ("dev", "durability", "limits.window_seconds", "limits.connection_state_seconds"):
        assert f"{name}: stays as it was until a restart: " in said
    assert "reloaded: limits.messages_per_publish\n" in said
    _, health, _ = request(server.address, "GET", "/health")
    assert health["durability"] == "synced"
    assert request(server.address, "POST", "/apps", {})[0] in (403, 404, 405)
    with WsClient(server.address) as client:
        details = client.connected["connectionDetails"]
        assert (details["connectionStateTtl"], details["maxIdleInterval"]) == (120_000, 15_000)
    assert refused(lambda: rest_publish(server, [{"data": "x"}] * 3)) == 40034, "what can be switched has been"


# all or nothing


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("max_message_size = ", "not valid TOML"),
        ("max_message_size = 100\nmax_message_sizes = 5", "limits.max_message_sizes"),
        ("max_message_size = 100\nchannels = 0", "limits.channels"),
        ("max_message_size = 100\nbodies_bytes = 1", "limits.bodies_bytes"),
        ("max_message_size = 100\n[[apps]]\nid = 'a'\nkeys = ['b.c:topsecret']", "apps[0].keys[0].key"),
        ("max_message_size = 100\n[namespaces.n]\npersisted = true\ndurability = 'memory'", "namespaces.n"),
        (None, "cannot be read"),
    ],
)
def test_a_configuration_with_anything_wrong_changes_nothing(
    running: Server, live: WsClient, config: str | None, said: str
) -> None:
    try:
        if config is None:
            config_of(running).unlink()
        told = reload(running, None if config is None else BASE + config)
        assert "the configuration was not applied, nothing has changed: " in told
        assert said in told and "topsecret" not in told
        assert "reloaded" not in told
        live.publish(unique("room"), {"data": "x" * 200})
        assert rest_publish(running, {"data": "x" * 200})[0] == 201
    finally:
        assert "reloaded: no setting has changed" in reload(running, BASE)


def test_whoever_is_connected_notices_nothing_of_reloads(running: Server) -> None:
    room = unique("room")
    with WsClient(running.address) as reader, WsClient(running.address, format="msgpack") as publisher:
        reader.attach(room)
        for n in range(0, 300, 3):
            for i in range(3):
                publisher.send_messages(room, [{"name": str(n + i)}])
            if n % 60 == 0:
                reload(running, BASE + f"messages_per_publish = {100 + n}\n")
        assert [each["name"] for each in reader.deliveries(room, 300)] == [str(n) for n in range(300)]
        assert publisher.expect(Action.ACK)["count"]
    reload(running, BASE)


def test_reload_during_shutdown_neither_happens_nor_hurries_it(make_server) -> None:
    server = make_server(config="")
    with WsClient(server.address) as client:
        client.attach("room")
        with Peer(server.address) as half:
            half.send(b"POST /channels/x/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            server.terminate()
            assert client.expect(Action.DISCONNECTED)["error"]["code"] == 80003
            os.kill(server.pid, signal.SIGHUP)
            half.send(b'"data":1}"')
            assert 400 <= half.answer()[0] < 500  # it is answered before the end
    assert server.wait() == 0
    assert not any(outcome in server.stderr() for outcome in OUTCOMES)
