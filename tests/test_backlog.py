"""A resume over a backlog that is in memory: in order whatever it takes to send it, and a cut within it loses nothing.

the stream   has a reader already, and holds frames from some way back on
the ring     holds more than that, and more than one batch of a replay (192 KiB)
who resumes  gets batches made of the ring's entries, then the stream: one behind the other on its connection"""

from __future__ import annotations

import pytest

from tests.certificates import authority
from tests.checker import Attached, Delivered, Outcome, PublisherLog, Sent, SubscriberLog, check
from tests.harness import history
from tests.returning import marks_of
from tests.wsclient import ATTACH_RESUME, RESUMED, Action, WsClient

COUNT, FIRST_READ = 1200, 400  # of 1 kB: twice a batch before anybody follows the stream, four of them behind


@pytest.fixture(params=["plain", "tls"])
def way(request, make_server):
    """A server, and what a client of it needs beside its address."""
    tls = authority() if request.param == "tls" else None
    server = make_server(arguments=tls.arguments if tls else ())
    return server, {"tls": tls.client} if tls else {}


def filled(server, options, channel):
    """The publisher's log, the position before all of it, and a client who follows the stream from FIRST_READ on."""
    publisher = WsClient(server.address, **options)
    begin = publisher.attach(channel, params={"modes": "publish"})["channelSerial"]
    follower = WsClient(server.address, **options)
    sent = publish(publisher, channel, range(FIRST_READ))
    follower.attach(channel)
    sent += publish(publisher, channel, range(FIRST_READ, COUNT))
    publisher.drop()
    return PublisherLog("publisher", sent), begin, follower


def publish(publisher, channel, numbers):
    """Each a publish of its own, all acknowledged."""
    marks = [f"{number:06d}" for number in numbers]
    for mark in marks:
        publisher.send_messages(channel, [{"name": mark, "data": mark + "." * 1000}])
    serials = []
    while len(serials) < len(marks):
        answer = publisher.expect(Action.ACK, Action.NACK)
        assert answer["action"] == Action.ACK, answer
        serials += [serial for result in answer["res"] for serial in result["serials"]]
    return [Sent(mark, Outcome.ACKED, serial) for mark, serial in zip(marks, serials, strict=True)]


def read(client, channel, events, count):
    """Up to so many messages into ``events``; the channelSerial that came with the last one."""
    position = None
    for member in client.deliveries(channel, count):
        events.append(Delivered(member["name"], member["serial"], member["channelSerial"]))
        position = member["channelSerial"]
    return position


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("receive_buffer", [0, 4096], ids=["fast", "slow"])
def test_backlog_comes_in_order_and_a_cut_loses_nothing(way, format, receive_buffer):
    server, options = way
    options = options | {"format": format}
    log, begin, follower = filled(server, options, "room")
    events, position = [], begin
    for cut_after in (100, 87, 187, 1, COUNT):  # a cut is where the reader stops reading: more is on its way
        reader = WsClient(server.address, receive_buffer=receive_buffer, **options)
        attached = reader.attach("room", channelSerial=position)
        assert attached["flags"] & RESUMED
        events.append(Attached(True, attached["channelSerial"]))
        left = COUNT - sum(isinstance(event, Delivered) for event in events)
        position = read(reader, "room", events, min(cut_after, left))
        reader.drop()
    follower.drop()
    stored = marks_of(history(server.address, "room", tls=options.get("tls")))
    report = check([log], [SubscriberLog("resumed", events)], stored)
    assert not report.faults, str(report)


def names(members):
    return [int(member["name"]) for member in members]


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_attach_during_a_replay_continues_after_the_delivered(way, format):
    """The second ATTACHED stands behind all that was handed over for the first, and its position says where."""
    server, options = way
    _, begin, follower = filled(server, options, "room")
    with WsClient(server.address, receive_buffer=4096, format=format, **options) as reader:
        reader.attach("room", channelSerial=begin)
        got = names(reader.deliveries("room", 50))
        for _ in range(3):
            reader.send({"action": Action.ATTACH, "channel": "room", "flags": ATTACH_RESUME})
        seen = 0
        while len(got) < COUNT:
            message = reader.receive()
            if message["action"] == Action.ATTACHED:
                seen += 1
                assert message["flags"] & RESUMED
            elif message["action"] == Action.MESSAGE:
                got += names(reader.members(message))
        assert got == list(range(COUNT))
        while seen < 3:
            assert reader.expect(Action.ATTACHED)["flags"] & RESUMED
            seen += 1
    follower.drop()


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_detach_during_a_replay_ends_delivery(way, format):
    server, options = way
    _, begin, follower = filled(server, options, "room")
    with WsClient(server.address, receive_buffer=4096, format=format, **options) as reader:
        reader.attach("room", channelSerial=begin)
        got = names(reader.deliveries("room", 50))
        reader.send({"action": Action.DETACH, "channel": "room"})
        while (message := reader.receive())["action"] != Action.DETACHED:
            got += names(reader.members(message))
        assert got == list(range(len(got)))
        publisher = WsClient(server.address, **options)
        publish(publisher, "room", range(COUNT, COUNT + 10))
        reader.send({"action": Action.HEARTBEAT, "id": "last"})
        assert reader.receive() == {"action": Action.HEARTBEAT, "id": "last"}
        publisher.drop()
    follower.drop()


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_backlogs_of_many_channels_come_in_order_with_live(way, format):
    """One queue, one chain of batches, several streams; and publishes that go on meanwhile, on the same connection."""
    server, options = way
    channels = ["a", "b", "c"]
    begins, followers = {}, []
    for channel in channels:
        _, begins[channel], follower = filled(server, options, channel)
        followers.append(follower)
    with (
        WsClient(server.address, **options) as publisher,
        WsClient(server.address, receive_buffer=4096, format=format, **options) as reader,
    ):
        for channel in channels:
            reader.send({"action": Action.ATTACH, "channel": channel, "channelSerial": begins[channel]})
        got = {channel: [] for channel in channels}
        number = COUNT
        while any(len(each) < COUNT + 60 for each in got.values()):
            message = reader.receive()
            if message["action"] == Action.MESSAGE:
                got[message["channel"]] += names(reader.members(message))
            if number < COUNT + 60:
                for channel in channels:
                    publish(publisher, channel, range(number, number + 20))
                number += 20
        assert all(each == list(range(COUNT + 60)) for each in got.values())
    for follower in followers:
        follower.drop()
