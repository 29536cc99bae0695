"""The running server while its clocks are set, and while time passes: nothing is lost or doubled by either."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from engine.auth.requests import sign
from tests.harness import KEY, channel_path, request, wait_until
from tests.skewed import SkewedServer

DAY_MS = 86_400_000
WIRES = [("json", False), ("msgpack", False), ("json", True), ("msgpack", True)]
NAMESPACES = """
[namespaces.synced]
durability = "synced"
[namespaces.written]
durability = "written"
[namespaces.memory]
durability = "memory"
[namespaces.kept]
persisted_hours = 72
"""
SHORT = "[limits]\nwindow_seconds = 2\nconnection_state_seconds = 2\n"
MakeServer = Callable[..., SkewedServer]


@pytest.fixture
def make(tmp_path: Path, authority: tuple[tuple[str, ...], ssl.SSLContext]) -> Iterator[MakeServer]:
    made: list[SkewedServer] = []

    def start(*, tls: bool = False, config: str = NAMESPACES) -> SkewedServer:
        directory = tmp_path / f"server{len(made)}"
        directory.mkdir()
        made.append(SkewedServer(directory, config=config, arguments=authority[0] if tls else []))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.stop()
    assert not any(one.complaints() for one in made), [one.complaints() for one in made]


class Client:
    """Blocking, plain or with TLS, in either format."""

    def __init__(self, server: SkewedServer, context: ssl.SSLContext, wire: tuple[str, bool], **params: str) -> None:
        self.format, tls = wire
        query = "".join(f"&{name}={value}" for name, value in params.items())
        uri = f"{'wss' if tls else 'ws'}://127.0.0.1:{server.port}/?key={KEY}&v=5&format={self.format}{query}"
        self.websocket = connect(
            uri, ssl=context if tls else None, max_size=None, ping_interval=None, close_timeout=0.1
        )
        self.connected = self.expect(4)

    @property
    def id(self) -> str:
        return str(self.connected["connectionId"])

    @property
    def key(self) -> str:
        return str(self.connected["connectionDetails"]["connectionKey"])

    def send(self, message: dict[str, Any]) -> None:
        self.websocket.send(json.dumps(message) if self.format == "json" else msgpack.packb(message))

    def expect(self, *actions: int) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while True:
            payload = self.websocket.recv(max(0, deadline - time.monotonic()))
            message: dict[str, Any] = json.loads(payload) if self.format == "json" else msgpack.unpackb(payload)
            if message["action"] in actions:
                return message

    def publish(self, channel: str, number: int, messages: list[dict[str, Any]]) -> list[str]:
        """The serials that its ACK tells."""
        self.send({"action": 15, "channel": channel, "msgSerial": number, "messages": messages})
        answer = self.expect(1, 2)
        assert answer["action"] == 1, answer
        return list(answer["res"][0]["serials"])

    def attach(self, channel: str, **fields: Any) -> dict[str, Any]:
        self.send({"action": 10, "channel": channel, **fields})
        return self.expect(11)

    def falls_mute(self) -> None:
        """As if its network were gone: nothing is said any more, not even pongs."""
        self.websocket.protocol.send_frame = lambda frame: None

    def close(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            self.websocket.close()


def stored(server: SkewedServer, context: ssl.SSLContext, channel: str, query: str = "") -> list[dict[str, Any]]:
    tls = context if server.scheme == "https" else None
    status, page, _ = request(server.address, "GET", channel_path(channel) + "?limit=1000" + query, tls=tls)
    assert status == 200, page
    return list(page)


def connections(server: SkewedServer, tls: ssl.SSLContext | None) -> int:
    return int(request(server.address, "GET", "/health", tls=tls)[1]["connections"])


# what is sent again after a resume

ONE: list[dict[str, Any]] = [{"data": "once"}]
SEVERAL: list[dict[str, Any]] = [{"data": "a"}, {"data": "b"}]
WITH_IDS: list[dict[str, Any]] = [{"id": "mine", "data": "once"}]


@pytest.mark.parametrize(
    ("wire", "restarts"),
    [(WIRES[0], False), (WIRES[1], True), (WIRES[2], True), (WIRES[3], False)],
    ids=["plain, json", "plain, msgpack, killed", "TLS, json, killed", "TLS, msgpack"],
)
def test_what_is_sent_again_after_a_late_resume_is_stored_once(make, authority, wire, restarts):
    """Default settings: lost is found after 40 s, and resumed at the end of the two minutes from there."""
    server, context = make(tls=wire[1]), authority[1]
    tls = context if wire[1] else None
    client = Client(server, context, wire)
    spaces = ["synced", "written"] if restarts else ["synced", "written", "memory", "kept"]
    sent = [(f"{space}:{n}", messages) for space in spaces for n, messages in enumerate((ONE, SEVERAL, WITH_IDS))]

    def publish_for(key: str) -> Any:
        """Over HTTP."""
        body = {"id": f"{client.id}:777:0", "data": "once", "connectionKey": key}
        status, answer, _ = request(server.address, "POST", channel_path("synced:http"), body, tls=tls)
        assert status == 201, answer
        return answer["serials"]

    over_http = publish_for(client.key)
    first = [client.publish(channel, number, messages) for number, (channel, messages) in enumerate(sent)]
    client.falls_mute()
    server.passes(41_000)
    server.passes(5_500, settles=False)  # for a connection that was just sending a heartbeat at the first look
    wait_until(lambda: connections(server, tls) == 0, what="the loss of the connection")
    if restarts:
        noted = (server.data / "alive").read_text()
        wait_until(lambda: (server.data / "alive").read_text() != noted, what="a note that the server is alive")
        server.restart()
    server.passes(107_000)
    again = Client(server, context, wire, resume=client.key)
    assert again.id == client.id, again.connected
    assert [again.publish(channel, number, messages) for number, (channel, messages) in enumerate(sent)] == first
    assert publish_for(again.key) == over_http
    if not restarts:
        assert len(stored(server, context, "kept:1")) == len(SEVERAL)
    again.falls_mute()
    server.passes(41_000)
    server.passes(5_500, settles=False)
    wait_until(lambda: connections(server, tls) == 0, what="the loss of the connection")
    server.passes(116_000, settles=False)
    late = Client(server, context, wire, resume=again.key)
    assert late.id != client.id
    assert late.connected["error"]["code"] == 80005
    for one in (client, again, late):
        one.close()


# the wall clock is set


@pytest.mark.parametrize(
    ("wire", "by_ms"),
    [(WIRES[0], 4 * DAY_MS), (WIRES[3], -4 * DAY_MS)],
    ids=["ahead, plain", "back, TLS"],
)
def test_a_wall_clock_that_is_wrong_for_three_seconds_costs_nobody_anything(make, authority, wire, by_ms):
    server, context = make(tls=wire[1]), authority[1]
    tls = context if wire[1] else None
    publisher, reader = Client(server, context, wire), Client(server, context, wire)
    channels = ["synced:x", "written:x", "memory:x", "kept:x"]
    places = {channel: reader.attach(channel)["channelSerial"] for channel in channels}
    for n, channel in enumerate(channels):
        publisher.publish(channel, n, [{"id": "before", "data": "before"}])
    server.set_wall(by_ms)
    for n, channel in enumerate(channels, start=10):
        publisher.publish(channel, n, [{"id": "meanwhile", "data": "meanwhile"}])
    server.passes(2_500)
    server.set_wall(-by_ms)
    for n, channel in enumerate(channels, start=20):
        publisher.publish(channel, n, [{"id": "after", "data": "after"}])
    heard = [reader.expect(15) for _ in range(3 * len(channels))]
    for channel in channels:
        serials = [message["channelSerial"] for message in heard if message["channel"] == channel]
        assert len(serials) == 3
        assert serials == sorted(serials)
    for restarts in (False, True):
        if restarts:
            server.restart()
        for channel in [channel for channel in channels if not (restarts and channel == "memory:x")]:
            direction = stored(server, context, channel, "&direction=forwards")
            assert [message["data"] for message in direction] == ["before", "meanwhile", "after"]
            late = Client(server, context, wire)
            assert late.attach(channel, channelSerial=places[channel])["flags"] & 4
            assert [late.expect(15)["messages"][0]["data"] for _ in range(3)] == ["before", "meanwhile", "after"]
            late.close()
            late = Client(server, context, wire)
            late.attach(channel, params={"rewind": "1m"})
            assert [late.expect(15)["messages"][0]["data"] for _ in range(3)] == ["before", "meanwhile", "after"]
            late.close()
    health = request(server.address, "GET", "/health", tls=tls)[1]
    assert health["status"] == "ok"
    publisher.close()
    reader.close()


def test_what_a_wrong_clock_has_outlived_is_not_forgotten(make):
    """Revocations and answered token requests: who waits for the right time again finds them in force."""
    server = make()
    name, _, secret = KEY.partition(":")
    now_ms = request(server.address, "GET", "/time")[1][0]
    nonce = "0123456789abcdef"
    mac = sign(secret, (name, "", "", "", str(now_ms), nonce))
    body = {"keyName": name, "timestamp": now_ms, "nonce": nonce, "mac": mac}

    def ask(**fields: Any) -> int:
        answer = request(server.address, "POST", f"/keys/{name}/requestToken", {**body, **fields})
        return int(answer[0])

    assert ask() in (200, 201)
    server.set_wall(4 * DAY_MS)
    late_ms = now_ms + 4 * DAY_MS
    other = sign(secret, (name, "", "", "", str(late_ms), nonce))
    assert ask(timestamp=late_ms, mac=other) in (200, 201)
    server.set_wall(-4 * DAY_MS)
    assert ask() == 401
    server.restart()
    assert ask() == 401


def test_statistics_of_a_week_survive_a_clock_that_is_wrong_for_a_while(make, authority):
    server = make()
    begun_ms = request(server.address, "GET", "/time")[1][0]
    client = Client(server, authority[1], WIRES[0])

    def published() -> float:
        """Since the server was started, by the right time."""
        found = request(server.address, "GET", f"/stats?start={begun_ms - 60_000}&end={begun_ms + 60_000}")[1]
        return float(sum(each["entries"].get("messages.inbound.realtime.messages.count", 0) for each in found))

    client.publish("room", 0, ONE)
    server.passes(12_000)
    assert published() == 1
    server.set_wall(40 * DAY_MS)
    for number in (1, 2):
        client.publish("room", number, ONE)
        server.passes(12_000)
    server.set_wall(-40 * DAY_MS)
    assert published() == 1
    client.close()


def test_a_jump_is_logged_and_shown_in_health(make):
    server = make()
    before = request(server.address, "GET", "/health")[1]
    assert before["clock"]["jumps"] == 0
    assert before["clock"]["lastJump"] is None
    server.set_wall(4 * DAY_MS)
    clock = request(server.address, "GET", "/health")[1]["clock"]
    assert clock["jumps"] == 1
    assert clock["offsetMs"] == clock["lastJump"]["byMs"] == pytest.approx(4 * DAY_MS, abs=50)
    server.set_wall(-4 * DAY_MS)
    after = request(server.address, "GET", "/health")[1]
    assert (after["clock"]["jumps"], after["clock"]["offsetMs"]) == (2, pytest.approx(0, abs=50))
    assert after["uptimeSeconds"] - before["uptimeSeconds"] < 60
    said = server.stderr()
    assert said.count("the wall clock was set") == 2
    assert "forward by 345600.0 s" in said
    assert "back by 345600.0 s" in said


def test_after_a_step_back_messages_expire_as_soon_as_ever(make, authority):
    """And ids with them, so that those of a day do not fill what may be remembered."""
    server = make(config=SHORT + "max_idle_interval_ms = 3000\ndedup_ids = 500\n")
    client = Client(server, authority[1], WIRES[0])
    client.publish("room", 0, [{"data": "ahead"}])
    server.set_wall(-DAY_MS)
    number = 1
    for _ in range(4):
        for _ in range(200):
            client.publish("room", number, [{"data": str(number)}])
            number += 1
        for _ in range(3):  # so long that its window ends, and no silence too long
            server.passes(7_000)
            client.publish("other", number, [{"data": "alive"}])
            number += 1
    wait_until(lambda: not stored(server, authority[1], "room"), what="the end of the window")
    attached = client.attach("room", params={"rewind": "60m"})
    assert attached["error"]["code"] == 90004
    client.close()


# the server is stopped, or waited for


@pytest.mark.parametrize("wire", [WIRES[0], WIRES[3]], ids=["plain, json", "TLS, msgpack"])
def test_who_could_not_reach_a_stopped_server_was_not_silent(make_server, authority, wire):
    config = SHORT + "max_idle_interval_ms = 600\nhandshake_seconds = 2\n"
    server = make_server(config=config, arguments=authority[0] if wire[1] else [])
    context = authority[1]
    client, lost = Client(server, context, wire), Client(server, context, wire)
    client.attach("room")
    lost.websocket.socket.shutdown(2)
    first = client.publish("room", 0, ONE)
    client.expect(15)
    time.sleep(0.3)
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(3.2)
    os.kill(server.pid, signal.SIGCONT)
    assert client.publish("room", 1, [{"data": "still here"}])
    assert client.expect(15)["messages"][0]["data"] == "still here"
    assert client.publish("room", 0, ONE) == first
    again = Client(server, context, wire, resume=lost.key)
    assert again.id == lost.id
    health = request(server.address, "GET", "/health", tls=context if wire[1] else None)[1]
    assert health["clock"]["stalls"] >= 1
    assert health["clock"]["stalledMs"] >= 2_900
    assert health["clock"]["jumps"] == 0
    client.close()
    again.close()
