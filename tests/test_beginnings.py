"""Where attachments begin, beside a plain model: ring and journal, in slices, many at once, whoever goes away."""

from __future__ import annotations

import itertools

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import limits
from engine.channel import Channel
from engine.errors import JournalCorrupted, JournalUnavailable
from engine.journal import block
from engine.journal.memory import MemoryJournal
from engine.journal.port import Block
from engine.journal.rocks import RocksJournal
from engine.policy import Policy
from ext.disk.countback import Countback, cursor_before, max_messages
from ext.log.dedup import DedupWindow
from ext.log.entry import Entry
from ext.log.ring import EPHEMERAL, Ring
from ext.text.serial import connection_id, last_serial_before
from ext.wire.encoder import encode_record
from server.node import beginnings as room
from server.node.beginnings import Beginnings
from server.realtime.params import Rewind
from tests.models.rewind import begins
from tests.test_sequencer import partition

SERIES = "k3J9s0fA"
OWN = 77
SECOND = 1000 << 16
RETAINED_MS = 3_600_000
_names = itertools.count()


def record(messages=1, origin=0, size=10):
    who = connection_id(origin) if origin else None
    return encode_record("id", who, None, 0, msgpack.packb([{"data": "x" * size}] * messages))


class Bag:
    """Has what it is given, and is itself."""

    def __init__(self, **facts):
        self.__dict__.update(facts)


class Inline:
    """In place of threads: what was handed over is done when it is asked for. ``most``: how many there were at once."""

    most = 0

    def __init__(self, threads, on_done):
        self.jobs = []

    def start(self, work, then):
        self.jobs.append((work, then))
        Inline.most = max(Inline.most, len(self.jobs))

    def take(self):
        jobs, self.jobs = self.jobs, []
        for work, then in jobs:
            try:
                result, error = work(), None
            except Exception as failure:
                result, error = None, failure
            then(result, error)

    def close(self):
        self.take()


@pytest.fixture
def small(monkeypatch):
    """Slices of a few entries, so that short logs take many."""
    monkeypatch.setattr(room, "Readers", Inline)
    monkeypatch.setattr(limits, "COUNT_AT_ONCE", 2)
    monkeypatch.setattr(limits, "COUNT_ENTRIES", 3)
    monkeypatch.setattr(limits, "COUNT_BYTES", 1100)


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    made = RocksJournal(tmp_path_factory.mktemp("beginnings") / "journal")
    yield made
    made.close()


class Log:
    """A channel, what the journal has of it, and the model of both. The time stands still a minute after the begin."""

    def __init__(self, journal, *, ring=8, durability="written"):
        self.journal = journal
        self.home = partition(kept=durability != "memory")
        self.home.journal = journal
        self.channel = Channel("app", f"room{next(_names)}", Policy(durability, "w", RETAINED_MS, SERIES), self.home)
        self.entries = []
        self.heads = [0]
        self.serial = (journal.head() >> 16) + 1 << 16
        self.now_ms = (self.serial >> 16) + 60_000
        window = DedupWindow(bytes(16), 120_000)
        self.channel.wake(window, [], last_stored=0, evicted=0, position=0, bounds=(ring, 1 << 20))

    def publish(self, counts, *, gap=SECOND, ephemeral=False, origin=0, retention="w"):
        """Entries of so many messages each, that are one append."""
        made = []
        self.serial = max(self.serial, self.journal.head())
        for count in counts:
            self.serial += gap
            made.append((self.serial, self.channel.last_stored, record(count, origin)))
            self.entries.append((self.serial, count, ephemeral))
        if not ephemeral and self.channel.policy.durability != "memory":
            self.journal.append([Block(self.channel.key, retention, SERIES, made)], synced=False)
        for serial, _, kept in made:
            self.channel.reveal([Entry(serial, kept, origin, EPHEMERAL if ephemeral else 0, 1)])
            if not ephemeral:
                self.channel.last_stored = serial
            self.heads.append(serial)


class Asked:
    """One attachment that asks, and what it is told."""

    def __init__(self, beginnings, log, client, messages, window_ms):
        self.log = log
        self.client = client
        self.attachment = Bag(channel=log.channel, active=True, hurried=False)
        self.first_head = log.channel.head
        self.told = []
        self.messages = messages
        self.floor = last_serial_before(log.now_ms - min(window_ms or RETAINED_MS, RETAINED_MS))
        self.cut = (window_ms or 0) > RETAINED_MS
        rewind = Rewind(messages, window_ms)
        beginnings.rewound(client, self.attachment, rewind, self._tell)

    def _tell(self, cursor, omit, cut):
        self.told.append((cursor, omit, cut))
        self.evicted = self.log.channel.ring.evicted if self.log.channel.policy.durability == "memory" else 0

    def check(self):
        """It was told once, what is right for one of the heads that there were while it waited."""
        [(cursor, omit, cut)] = self.told
        if not self.attachment.hurried:
            assert cut == self.cut
            heads = [head for head in self.log.heads if head >= self.first_head]
            fitting = [begins(self.log.entries, head, messages=self.messages, floor=self.floor) for head in heads]
            assert not omit or any(serial == cursor + 1 and omit < count for serial, count, _ in self.log.entries)
            assert self.shown(cursor, omit) in [
                self.shown(begin, left_out) if begin >= self.evicted else self.shown(self.evicted)
                for begin, left_out in fitting
            ]

    def shown(self, cursor, omit=0):
        """The messages that a replay hands out from there."""
        entries = [entry for entry in self.log.entries if entry[0] > cursor and not entry[2]]
        return [(serial, index) for serial, count, _ in entries for index in range(count)][omit:]


def settle(beginnings, askers):
    for _ in range(500):
        beginnings.turn()
        if not len(beginnings) and all(asker.told for asker in askers):
            return
    raise AssertionError("it never ends")


def new_client():
    return Bag(open=True)


STEPS = st.one_of(
    st.tuples(
        st.just("publish"),
        st.lists(st.integers(1, 4), min_size=1, max_size=6),
        st.sampled_from([False, False, True]),
        st.sampled_from([0, OWN]),
        st.sampled_from(["w", "w", "p1"]),
    ),
    st.tuples(
        st.just("ask"),
        st.integers(0, 2),
        st.one_of(st.none(), st.integers(1, 40), st.just(999_999_999)),
        st.one_of(st.none(), st.integers(1, 90_000), st.just(2 * RETAINED_MS)),
    ),
    st.tuples(st.sampled_from(["turn", "turn", "leave", "detach", "hurry"]), st.integers(0, 5)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    steps=st.lists(STEPS, max_size=40), durability=st.sampled_from(["written", "memory"]), ring=st.sampled_from([2, 8])
)
def test_every_asker_is_told_once_and_correctly(small, journal, steps, durability, ring):
    """Invariant: the cursor is where the model puts it, for a head of the time in which it was looked for."""
    log = Log(journal, ring=ring, durability=durability)
    beginnings = Beginnings(lambda home, age_ms: log.now_ms - age_ms, lambda: None)
    clients = [new_client() for _ in range(3)]
    asked = []
    for step in steps:
        match step:
            case ["publish", counts, ephemeral, origin, retention]:
                log.publish(counts, ephemeral=ephemeral, origin=origin, retention=retention)
            case ["ask", who, messages, window_ms]:
                if clients[who].open:
                    asked.append(Asked(beginnings, log, clients[who], messages, window_ms))
            case ["turn", _]:
                beginnings.turn()
            case ["leave", who] if who < 3:
                clients[who].open = False
            case ["detach", n] if n < len(asked):
                asked[n].attachment.active = False
            case ["hurry", n] if n < len(asked):
                before = len(asked[n].told)
                beginnings.hurry(asked[n].attachment)
                if asked[n].attachment.hurried and not before:
                    assert asked[n].told == [(log.channel.head, 0, False)]
    staying = [each for each in asked if each.client.open and each.attachment.active]
    settle(beginnings, staying)
    for each in staying:
        each.check()
    assert all(len(each.told) <= 1 for each in asked)
    assert not beginnings._askers
    assert not beginnings._gathering


def test_waiting_rewinds_of_one_channel_share_one_search(small, journal, monkeypatch):
    log = Log(journal)
    for _ in range(40):
        log.publish([1, 2, 1])
    beginnings = Beginnings(lambda home, age_ms: log.now_ms - age_ms, lambda: None)
    asked = [Asked(beginnings, log, new_client(), messages, None) for messages in (100, 9, 999_999_999, 30, 31, 100)]
    assert not any(each.told for each in asked)
    assert len(beginnings) == 1
    settle(beginnings, asked)
    for each in asked:
        each.check()


def test_deep_searches_do_not_delay_a_short_one(small, journal, monkeypatch):
    """Clients take turns: the one with a hundred deep searches, and another with a short one behind them."""
    deep = [Log(journal) for _ in range(30)]
    short = Log(journal)
    for log in [*deep, short]:
        for _ in range(30):
            log.publish([1], gap=1)
    Inline.most = 0
    beginnings = Beginnings(lambda home, age_ms: deep[0].now_ms - age_ms, lambda: None)
    greedy, modest = new_client(), new_client()
    wanted = [Asked(beginnings, log, greedy, 999_999_999, None) for log in deep]
    other = Asked(beginnings, short, modest, 20, None)
    for _ in range(12):
        beginnings.turn()
    assert other.told
    assert sum(bool(each.told) for each in wanted) < 10
    settle(beginnings, wanted)
    assert Inline.most <= limits.COUNTS_AT_ONCE


def test_a_search_that_nobody_waits_for_any_more_ends(small, journal):
    log = Log(journal)
    for _ in range(100):
        log.publish([1])
    beginnings = Beginnings(lambda home, age_ms: log.now_ms - age_ms, lambda: None)
    client, other = new_client(), new_client()
    asked = [Asked(beginnings, log, each, 999_999_999, None) for each in (client, other)]
    for _ in range(5):
        beginnings.turn()
    client.open = False
    asked[1].attachment.active = False
    beginnings.turn()
    beginnings.turn()
    assert len(beginnings) == 0
    assert beginnings._threads.jobs == []
    assert not beginnings._askers
    assert asked[0].told == asked[1].told == []


def test_first_asker_may_leave_and_the_others_are_told(small, journal):
    log = Log(journal)
    log.publish([1] * 100, gap=1)
    beginnings = Beginnings(lambda home, age_ms: log.now_ms - age_ms, lambda: None)
    first, second = new_client(), new_client()
    Asked(beginnings, log, first, 90, None)
    staying = Asked(beginnings, log, second, 95, None)
    beginnings.turn()
    first.open = False
    settle(beginnings, [staying])
    staying.check()


class Failing:
    """A journal that fails so often, and then does what the other one does."""

    def __init__(self, journal, error, times):
        self._journal, self._error, self._times = journal, error, times

    def feed_back(self, *asked):
        self._fail()
        return self._journal.feed_back(*asked)

    def continuous(self, *asked):
        self._fail()
        return self._journal.continuous(*asked)

    def _fail(self):
        if self._times:
            self._times -= 1
            raise self._error


def test_unavailable_journal_only_delays_a_rewind(small, journal, monkeypatch):
    log = Log(journal)
    log.publish([1] * 100, gap=1)
    monkeypatch.setattr(room, "RETRY_SECONDS", 0.0)
    log.home.journal = Failing(journal, JournalUnavailable("it is being reopened"), 3)
    beginnings = Beginnings(lambda home, age_ms: log.now_ms - age_ms, lambda: None)
    asked = Asked(beginnings, log, new_client(), 60, None)
    settle(beginnings, [asked])
    asked.check()


def test_entry_gone_when_told_skips_nothing_of_the_next(small, journal):
    log, told = Log(journal, ring=2, durability="memory"), []
    log.publish([3, 3, 3], gap=1)
    attachment = Bag(channel=log.channel)
    asker = room.PendingRewind(new_client(), attachment, 8, 0, False, lambda *found: told.append(found))
    first, second, _ = (serial for serial, *_ in log.entries)
    for cursor in (first - 1, second - 1):
        asker.tell(cursor, 1, lambda home, age_ms: 0)
    assert first == log.channel.ring.evicted == second - 1
    assert told == [(first, 0, False), (first, 1, False)]


def test_damage_is_where_a_rewind_begins_and_it_is_told_so(small, journal):
    log = Log(journal)
    log.publish([1] * 100, gap=1)
    log.home.journal = Failing(journal, JournalCorrupted("room", "flipped"), 99)
    beginnings = Beginnings(lambda home, age_ms: log.now_ms - age_ms, lambda: None)
    asked = Asked(beginnings, log, new_client(), 60, None)
    settle(beginnings, [asked])
    assert asked.told == [(log.channel.ring.evicted, 0, True)]


@pytest.mark.parametrize("error", [JournalCorrupted("room", "flipped"), RuntimeError("a bug")], ids=str)
def test_unsearchable_cursor_is_not_reported_as_held(small, journal, error):
    log = Log(journal)
    told, ended = [], []
    client = Bag(open=True, disconnect=ended.append)
    log.home.journal = Failing(journal, error, 1)
    beginnings = Beginnings(lambda home, age_ms: log.now_ms - age_ms, lambda: None)
    attachment = Bag(channel=log.channel, active=True)
    beginnings.locate(client, attachment, 5, told.append)
    for _ in range(3):
        beginnings.turn()
    assert told == ([False] if isinstance(error, JournalCorrupted) else [])
    assert len(ended) == 1 - len(told)


# counting


@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    cuts=st.sets(st.integers(1, 29)),
    aims=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    budget=st.integers(0, 3000),
)
def test_a_count_over_blocks_is_one_over_their_entries(counts, cuts, aims, budget):
    entries = [(n, n - 1, record(count)) for n, count in enumerate(counts, 1)]
    ends = [0, *sorted(cut for cut in cuts if cut < len(entries)), len(entries)]
    parts = [entries[a:b] for a, b in itertools.pairwise(ends)]
    rows = [row for part in parts for row in block.encode("app:room", SERIES, part, 0)]
    head = len(entries)
    count = Countback(head)
    log = [(serial, counts[serial - 1], False) for serial, _, _ in entries]
    for aim in sorted(aims):
        count.aim(aim, 0)
        while not count.stopped and count.cursor:
            count.budget(budget)
            rest = [row for row in rows if int.from_bytes(row[0][-8:], "big") <= count.cursor]
            before = count.cursor
            all(count.take_block(*row) for row in reversed(rest))
            assert count.cursor < before
        cursor, omit = begins(log, head, messages=aim, floor=0)
        assert (count.cursor, max(0, count.messages - aim)) == (cursor, omit)


def test_slice_ends_with_its_budget_after_at_least_one_block():
    rows = [block.encode("app:room", SERIES, [(n, n - 1, record(size=3000))], 0)[0] for n in range(1, 10)]
    count = Countback(9)
    count.aim(100, 0)
    for budget, expected in ((0, 1), (7000, 3), (1 << 20, 5)):
        count.budget(budget)
        gone = 0
        for row in reversed(rows[: count.cursor]):
            gone += 1
            if not count.take_block(*row):
                break
        assert gone == expected


@given(data=st.data())
def test_a_flipped_bit_is_never_counted(data):
    [(key, value)] = block.encode("app:room", SERIES, [(1, 0, record()), (2, 1, record())], 0)
    at = data.draw(st.integers(0, 8 * len(value) - 1))
    damaged = bytearray(value)
    damaged[at // 8] ^= 1 << at % 8
    count = Countback(9)
    count.aim(9, 0)
    with pytest.raises(ValueError, match=r"checksum|version"):
        count.take_block(key, bytes(damaged))
    assert (count.cursor, count.messages) == (9, 0)


def test_what_is_no_record_is_refused():
    [(key, value)] = block.encode("app:room", SERIES, [(1, 0, b"\x95junk")], 0)
    with pytest.raises(ValueError, match="malformed"):
        Countback(9).take_block(key, value)


def test_a_ring_is_asked_by_bisection_where_all_of_it_is_wanted():
    ring = Ring(8, 1 << 20, 0, SERIES)
    assert (cursor_before(ring, 0), max_messages(ring)) == (None, 0)
    for n in range(1, 11):
        ring.append(n * 10, record(), 100, 0, EPHEMERAL if n in (5, 10) else 0)
    assert [cursor_before(ring, floor) for floor in (0, 35, 40, 90, 99, 100)] == [29, 39, 59, None, None, None]
    assert max_messages(ring) == 8000


def test_a_journal_that_holds_nothing_has_nothing_to_count():
    assert MemoryJournal().feed_back("app:room", Countback(9)) is False
