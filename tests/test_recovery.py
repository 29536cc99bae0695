"""The promises, under what breaks them elsewhere: kill -9 under load, connections cut inside a frame, lost ACKs.

Publishers and subscribers come back by themselves and keep logs; the checker holds these against the journal."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest

from tests.harness import Address, Server, history, request, rss, wait_until
from tests.proxy import ChaosProxy
from tests.returning import Publisher, Subscriber, settle_and_check
from tests.wsclient import RESUMED, Action, GoneError, WsClient

MakeServer = Callable[..., Server]
MakeProxy = Callable[[Server], ChaosProxy]
FORMATS = ("json", "msgpack")
SEED = 20260417  # of what is random here: the same cuts in every run, as far as threads allow


def started(channel: str, address: Address, *, count: int, **options: Any) -> tuple[list[Publisher], list[Subscriber]]:
    """Four publishers and four subscribers of both formats, the subscribers attached before anything is published."""
    formats = cycle(FORMATS)
    subscribers = [Subscriber(f"s{n}", address, channel, format=next(formats)) for n in range(4)]
    for subscriber in subscribers:
        subscriber.start()
    for subscriber in subscribers:
        assert subscriber.attached.wait(20), subscriber.failure
    publishers = [
        Publisher("plain", address, channel, count=count, format="json", **options),
        Publisher("binary", address, channel, count=count, format="msgpack", **options),
        Publisher("several", address, channel, count=count // 4, size=4, format="json", **options),
        Publisher("ids", address, channel, count=count, ids=True, format="msgpack", **options),
    ]
    for publisher in publishers:
        publisher.start()
    return publishers, subscribers


def wait_for_acks(publishers: list[Publisher], more: int) -> None:
    enough = sum(publisher.acked for publisher in publishers) + more
    wait_until(
        lambda: sum(one.acked for one in publishers) >= enough or any(one.failure for one in publishers),
        what=f"{more} more acknowledgements",
    )


def test_kill_9_under_load_keeps_every_acknowledged_message(make_server, channel):
    """Promises 1, 3, 4 and 5 across three crashes: the seam between two lives of the server is invisible."""
    server = make_server()
    chance = random.Random(SEED)
    publishers, subscribers = started(channel, server.address, count=1200, pace_seconds=0.001)
    for _ in range(3):
        wait_for_acks(publishers, 300)
        time.sleep(chance.random() * 0.05)
        server.restart()
    report = settle_and_check(server.address, channel, publishers, subscribers)
    assert not report.faults, str(report)
    assert report.acked == report.sent == report.stored == 4 * 1200
    assert all(subscriber.connections >= 4 for subscriber in subscribers), "each crash was felt by everybody"
    assert sum(publisher.resent for publisher in publishers) > 0, "the crashes came while publishes were in flight"


def test_cuts_inside_frames_lose_and_repeat_nothing(make_server, make_proxy, channel):
    """Promise 5, and 3: a PM that is sent again after a resume is stored once."""
    server = make_server()
    proxy = make_proxy(server)
    chance = random.Random(SEED)
    publishers, subscribers = started(channel, proxy.address, count=800, pace_seconds=0.001)
    cuts = 0
    while any(publisher.is_alive() for publisher in publishers) and cuts < 15:
        if chance.random() < 0.7:
            proxy.cut_after(downstream=chance.randrange(400, 60_000))
        else:
            proxy.cut_after(upstream=chance.randrange(400, 30_000))
        time.sleep(0.15)
        proxy.cut_after()
        proxy.cut()
        cuts += 1
    report = settle_and_check(server.address, channel, publishers, subscribers)
    assert not report.faults, str(report)
    assert report.acked == report.sent == report.stored == 4 * 800
    assert sum(publisher.resent for publisher in publishers) > 0
    assert all(subscriber.connections > 3 for subscriber in subscribers)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("crash", [False, True], ids=["cut", "kill -9"])
def test_repeat_after_a_lost_ack_gets_the_first_serial(make_server, make_proxy, channel, format, crash):
    """Promise 3, realtime: the same connection and msgSerial are the same message, across a restart too."""
    server = make_server()
    proxy = make_proxy(server)
    with WsClient(proxy.address, format=format) as client:
        proxy.cut_after(downstream=1)  # the ACK will not come through
        number = client.send_messages(channel, [{"data": "once"}])
        with pytest.raises(GoneError):
            client.expect(Action.ACK)
    stored = history(server.address, channel)
    assert [message["data"] for message in stored] == ["once"]
    if crash:
        server.restart()
    with WsClient(server.address, format=format, resume=client.connection_key) as again:
        assert again.connection_id == client.connection_id
        assert again.connection_key != client.connection_key
        again.send_messages(channel, [{"data": "once"}], msg_serial=number)
        answer = again.expect(Action.ACK, Action.NACK)
        assert answer["action"] == Action.ACK
        assert (answer["msgSerial"], answer["count"]) == (number, 1)
        assert answer["res"] == [{"serials": [stored[0]["serial"]]}]
        following = again.publish(channel, {"data": "next"})
    assert [message["serial"] for message in history(server.address, channel)] == [stored[0]["serial"], *following]


@pytest.mark.parametrize("crash", [False, True], ids=["same life", "kill -9 between"])
def test_id_is_stored_and_delivered_once_whoever_repeats_it(make_server, channel, crash):
    """Promise 3, ids of one's own: from another connection, or by REST, also after a restart."""
    server = make_server()
    with WsClient(server.address) as client:
        first = client.publish(channel, {"id": "mine", "data": "1"})
    if crash:
        server.restart()
    with WsClient(server.address, format="msgpack") as reader, WsClient(server.address) as other:
        reader.attach(channel)
        assert other.publish(channel, {"id": "mine", "data": "1"}) == first
        status, body, _ = request(server.address, "POST", f"/channels/{channel}/messages", {"id": "mine", "data": "1"})
        assert (status, body["serials"]) == (201, first)
        (last,) = other.publish(channel, {"data": "new"})
        assert [message["serial"] for message in reader.deliveries(channel, 1)] == [last]
    assert [message["data"] for message in history(server.address, channel)] == ["1", "new"]


@pytest.mark.parametrize("format", FORMATS)
def test_resuming_subscriber_gets_what_it_missed(make_server, channel, format):
    """Promise 5: from the ring and, after a crash, from the journal."""
    server = make_server()
    with WsClient(server.address, format=format) as client, WsClient(server.address) as publisher:
        assert not client.attach(channel)["flags"] & RESUMED
        publisher.publish(channel, {"data": "seen"})
        (seen,) = client.deliveries(channel, 1)
    with WsClient(server.address) as publisher:
        for number in range(50):
            publisher.publish(channel, {"data": str(number)})
    server.restart()
    with WsClient(server.address, format=format, resume=client.connection_key) as again:
        attached = again.attach(channel, channelSerial=seen["channelSerial"])
        assert attached["flags"] & RESUMED
        assert "error" not in attached
        assert [message["data"] for message in again.deliveries(channel, 50)] == [str(number) for number in range(50)]
        with WsClient(server.address) as publisher:
            publisher.publish(channel, {"data": "live"})
        assert [message["data"] for message in again.deliveries(channel, 1)] == ["live"]


@pytest.mark.parametrize("serial", ["nonsense", "001700000000000-00000@AbCd1234", ""])
def test_cursor_of_another_log_is_a_told_discontinuity(server, channel, serial):
    with WsClient(server.address) as client:
        attached = client.attach(channel, channelSerial=serial)
        assert not attached["flags"] & RESUMED
        if serial:
            assert attached["error"]["code"] == 90003
        client.publish(channel, {"data": "on from here"})
        assert [message["data"] for message in client.deliveries(channel, 1)] == ["on from here"]


def test_garbage_connection_key_begins_anew_with_a_reason(server):
    with WsClient(server.address, resume="_____!ablyjs_test_fake-key____") as client:
        assert client.connected["error"]["code"] == 80018
        assert client.connected["error"]["statusCode"] == 400


def test_a_closed_connection_cannot_be_resumed(server):
    client = WsClient(server.address)
    client.close()
    with WsClient(server.address, resume=client.connection_key) as again:
        assert again.connection_id != client.connection_id
        assert again.connected["error"]["code"] == 80005


def test_newer_transport_takes_over_while_the_old_looks_alive(server, channel):
    with WsClient(server.address) as old, WsClient(server.address, resume=old.connection_key) as new:
        assert new.connection_id == old.connection_id
        assert "error" not in new.connected
        new.attach(channel)
        new.publish(channel, {"data": "x"})
        assert len(new.deliveries(channel, 1)) == 1
        with pytest.raises(GoneError):
            while True:
                old.receive()


def test_stopping_server_says_so_and_loses_nothing_acknowledged(make_server, channel):
    """Drain: DISCONNECTED with a reason, exit code 0, and the clients go on with the next life."""
    server = make_server()
    with WsClient(server.address) as watcher:
        publishers, subscribers = started(channel, server.address, count=600, pace_seconds=0.001)
        wait_for_acks(publishers, 200)
        server.terminate()
        said = watcher.expect(Action.DISCONNECTED)
        assert 500 <= said["error"]["statusCode"] < 600 and said["error"]["message"]
        with pytest.raises(GoneError):
            watcher.receive()
        watcher.drop()
        assert server.wait() == 0
    server.start()
    report = settle_and_check(server.address, channel, publishers, subscribers)
    assert not report.faults, str(report)
    assert report.acked == report.sent == report.stored == 4 * 600


def test_stalled_reader_delays_nobody_and_then_gets_everything(make_server, make_proxy, channel):
    """Promise 7: it is a cursor, not a queue."""
    server = make_server()
    proxy = make_proxy(server)
    slow = Subscriber("slow", proxy.address, channel)
    quick = Subscriber("quick", server.address, channel, format="msgpack")
    for subscriber in (slow, quick):
        subscriber.start()
        assert subscriber.attached.wait(20)
    proxy.stall()
    before = rss(server.pid)
    count, padding = 2500, "x" * 8000  # 20 MB: more than sockets, proxy and the ring of one channel hold
    publisher = Publisher("p", server.address, channel, count=count, padding=padding, format="msgpack")
    publisher.start()
    wait_until(lambda: quick.received == count or publisher.failure is not None, seconds=40, what="the quick reader")
    assert slow.received < count
    assert rss(server.pid) - before < 150 << 20
    proxy.flow()
    report = settle_and_check(server.address, channel, [publisher], [slow, quick])
    assert not report.faults, str(report)
    assert slow.connections == 1, "it was behind, not thrown out"


def test_second_server_on_the_same_data_is_refused(make_server, channel):
    server = make_server()
    second = Server(server.directory)
    with pytest.raises(RuntimeError, match="did not get ready") as refusal:
        second.start()
    assert "Traceback" not in str(refusal.value)
    with WsClient(server.address) as client:
        client.publish(channel, {"data": "still here"})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_right_after_ready_stops_it_in_order(make_server, number):
    server = make_server()
    assert server.process is not None
    server.process.send_signal(number)
    assert server.wait() == 0


SHORT = "[limits]\nwindow_seconds = 2\nconnection_state_seconds = 1\nmax_idle_interval_ms = 1000\n"


def test_cursor_older_than_the_log_is_told_of_lost_continuity(make_server, channel):
    """Promise 5's other half: never a silent gap. What is past its time is gone from history as well."""
    server = make_server(config=SHORT)
    with WsClient(server.address) as client:
        client.attach(channel)
        client.publish(channel, {"data": "seen"})
        (seen,) = client.deliveries(channel, 1)
        client.publish(channel, {"data": "missed"})
    wait_until(lambda: not history(server.address, channel), what="the end of retention")

    def told() -> bool:
        with WsClient(server.address) as late:
            attached = late.attach(channel, channelSerial=seen["channelSerial"])
            if attached["flags"] & RESUMED:  # longer than promised is no fault, but then nothing may be missing
                assert [message["data"] for message in late.deliveries(channel, 1)] == ["missed"]
                return False
            assert attached["error"]["code"] == 90003
            late.publish(channel, {"data": "live"})
            assert [message["data"] for message in late.deliveries(channel, 1)] == ["live"]
            return True

    wait_until(told, what="the loss of continuity")


def test_connection_lost_beyond_its_state_begins_anew(make_server):
    server = make_server(config=SHORT)
    with WsClient(server.address) as client:
        assert client.connected["connectionDetails"]["connectionStateTtl"] == 1000
    time.sleep(1.5)
    with WsClient(server.address, resume=client.connection_key) as again:
        assert again.connection_id != client.connection_id
        assert again.connected["error"]["code"] == 80005
        assert again.connected["error"]["statusCode"] == 400
