"""Sixty-four publishes of 128 bytes from the receive buffer to the log and their ACK, the journal left out."""

from __future__ import annotations

import itertools
import json

import msgpack
import pytest

from bench.baselines_ingest import PlainPath
from engine.channel import Channel
from engine.journal.memory import MemoryJournal
from engine.logclock import LogClock
from engine.partition import Partition
from engine.policy import Policy
from engine.timeline import Timeline
from engine.variant import Variant
from ext.log.author import Author
from ext.log.common import Common
from ext.log.dedup import DedupWindow
from ext.log.rate import Rate
from ext.log.terms import Terms
from ext.net.ingest import Ingest
from ext.text.serial import SerialClock
from ext.wire.acks import AckQueue

COUNT = 64
CONNECTION = "AAAAAAAAAB"
T0 = 1_700_000_000_000
DATA = "0123456789abcdef" * 8


def channel() -> Channel:
    clock = LogClock(Timeline(), SerialClock(), step_ms=1_000)
    partition = Partition(MemoryJournal(), clock, Common(1 << 30), kept=True)
    made = Channel("app", "room", Policy("synced", "w", 120_000, "series00"), partition)
    bounds = (1 << 12, 1 << 20)
    made.wake(DedupWindow(bytes(16)), [], last_stored=0, evicted=0, position=0, bounds=bounds)
    made.stream(Variant(0, "room"))
    return made


def payloads(binary: bool, numbers: itertools.count) -> list[bytes]:
    made = []
    for _ in range(COUNT):
        message = {
            "action": 15,
            "channel": "room",
            "msgSerial": next(numbers),
            "messages": [{"name": "n", "data": DATA}],
        }
        made.append(msgpack.packb(message) if binary else json.dumps(message, separators=(",", ":")).encode())
    return made


class Compiled:
    def __init__(self) -> None:
        self.channel = channel()
        self.sequencer = self.channel.partition.sequencer
        self.sequencer.common.now_ms = T0
        self.acks = AckQueue(0, [])
        self.sequencer.common.max_staged = 1 << 27
        self.acks.max_bytes = 1 << 22
        terms = Terms(None, Rate(0, 0), Rate(0, 0), max_bytes=1 << 16, max_messages=1000)
        self.ingest = Ingest(self.sequencer.common, self.acks, Author(CONNECTION, None), terms)
        self.ingest.grant("room", self.channel)

    def work(self, messages: list[bytes], binary: bool) -> bytes:
        for payload in messages:
            self.ingest.offer(payload, binary)
        batch = self.sequencer.take()
        self.sequencer.commit(batch)
        return self.acks.take()[0]


class Plain:
    def __init__(self) -> None:
        self.channel = channel()
        self.path = PlainPath(self.channel, CONNECTION)
        self.path.now_ms = T0

    def work(self, messages: list[bytes], binary: bool) -> bytes:
        for payload in messages:
            self.path.offer(payload, binary)
        self.path.commit()
        return self.path.acknowledge()


@pytest.mark.benchmark(group="ingest: 64 plain publishes, from payloads to their ACK")
@pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize("path", [Compiled, Plain], ids=["compiled", "plain"])
def test_bench_ingest(benchmark, path, binary):
    numbers = itertools.count()
    tested = path()
    answers = []

    def setup():
        return (payloads(binary, numbers), binary), {}

    benchmark.pedantic(lambda *args: answers.append(tested.work(*args)), setup=setup, rounds=300)
    last = json.loads(answers[-1])
    assert last["count"] == COUNT
    assert len(tested.channel.ring) == min(next(numbers), 4096)
    assert tested.channel.stream(Variant(0, "room")).head > 0
