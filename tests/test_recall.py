"""A server that begins again: at once, however full the window was; and repeats are known all the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import trio_test

from engine import limits
from engine.auth.authenticator import Authenticator
from engine.auth.keys import Keyring
from engine.auth.revocation import Revocations
from engine.auth.tokens import TokenSeal
from engine.connection import Connections
from engine.errors import JournalUnavailable
from engine.journal.entries import EntriesAfter, EntriesBack, after
from engine.journal.port import Block, Taker
from engine.journal.rocks import RocksJournal
from engine.logclock import LogClock
from engine.sequencer import Asked
from engine.settings import Settings
from ext.disk import block
from ext.disk.recall import Recall
from ext.log.author import Author
from ext.log.dedup import DedupWindow
from ext.text.serial import SerialClock
from ext.wire.encoder import encode_record, record_ids
from ext.wire.publish import Publish
from server.node import recalling
from server.node.clock import Clock
from server.node.node import Node
from tests.test_sequencer import Told

KEY = bytes(range(16))
NOW = 1_700_000_000_000
MS = 1 << 16
WHO = "hZ2kQ9w1Ab"


# ---- the ids of blocks


def record(base: str, ids: list[str], count: int = 1, who: str | None = None) -> bytes:
    messages = [{"id": name, "data": "x", "extras": {"a": [1, {"b": None}]}} for name in ids] or [{"data": "x"}] * count
    return encode_record(base, who, "someone", 0, msgpack.packb(messages))


RECORDS = st.one_of(
    st.builds(lambda n, count: record(f"{WHO}:{n}", [], count, WHO), st.integers(0, 50), st.integers(1, 4)),
    st.builds(lambda n, count: record(f"rest-{n}", [], count), st.integers(0, 9), st.integers(1, 4)),
    st.builds(
        lambda n, count: record("b", [f"für-{n}:{i}" for i in range(count)]), st.integers(0, 9), st.integers(1, 4)
    ),
    st.builds(lambda n: record(f"{WHO}:x", [f"{WHO}:{n}:0"]), st.integers(0, 50)),
)


@given(
    batches=st.lists(st.lists(RECORDS, min_size=1, max_size=5), max_size=8),
    budget=st.integers(1, 900),
    data=st.data(),
)
def test_the_ids_of_an_earlier_life_are_those_of_its_records(
    batches: list[list[bytes]], budget: int, data: st.DataObject
) -> None:
    rows, entries, previous = [], [], 0
    for n, batch in enumerate(batches):
        made = []
        for i, one in enumerate(batch):
            serial = (NOW + n) * MS + i
            made.append((serial, previous, one))
            previous = serial
        entries += made
        rows += block.encode(b"app:room", b"series00", made, 0)
    serials = [serial for serial, _, _ in entries]
    cursor = data.draw(st.sampled_from([0, *serials]))
    until = data.draw(st.sampled_from([0, *serials, NOW * MS * 2]))
    by_hand, window = DedupWindow(KEY), DedupWindow(KEY)
    for serial, _, one in entries:
        if cursor < serial <= until:
            for index, message_id in enumerate(record_ids(one)):
                by_hand.add_or_find(message_id, serial, index, NOW)
    recall = Recall(window, lambda serial: serial >> 16, cursor, until=until)
    goes = 0
    while True:
        recall.begin(budget)
        at = recall.cursor
        for key, value in rows:  # from the cursor on: as the journal does, from the block that may span it
            if int.from_bytes(key[-8:], "big") + MS <= at:
                continue
            if not recall.take_block(key, value):
                break
        goes += 1
        assert goes <= len(rows) + 2
        if not recall.full or recall.cursor >= until:
            break
    assert len(window) == len(by_hand)
    for _, _, one in entries:
        for message_id in record_ids(one):
            assert window.find(message_id) == by_hand.find(message_id)


def test_a_damaged_block_and_a_record_that_is_none_are_told() -> None:
    (row,) = block.encode(b"app:room", b"series00", [(NOW * MS, 0, record("a", []))], 0)
    recall = Recall(DedupWindow(KEY), lambda serial: serial >> 16, 0, until=NOW * MS)
    recall.begin(1000)
    with pytest.raises(ValueError, match="checksum"):
        recall.take_block(row[0], row[1][:-1] + b"?")
    for broken in (
        b"",
        b"\x95",
        b"\x95\xa1a\xc0\xc0\x00\x90",
        b"\x95\xa1a\xc0\xc0\x00\x92\x81\xa2id\xa1a",
        b"\x95\xc0\xc0\xc0\x00\x91\x80",
    ):
        (row,) = block.encode(b"app:room", b"series00", [(NOW * MS, 0, broken)], 0)
        with pytest.raises(ValueError, match="malformed"):
            recall.take_block(*row)
    assert recall.entries == 0


# ---- a whole server


class Watched(RocksJournal):
    """Counts what it gives, and recalls only when it is let."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.given = 0
        self.recalls = 0
        self.may_recall = threading.Event()
        self.failure: JournalUnavailable | None = None

    def feed(self, channel: str, taker: Taker) -> bool:
        if isinstance(taker, Recall):
            assert self.may_recall.wait(20)
            self.recalls += 1
            if self.failure is not None:
                raise self.failure
        return self._counted(taker, super().feed(channel, taker))

    def feed_back(self, channel: str, taker: Taker) -> bool:
        return self._counted(taker, super().feed_back(channel, taker))

    def _counted(self, taker: Taker, more: bool) -> bool:
        if isinstance(taker, EntriesAfter | EntriesBack):
            self.given += len(taker.entries)
        return more


CHANNELS, EACH = 64, 3000


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with a window of an earlier life: EACH messages in each channel, of WHO, one with an id of its own."""
    path = tmp_path_factory.mktemp("filled") / "journal"
    journal, serial = RocksJournal(path), (time.time_ns() // 1_000_000 - 20_000) * MS
    journal.maintain(serial >> 16)
    previous = dict.fromkeys(range(CHANNELS), 0)
    for at in range(0, EACH, 500):
        blocks = []
        for n in range(CHANNELS):
            entries = []
            for number in range(at, at + 500):
                serial += 1
                one = record("own", [f"own-{n}"]) if number == 7 else record(f"{WHO}:{number}", [], 1, WHO)
                entries.append((serial, previous[n], one))
                previous[n] = serial
            blocks.append(Block(f"app:room{n}", "w", journal.series_for(True), entries))
        serial += 100 * MS
        journal.append(blocks, synced=False)
    journal.close()
    return path


def node_with(journal: RocksJournal) -> Node:
    secret, settings = bytes(32), Settings()
    connections = Connections(secret, life=1, earlier={}, ttl_ms=120_000, limit=10)
    authenticator = Authenticator(Keyring([]), TokenSeal(secret))
    return Node(
        settings,
        journal,
        authenticator,
        connections,
        Clock(LogClock(journal.timeline, SerialClock(journal.head()), step_ms=30_000), journal.clock_noted),
        dedup_key=KEY,
        note_alive=lambda now_ms: None,
        revocations=Revocations(),
        namespaces={},
    )


class Asker:
    """Publishes to a node's channels, as connections do."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def publish(
        self, channel: int, base: str, *ids: str, who: str | None = None, data: str = "x", inherited: bool = False
    ) -> Told:
        told, node = Told(), self.node
        node.turn.begin()
        messages = [{"id": name, "data": data, "extras": {"a": [1, {"b": None}]}} for name in ids] or [{"data": data}]
        what = Publish("room", 0, len(messages), 1, tuple(ids) or None, None, msgpack.packb(messages))
        opened = node.hub.open("app", f"room{channel}")
        node.hub.stage(Asked(opened, what, base, Author(who, "someone", inherited=inherited), told))
        node.turn.end()
        return told


async def all_told(*told: Told) -> list[tuple[object, ...]]:
    with trio.fail_after(20):
        while not all(one.outcomes for one in told):  # noqa: ASYNC110 - completions tell it to nobody else
            await trio.sleep(0.002)
    return [one.outcomes[0] for one in told]


@pytest.fixture
def watched(filled: Path) -> Iterator[Watched]:
    journal = Watched(filled)
    yield journal
    journal.may_recall.set()
    journal.close()


@trio_test
async def test_first_ack_of_every_channel_ignores_the_window_size(watched: Watched) -> None:
    node = node_with(watched)
    hub = node.hub
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        ask = Asker(node)
        fresh = [ask.publish(n, "AAAAAAAAAB:0", who="AAAAAAAAAB") for n in range(CHANNELS)]
        over_http = [ask.publish(n, "random-base") for n in range(CHANNELS)]
        outcomes = await all_told(*fresh, *over_http)
        assert {outcome[0] for outcome in outcomes} == {"accepted"}
        assert watched.recalls == 0, "nothing of the window has been read"
        assert watched.given <= CHANNELS * (limits.WAKE_ENTRIES + 2)
        assert watched.given < CHANNELS * EACH // 2

        # What may be a repeat waits, and what is behind it; whoever else comes does not.
        base = f"{WHO}:1"
        repeat = ask.publish(5, base, who=WHO, inherited=True)
        behind = [ask.publish(5, f"{WHO}:{EACH + n}", who=WHO, inherited=True) for n in range(3)]
        own = ask.publish(5, "own", "own-5")
        other = ask.publish(5, "own", "own-5", data="other")
        passing = ask.publish(5, "AAAAAAAAAB:1", who="AAAAAAAAAB")
        (accepted,) = await all_told(passing)
        assert accepted[0] == "accepted"
        assert not any(told.outcomes for told in (repeat, own, other, *behind))
        assert hub.common.pending_bytes > 0 and len(hub.channels["app:room5"].held) == 3
        watched.may_recall.set()
        first, mine, refused, *later = await all_told(repeat, own, other, *behind)
        held = {
            name: stored.serial
            for stored in after(watched, "app:room5", 0, limit=EACH, budget=1 << 30)
            for name in record_ids(stored.record)
        }
        assert first == ("accepted", held[f"{WHO}:1:0"], 0, 1)  # here it has extras, and there too
        assert mine == ("accepted", held["own-5"], 0, 1)
        assert refused == ("refused", 40031)
        serials = [outcome[1] for outcome in later]
        assert serials == sorted(serials) and serials[0] > held[f"{WHO}:{EACH - 1}:0"]
        assert hub.channels["app:room5"].held is None
        assert hub.common.pending_bytes == 0

        with trio.fail_after(20):
            while hub.holding.recalls:  # noqa: ASYNC110 - done by a thread
                await trio.sleep(0.005)
        windows = [(channel.dedup, channel.earlier) for channel in hub.channels.values()]
        assert all(earlier is not None and len(earlier) == EACH for _, earlier in windows)
        assert hub.common.remembered == sum(len(live) + len(earlier or ()) for live, earlier in windows)
        assert sum(earlier.memory for _, earlier in windows if earlier is not None) <= 4 * CHANNELS * EACH
        hub.common.steady_ms += 400_000
        for channel in hub.channels.values():
            hub.common.remembered -= channel.forget(node.now.wall_ms() + 400_000, hub.window_ms, hub.common.steady_ms)
            assert channel.earlier is None
        assert hub.common.remembered == 0
        nursery.cancel_scope.cancel()


@trio_test
async def test_unreadable_ids_are_reported_and_may_be_tried_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a repeat of what is stored: that it is not is nothing that anybody knows."""
    monkeypatch.setattr(limits, "DOUBT_SECONDS", 0.05)
    monkeypatch.setattr(recalling, "RETRY_SECONDS", 0.01)
    node = node_with(watched)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        ask = Asker(node)
        watched.failure = JournalUnavailable("it is on holiday")
        told = [ask.publish(n, f"{WHO}:1", who=WHO, inherited=True) for n in (1, 2)]
        told += [ask.publish(1, "own", "own-1"), ask.publish(1, f"{WHO}:2", who=WHO, inherited=True)]
        watched.may_recall.set()
        outcomes = await all_told(*told)
        assert outcomes == [("unknown", 50003)] * 4
        fresh = ask.publish(1, "AAAAAAAAAB:0", who="AAAAAAAAAB")
        assert (await all_told(fresh))[0][0] == "accepted"
        watched.failure = None
        (again,) = await all_told(ask.publish(1, "own", "own-1"))
        assert again[0] == "accepted" and again[1] < fresh.outcomes[0][1]
        assert node.hub.common.pending_bytes == 0
        nursery.cancel_scope.cancel()
