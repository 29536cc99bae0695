"""Replay and live meet without a gap and without a repeat: many attachments in the middle of a stream of publishes."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tests.checker import Outcome, PublisherLog, Sent, Stored, check, subscriber_log
from tests.harness import history, rss, unsent
from tests.peer import message
from tests.wsclient import WsClient

ROUNDS = 10_000
RESUMED = 4


class Stream(threading.Thread):
    """Publishes numbers to a channel, a few at a time, until told to stop."""

    def __init__(self, address, channel, *, pace=0.0005, size=0, tls=None):
        super().__init__()
        self.client = WsClient(address, tls=tls)
        self.channel, self.pace, self.size = channel, pace, size
        self.stopping = threading.Event()
        self.count = 0

    def run(self):
        with self.client:
            while not self.stopping.is_set():
                numbers = [str(n).ljust(self.size, ".") for n in range(self.count, self.count + 3)]
                self.client.pour(self.channel, *numbers)
                self.client.acked(3)
                self.count += 3
                time.sleep(self.pace)

    def stop(self):
        self.stopping.set()
        self.join()


def number(message):
    return int(message["messages"][0]["data"].rstrip("."))


def test_ten_thousand_attaches_under_load_see_no_gap_or_repeat(server, channel):
    """Invariant: what follows ATTACHED is an unbroken run, right after its channelSerial.

    Every other attachment continues from the last serial seen, with messages published in between: together
    are the whole log. The fresh ones begin wherever the head is.
    """
    stream = Stream(server.address, channel)
    stream.start()
    log, place, resumed = [], None, 0  # what the continued attachments saw; their last channelSerial
    serials = {}  # number: channelSerial, by whichever attachment
    begun = []  # (channelSerial of a fresh ATTACHED, the first number after it)
    try:
        with WsClient(server.address) as client:
            for turn in range(ROUNDS):
                fresh = turn % 2 == 0
                attach = {"action": 10, "channel": channel}
                if not fresh and place is not None:
                    attach["channelSerial"] = place
                detach = {"action": 12, "channel": channel}
                at_once = turn % 5 == 0  # the DETACH is there before the ATTACH has been looked at
                client.send(attach, *([detach] if at_once else []))
                attached = client.skip_to(11)
                assert attached["channel"] == channel
                if not fresh:
                    if place is not None:
                        assert attached["flags"] & RESUMED, attached
                        assert attached["channelSerial"] == place
                        resumed += 1
                    place = attached["channelSerial"]
                last = None
                while (heard := client.receive())["action"] != 13:
                    if heard["action"] != 15:
                        continue
                    n = number(heard)
                    assert last is None or n == last + 1, (turn, last, n)
                    if last is None and not at_once:
                        client.send(detach)
                    if last is None and fresh:
                        begun.append((attached["channelSerial"], n))
                    last = n
                    assert serials.setdefault(n, heard["channelSerial"]) == heard["channelSerial"]
                    if not fresh:
                        log.append(n)
                        place = heard["channelSerial"]
    finally:
        stream.stop()
    assert resumed >= ROUNDS // 2 - 1
    assert stream.count > 500
    assert len(log) > 300
    assert log == list(range(log[0], log[0] + len(log)))
    for position, n in begun:
        before = serials.get(n - 1)
        assert before is None or before <= position < serials[n]


def test_rewind_joins_live_without_a_gap_or_a_repeat(server, channel):
    stream = Stream(server.address, channel)
    stream.start()
    try:
        with WsClient(server.address) as client:
            for turn in range(300):
                client.attach(channel, params={"rewind": "20"})
                got = []
                while len(got) < 30:
                    got.append(number(client.skip_to(15)))
                assert got == list(range(got[0], got[0] + 30)), turn
                client.send({"action": 12, "channel": channel})
                client.skip_to(13)
    finally:
        stream.stop()


SIZE, TOTAL, STEP = 10_000, 5_000, 50  # 50 MB


def passed_by(server, channel, *, seconds, stalled):
    """50 MB go to a fast reader, and are there for another one that reads nothing meanwhile, if there is one.

    Returns: by how much the server's memory has grown, and the longest that the fast one waited after an ACK.
    """
    with WsClient(server.address) as fast, WsClient(server.address) as publisher:
        fast.attach(channel)
        begun, before = time.monotonic(), rss(server.pid)
        worst, seen = 0.0, 0
        for start in range(0, TOTAL, STEP):
            publisher.pour(channel, *[str(n).ljust(SIZE, ".") for n in range(start, start + STEP)])
            publisher.acked(STEP)
            acked = time.monotonic()
            while seen < start + STEP:
                assert number(fast.skip_to(15)) == seen
                seen += 1
            worst = max(worst, time.monotonic() - acked)
            time.sleep(max(0, begun + seconds * (start + STEP) / TOTAL - time.monotonic()))
        grown = rss(server.pid) - before
        if stalled is not None:
            heard = [stalled.skip_to(15) for _ in range(TOTAL)]
            assert [number(message) for message in heard] == list(range(TOTAL))
            stored = [Stored(message["data"], message["serial"]) for message in history(server.address, channel)]
            sent = PublisherLog("publisher", [Sent(item.mark, Outcome.ACKED, item.serial) for item in stored])
            report = check([sent], [subscriber_log("stalled", heard)], stored)
            assert not report.faults, str(report)
            assert report.stored == TOTAL
        return grown, worst


@pytest.mark.load
def test_reader_stopped_for_30_s_costs_nothing_and_gets_all(make_server, channel):
    """Promise 7: it takes no memory (measured against one without it), and nobody waits for it."""
    usual, _ = passed_by(make_server(), channel, seconds=0, stalled=None)
    server = make_server()
    with WsClient(server.address, receive_buffer=1 << 18) as slow:
        slow.attach(channel)
        grown, worst = passed_by(server, channel, seconds=30, stalled=slow)
    # A queue would hold 50 MB. What differs otherwise is in how many memtables the journal has its part of them.
    assert grown < usual + (25 << 20), f"{grown >> 20} MiB more, without the stalled reader {usual >> 20}"
    assert worst < 1.0


def test_the_kernel_keeps_little_for_who_does_not_read(server, channel):
    """Promise 7: it would copy megabytes for each, while others wait. What it does not take stays in the log."""
    with WsClient(server.address, receive_buffer=20_000) as slow, WsClient(server.address) as publisher:
        slow.attach(channel)
        for _ in range(20):
            publisher.pour(channel, *["x" * SIZE] * STEP)
            publisher.acked(STEP)
        assert 0 < unsent(server.address, slow.socket.getsockname()) < 1_000_000
        assert sum(len(slow.skip_to(15)["messages"]) for _ in range(20 * STEP)) == 20 * STEP


def test_thousand_publishers_and_readers_agree_on_one_order(server, channel):
    """Promise 4, with 1,000 publishers: each keeps its own order, and all readers see the same."""
    publishers = [WsClient(server.address) for _ in range(1000)]
    readers = [WsClient(server.address, receive_buffer=buffer) for buffer in (0, 0, 1 << 17, 1 << 17)]
    try:
        heard = []
        for reader in readers:
            heard.append([reader.attach(channel)])
        for turn in range(5):
            for n, publisher in enumerate(publishers):
                publisher.pour(channel, f"{n}/{turn}")
        for reader, log in zip(readers, heard, strict=True):
            log += [reader.skip_to(15) for _ in range(5000)]
        sent = [
            PublisherLog(
                str(n),
                [Sent(f"{n}/{turn}", Outcome.ACKED, serial) for turn, serial in enumerate(publisher.acked(5))],
                all_answered=True,
            )
            for n, publisher in enumerate(publishers)
        ]
        stored = [Stored(message["data"], message["serial"]) for message in history(server.address, channel)]
        logs = [subscriber_log(f"reader {n}", log) for n, log in enumerate(heard)]
        report = check(sent, logs, stored)
        assert not report.faults, str(report)
        assert report.stored == 5000
    finally:
        for client in (*publishers, *readers):
            client.socket.close()


def test_client_that_never_reads_replies_is_not_read_for_ever(server, channel):
    """Bound: it can make the server hold what its socket cannot take, up to a limit, and then its own sends wait."""
    with WsClient(server.address, receive_buffer=4096) as rude:
        rude.socket.settimeout(0.5)
        request = b"".join(message({"action": 0, "id": str(n)}) for n in range(20_000))
        with pytest.raises(socket.timeout):
            for _ in range(200):
                rude.socket.sendall(request)
        before = rss(server.pid)
        with WsClient(server.address) as other:
            other.publish(channel, {"data": "still served"})
        assert rss(server.pid) - before < 8 << 20
