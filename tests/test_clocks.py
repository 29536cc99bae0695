"""The running server while its clocks are set, and while time passes: nothing is lost or doubled by either."""

from __future__ import annotations

import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.auth.requests import sign
from tests.harness import KEY, channel_path, publish, request, wait_until
from tests.skewed import SkewedServer
from tests.wsclient import WsClient

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


def speak(server: SkewedServer, context: ssl.SSLContext, wire: tuple[str, bool], **params: str) -> WsClient:
    """Plain or with TLS, in either format. While it isn't read from, nothing is said either, not even pongs."""
    format, tls = wire
    return WsClient(server.address, format=format, tls=context if tls else None, **params)


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
    client = speak(server, context, wire)
    spaces = ["synced", "written"] if restarts else ["synced", "written", "memory", "kept"]
    sent = [(f"{space}:{n}", messages) for space in spaces for n, messages in enumerate((ONE, SEVERAL, WITH_IDS))]

    def publish_for(key: str) -> Any:
        """Over HTTP."""
        body = {"id": f"{client.connection_id}:777:0", "data": "once", "connectionKey": key}
        status, answer, _ = request(server.address, "POST", channel_path("synced:http"), body, tls=tls)
        assert status == 201, answer
        return answer["serials"]

    over_http = publish_for(client.connection_key)
    first = [client.publish(channel, *messages) for channel, messages in sent]
    server.passes(41_000)
    server.passes(5_500, settles=False)  # for a connection that was just sending a heartbeat at the first look
    wait_until(lambda: connections(server, tls) == 0, what="the loss of the connection")
    if restarts:
        noted = (server.data / "alive").read_text()
        wait_until(lambda: (server.data / "alive").read_text() != noted, what="a note that the server is alive")
        server.restart()
    server.passes(107_000)
    again = speak(server, context, wire, resume=client.connection_key)
    assert again.connection_id == client.connection_id, again.connected
    assert [again.publish(channel, *messages) for channel, messages in sent] == first
    assert publish_for(again.connection_key) == over_http
    if not restarts:
        assert len(stored(server, context, "kept:1")) == len(SEVERAL)
    server.passes(41_000)
    server.passes(5_500, settles=False)
    wait_until(lambda: connections(server, tls) == 0, what="the loss of the connection")
    server.passes(116_000, settles=False)
    late = speak(server, context, wire, resume=again.connection_key)
    assert late.connection_id != client.connection_id
    assert late.connected["error"]["code"] == 80005
    for one in (client, again, late):
        one.drop()


# the wall clock is set


@pytest.mark.parametrize(
    ("wire", "by_ms"),
    [(WIRES[0], 4 * DAY_MS), (WIRES[3], -4 * DAY_MS)],
    ids=["ahead, plain", "back, TLS"],
)
def test_wall_clock_wrong_for_three_seconds_costs_nothing(make, authority, wire, by_ms):
    server, context = make(tls=wire[1]), authority[1]
    tls = context if wire[1] else None
    publisher, reader = speak(server, context, wire), speak(server, context, wire)
    channels = ["synced:x", "written:x", "memory:x", "kept:x"]
    places = {channel: reader.attach(channel)["channelSerial"] for channel in channels}
    for channel in channels:
        publisher.publish(channel, {"id": "before", "data": "before"})
    server.set_wall(by_ms)
    for channel in channels:
        publisher.publish(channel, {"id": "meanwhile", "data": "meanwhile"})
    server.passes(2_500)
    server.set_wall(-by_ms)
    for channel in channels:
        publisher.publish(channel, {"id": "after", "data": "after"})
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
            late = speak(server, context, wire)
            assert late.attach(channel, channelSerial=places[channel])["flags"] & 4
            assert [late.expect(15)["messages"][0]["data"] for _ in range(3)] == ["before", "meanwhile", "after"]
            late.drop()
            late = speak(server, context, wire)
            late.attach(channel, params={"rewind": "1m"})
            assert [late.expect(15)["messages"][0]["data"] for _ in range(3)] == ["before", "meanwhile", "after"]
            late.drop()
    health = request(server.address, "GET", "/health", tls=tls)[1]
    assert health["status"] == "ok"
    publisher.drop()
    reader.drop()


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


def test_statistics_of_a_week_survive_a_wrong_clock(make, authority):
    server = make()
    begun_ms = request(server.address, "GET", "/time")[1][0]
    client = speak(server, authority[1], WIRES[0])

    def published() -> float:
        """Since the server was started, by the right time."""
        found = request(server.address, "GET", f"/stats?start={begun_ms - 60_000}&end={begun_ms + 60_000}")[1]
        return float(sum(each["entries"].get("messages.inbound.realtime.messages.count", 0) for each in found))

    client.publish("room", *ONE)
    server.passes(12_000)
    assert published() == 1
    server.set_wall(40 * DAY_MS)
    for _ in range(2):
        client.publish("room", *ONE)
        server.passes(12_000)
    server.set_wall(-40 * DAY_MS)
    assert published() == 1
    client.drop()


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
    publish(server.address, "room", {"data": "ahead"})
    server.set_wall(-DAY_MS)
    for _ in range(4):
        with speak(server, authority[1], WIRES[0]) as client:
            for number in range(200):
                client.publish("room", {"data": str(number)})
        for _ in range(3):  # so long that its window ends
            server.passes(7_000)
            publish(server.address, "other", {"data": "alive"})
    wait_until(lambda: not stored(server, authority[1], "room"), what="the end of the window")
    with speak(server, authority[1], WIRES[0]) as client:
        assert client.attach("room", params={"rewind": "60m"})["error"]["code"] == 90004


# the server is stopped, or waited for


@pytest.mark.parametrize("wire", [WIRES[0], WIRES[3]], ids=["plain, json", "TLS, msgpack"])
def test_who_could_not_reach_a_stopped_server_was_not_silent(make_server, authority, wire):
    config = SHORT + "max_idle_interval_ms = 600\nhandshake_seconds = 2\n"
    server = make_server(config=config, arguments=authority[0] if wire[1] else [])
    context = authority[1]
    client, lost = speak(server, context, wire), speak(server, context, wire)
    client.attach("room")
    lost.drop()
    first = client.publish("room", *ONE)
    client.expect(15)
    time.sleep(0.3)
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(3.2)
    os.kill(server.pid, signal.SIGCONT)
    assert client.publish("room", {"data": "still here"})
    assert client.expect(15)["messages"][0]["data"] == "still here"
    assert client.publish("room", *ONE, msg_serial=0) == first
    again = speak(server, context, wire, resume=lost.connection_key)
    assert again.connection_id == lost.connection_id
    health = request(server.address, "GET", "/health", tls=context if wire[1] else None)[1]
    assert health["clock"]["stalls"] >= 1
    assert health["clock"]["stalledMs"] >= 2_900
    assert health["clock"]["jumps"] == 0
    client.drop()
    again.drop()
