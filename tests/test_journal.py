"""The journal on RocksDB, step by step beside its plain twin, and when the disk fails."""

import errno
import threading
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import JournalCorrupted, JournalUnavailable, NotStorable
from engine.journal import reopening
from engine.journal.buckets import HOUR_MS, Bucket
from engine.journal.entries import after, before
from engine.journal.memory import MemoryJournal
from engine.journal.store import META, RocksStore, StoreError
from tests.journals import MS, WINDOW_MS, block, floor, journal_at, read_all, serials
from tests.models.journal import JournalModel, page


def append(journal, blocks, *, synced, halves):
    """At once, or begun and ended."""
    if not halves:
        journal.append(blocks, synced=synced)
        return
    head = journal.head()
    assert not journal.ended
    if not journal.begin(blocks, synced=synced, wake_fd=-1):
        journal.append(blocks, synced=synced)  # a bucket has to be made
        return
    assert journal.head() == head  # nothing of it is to be seen before it is on the disk
    assert not journal.begin(blocks, synced=synced, wake_fd=-1)
    journal.wait()
    assert journal.ended
    journal.end()


class FaultyStore(RocksStore):
    """RocksDB on a disk that fails on command; ``after`` fails when the disk already has the bytes."""

    fail: str | None = None

    def write(self, rows):
        if self.fail == "write":
            raise StoreError("IO error: No space left on device")
        super().write(rows)

    def sync(self):
        if self.fail == "sync":
            raise StoreError("IO error: Input/output error")
        super().sync()

    def begin_sync(self, wake_fd):
        super().begin_sync(wake_fd)
        self.begun_to_fail = self.fail == "sync"

    def end_sync(self):
        super().end_sync()
        if self.begun_to_fail:
            raise StoreError("IO error: Input/output error")


APPENDS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), min_size=1, max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("append"), APPENDS),
    st.tuples(st.just("clock"), st.sampled_from([1, 500, 20_000, 70_000, 400_000, -30_000, 9 * HOUR_MS])),
    st.tuples(st.sampled_from(["layout", "relayout"]), st.sampled_from(["one", "two"])),
    st.tuples(st.just("maintain"), st.none()),
    st.tuples(st.just("reopen"), st.booleans()),
    st.tuples(st.just("erase"), st.sampled_from("abc")),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=14), data=st.data())
def test_it_holds_what_its_plain_twin_holds(tmp_path_factory, steps, data):
    """Invariant: reads equal the twin's at every step, what was dropped lies at or below the floor, and
    ``continuous`` is never True when an entry after the cursor is gone."""
    path = tmp_path_factory.mktemp("journal")
    opened = {"index_entries": 4, "silent_channels": data.draw(st.sampled_from([1, 2, 100])), "layout": "one"}
    journal, model, now = journal_at(path, **opened), JournalModel(), 10_000_000
    classes = {"a": "w", "b": "w", "c": "p1"}
    try:
        for kind, what in steps:
            if kind == "append":
                blocks, serial = [], max(now * MS, model.head + 1)
                for name, count in dict(what).items():
                    last = model.last_serial(name)
                    numbers = [serial + each * data.draw(st.sampled_from([1, 1, 40_000 * MS])) for each in range(count)]
                    numbers = sorted(set(numbers))
                    blocks.append(block(name, *numbers, previous=last, retention=classes[name], series=journal.series))
                    serial = numbers[-1] + 1
                append(journal, blocks, synced=data.draw(st.booleans()), halves=data.draw(st.booleans()))
                model.append(blocks)
            elif kind == "clock":
                now += what
            elif kind == "maintain":
                journal.maintain(now)
                for retention, dropped in journal._state.meta.floors.items():
                    model.drop_up_to(retention, dropped)
            elif kind in ("reopen", "layout", "relayout"):
                if kind != "reopen":
                    opened["layout"] = what
                    classes["b"] = {"one": "w", "two": "p1"}[what]
                if kind == "relayout":
                    journal.relayout(what)
                else:
                    journal.close()
                    journal = journal_at(path, **opened)
            elif model.after(what, 0):
                gone = data.draw(st.lists(st.sampled_from(serials(model.after(what, 0))), min_size=1, unique=True))
                journal.erase(what, gone)
                model.erase(what, gone)
            assert journal.head() == model.head
            for name, retention in classes.items():
                assert read_all(journal, name) == model.after(name, 0)
                cursor = data.draw(st.sampled_from([0, model.head, *model.given.get(name, [])])) + data.draw(
                    st.sampled_from([-1, 0, 1])
                )
                cursor = max(cursor, 0)
                limit, budget = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 200))
                found = after(journal, name, cursor, limit=limit, budget=budget)
                assert found == page(model.after(name, cursor), limit, budget)
                found = before(journal, name, cursor, limit=limit, budget=budget)
                assert found == page(model.before(name, cursor), limit, budget)
                continuous = journal.continuous(name, retention, cursor)
                if continuous:
                    assert not model.lost_after(name, cursor)
                if cursor >= floor(journal, retention):
                    assert continuous
                last, wanted = journal.last_serial(name), model.last_serial(name)
                assert last >= wanted or (last == 0 and journal.forgotten_floor(retention) >= wanted)
                if now < HOUR_MS * 9 and opened["silent_channels"] > 10 and not model.erased:
                    assert last == wanted  # a day has not passed: nothing is forgotten
                    assert model.after(name, cursor) or continuous == (cursor >= wanted)
    finally:
        journal.close()


def test_entries_are_kept_for_their_retention_and_dropped_soon(tmp_path):
    journal = journal_at(tmp_path, window_ms=WINDOW_MS)
    start = 1_000_000_000_000
    for step in range(60):
        now = start + step * 10_000
        journal.append([block("a", now * MS), block("p", now * MS + 1, retention="p1")], synced=False)
        journal.maintain(now)
        times = [serial >> 16 for serial in serials(read_all(journal, "a"))]
        assert [ms for ms in range(start, now + 1, 10_000) if ms >= now - WINDOW_MS] == [
            ms for ms in times if ms >= now - WINDOW_MS
        ]
        assert times[0] > now - WINDOW_MS - 2 * 30_000
        assert floor(journal, "w") < times[0] * MS
    assert len(read_all(journal, "p")) == 60
    assert len(journal._state.table) <= 10 + 12
    assert floor(journal, "p1") == 0
    journal.close()


def test_cursor_below_the_floor_needs_proof_by_the_chain(tmp_path):
    journal = journal_at(tmp_path, window_ms=WINDOW_MS)
    old, new = 1_000_000 * MS, 2_000_000 * MS
    journal.append([block("chained", old), block("lost", old + 1, old + 2), block("idle", old + 3)], synced=True)
    journal.maintain(2_000_000)
    assert floor(journal, "w") == old + 3
    assert journal.head() == old + 3  # survives its entries
    journal.append([block("chained", new, previous=old), block("lost", new + 1, previous=old + 2)], synced=True)
    assert journal.continuous("chained", "w", old)  # the entry after it names it
    assert not journal.continuous("lost", "w", old + 1)
    assert journal.continuous("lost", "w", old + 2)
    assert not journal.continuous("idle", "w", old)  # nothing held: unknown is no
    assert journal.continuous("idle", "w", old + 3)
    journal.close()
    journal = journal_at(tmp_path, window_ms=WINDOW_MS)
    assert floor(journal, "w") == old + 3
    journal.close()


@pytest.mark.parametrize("live", [False, True], ids=["at an opening", "while it is open"])
def test_a_changed_layout_trusts_only_the_chain(tmp_path, live):
    journal = journal_at(tmp_path, layout="chat=w")
    journal.append([block("a", 5 * MS, retention="w"), block("b", 6 * MS)], synced=True)
    if live:
        journal.relayout("chat=p24")
    else:
        journal.close()
        journal = journal_at(tmp_path, layout="chat=p24")
    assert floor(journal, "p24") == 6 * MS
    assert not journal.continuous("a", "p24", MS)
    assert journal.continuous("a", "p24", 6 * MS)
    journal.append([block("a", 9 * MS, previous=5 * MS, retention="p24")], synced=True)
    assert serials(read_all(journal, "a")) == [5 * MS, 9 * MS]  # merged over both classes
    assert serials(before(journal, "a", 10 * MS, limit=9, budget=999)) == [9 * MS, 5 * MS]
    journal.close()
    journal = journal_at(tmp_path, layout="chat=p24")
    assert floor(journal, "p24") == 6 * MS, "the layout is known, and nothing has to be doubted again"
    journal.close()


def test_the_clock_may_step_back_after_everything_expired(tmp_path):
    journal = journal_at(tmp_path)
    journal.append([block("a", 10_000 * MS)], synced=True)
    journal.maintain(9_000_000)  # a clock that jumped ahead drops the bucket of the head
    dropped = floor(journal, "w")
    journal.append([block("a", 10_000 * MS + 1), block("b", 11_000 * MS)], synced=True)
    assert serials(read_all(journal, "a")) == [10_000 * MS + 1]
    assert dropped == 10_000 * MS
    assert journal.continuous("a", "w", dropped)
    journal.close()


def test_a_page_costs_what_the_page_costs_in_a_channel_of_many(tmp_path):
    reads = []

    class CountingStore(RocksStore):
        def rows(self, family):
            rows = super().rows(family)

            class Counting:
                def __getattr__(self, name):
                    reads.append(name)
                    return getattr(rows, name)

            return Counting()

    journal = journal_at(tmp_path, open_store=CountingStore)
    for start in range(1, 100_001, 500):
        journal.append([block("a", *range(start, start + 500))], synced=False)
    for cursor in (100_001, 50_000, 3):
        reads.clear()
        assert serials(before(journal, "a", cursor, limit=2, budget=99)) == [cursor - 1, cursor - 2]
        assert reads.count("value") == 1
        assert serials(after(journal, "a", cursor - 3, limit=2, budget=99)) == [cursor - 2, cursor - 1]
        assert reads.count("value") <= 3
    journal.close()


def test_forgetting_an_app_leaves_its_neighbours(tmp_path):
    journal = journal_at(tmp_path)
    names = ["app:a", "app:b", "app2:a", "ap:a"]
    journal.append([block(name, 100 + at) for at, name in enumerate(names)], synced=True)
    journal.forget("app:")
    for reopened in (False, True):
        if reopened:
            journal.close()
            journal = journal_at(tmp_path)
        assert [bool(read_all(journal, name)) for name in names] == [False, False, True, True]
    assert journal.head() == 103
    journal.close()


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("fault", ["write", "sync"])
def test_failed_append_is_unseen_and_settled_by_recovery(tmp_path, fault, halves):
    stores = []

    def open_store(path):
        stores.append(FaultyStore(path))
        return stores[-1]

    journal = journal_at(tmp_path, open_store=open_store)
    journal.append([block("a", 1, 2), block("b", 3)], synced=True)
    stores[-1].fail = fault
    with pytest.raises(JournalUnavailable, match="IO error"):
        append(journal, [block("a", 4, 5, previous=2)], synced=True, halves=halves)
    stores[-1].fail = None
    assert serials(read_all(journal, "a")) == [1, 2]  # readers go on
    with pytest.raises(JournalUnavailable):
        append(journal, [block("a", 6)], synced=True, halves=halves)  # nothing is written before recovery
    assert journal._state.failed is not None
    journal.recover()
    persisted = fault == "sync"
    assert [journal.holds("a", serial) for serial in (1, 2, 3, 4, 5)] == [True, True, False, persisted, persisted]
    if persisted:
        assert journal.head() == 5
        journal.erase("a", [4])
        assert serials(read_all(journal, "a")) == [1, 2, 5]
        journal.erase("a", [5])
    assert serials(read_all(journal, "a")) == [1, 2]
    append(journal, [block("a", 6, previous=2)], synced=True, halves=halves)
    assert serials(read_all(journal, "a")) == [1, 2, 6]
    assert journal._state.failed is None
    journal.close()


def test_failed_reopen_tells_the_reason_and_recovers_later(tmp_path):
    broken, stores = [], []

    def open_store(path):
        if broken:
            raise StoreError("IO error: Input/output error")
        stores.append(FaultyStore(path))
        return stores[-1]

    journal = journal_at(tmp_path, open_store=open_store)
    journal.append([block("a", 1)], synced=True)
    stores[-1].fail = "sync"
    with pytest.raises(JournalUnavailable):
        journal.append([block("a", 2)], synced=True)
    broken.append(True)
    for _ in range(2):
        with pytest.raises(JournalUnavailable, match="check space, permissions"):
            journal.recover()
        with pytest.raises(JournalUnavailable):
            read_all(journal, "a")
    broken.clear()
    journal.recover()
    assert journal.holds("a", 1)
    journal.close()
    with pytest.raises(JournalUnavailable, match="closed"):
        journal.recover()


def test_lack_of_descriptors_is_told_and_recovered_later(tmp_path, monkeypatch):
    stores = []

    def open_store(path):
        stores.append(FaultyStore(path))
        return stores[-1]

    def no_descriptor(path):
        raise OSError(errno.EMFILE, "Too many open files")

    journal = journal_at(tmp_path, open_store=open_store)
    journal.append([block("a", 1)], synced=True)
    stores[-1].fail = "sync"
    with pytest.raises(JournalUnavailable):
        journal.append([block("a", 2)], synced=True)
    with monkeypatch.context() as patch:
        patch.setattr(reopening, "disk_usage", no_descriptor)
        with pytest.raises(JournalUnavailable, match="Too many open files"):
            journal.recover()
        assert serials(read_all(journal, "a"))[:1] == [1], "it is open all the while, and can be read"
    journal.recover()
    assert journal.holds("a", 1)
    journal.close()


def test_damage_is_reported_for_its_channel_alone(tmp_path):
    journal = journal_at(tmp_path)
    journal.append([block("bad", 1), block("good", 2)], synced=True)
    family = next(iter(journal._state.table)).family
    rows = journal._state.store.rows(family)
    rows.seek(b"bad")
    journal._state.store.write([(family, rows.key(), rows.value()[:-1] + b"!")])
    with pytest.raises(JournalCorrupted, match="bad") as report:
        read_all(journal, "bad")
    assert report.value.channel == "bad"
    assert serials(read_all(journal, "good")) == [2]
    journal.close()


def test_a_second_opener_is_told_that_the_directory_is_in_use(tmp_path):
    journal = journal_at(tmp_path)
    with pytest.raises(JournalUnavailable, match="is in use"):
        journal_at(tmp_path)
    journal.append([block("a", 1)], synced=True)
    journal.close()


@pytest.mark.parametrize(
    ("clean", "boot", "same"),
    [
        (True, "boot-1", True),
        (True, "boot-2", True),
        (False, "boot-1", True),
        (False, "boot-2", False),
        (False, "", False),
    ],
)
def test_written_log_forgets_earlier_lives_after_a_power_cut(tmp_path, clean, boot, same):
    journal = journal_at(tmp_path)
    series, written = journal.series, journal.series_for(False)
    assert journal.series_for(True) == series != written
    journal.append([block("a", 10, series=series)], synced=True)
    if clean:
        journal.close()
    else:
        journal._state.store.close()  # what a crash leaves: no mark
    journal = journal_at(tmp_path, boot_id=boot)
    assert journal.series_for(True) == journal.series not in (series, written)
    assert journal.series_for(False) not in (series, written, journal.series)
    assert [journal.lives_for(True).series_of(serial) for serial in (0, 10, 11)] == [series, series, journal.series]
    assert (journal.lives_for(False).series_of(10) == written) == same
    assert journal.lives_for(False).series_of(11) == journal.series_for(False)
    journal.close()


def test_journal_reopened_after_a_failure_keeps_its_life(tmp_path):
    journal = journal_at(tmp_path)
    journal.append([block("a", 10, series=journal.series)], synced=True)
    before = journal.series, journal.series_for(False)
    journal._state.fail("as if")
    journal.recover()
    assert (journal.series, journal.series_for(False)) == before
    assert journal.lives_for(True).series_of(11) == journal.series
    journal.close()


def test_head_rises_to_serials_kept_elsewhere_and_never_falls(tmp_path):
    journal = journal_at(tmp_path)
    journal.append([block("a", 10)], synced=True)
    for serial in (40, 20):
        journal.raise_head(serial)
        assert journal.head() == 40
    assert journal.append([block("a", 40, previous=10)], synced=True).keys() == {"a"}
    journal.append([block("a", 41, previous=10)], synced=True)
    journal.close()
    journal = journal_at(tmp_path)
    assert journal.head() == 41
    assert serials(read_all(journal, "a")) == [10, 41]
    journal.close()


@pytest.mark.parametrize(
    "bad",
    [
        block("a", 5),  # not above the head
        block("a"),
        block("a", 20, previous=20),
        block("a", 30, retention="p0"),
        block("a\0b", 30),
        block("a", 30, series="short"),
    ],
)
def test_unstorable_block_is_refused_and_others_are_stored(tmp_path, bad):
    journal = journal_at(tmp_path)
    journal.append([block("a", 10)], synced=True)
    refused = journal.append([block("b", 40), bad], synced=True)
    assert refused.keys() == {bad.channel}
    assert isinstance(refused[bad.channel], NotStorable)
    assert serials(read_all(journal, "b")) == [40]
    journal.append([block("a", 50, previous=10)], synced=True)
    assert serials(read_all(journal, "a")) == [10, 50]
    journal.close()


def test_readers_beside_appends_and_retention_never_see_a_hole(tmp_path):
    journal = journal_at(tmp_path, window_ms=4_000)
    holes, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            for name in ("a", "b"):
                found = read_all(journal, name)
                holes.extend((name, one, two) for one, two in pairwise(found) if two.previous != one.serial)
                back = before(journal, name, 1 << 63, limit=9, budget=999)
                holes.extend((name, one, two) for one, two in pairwise(back) if one.previous != two.serial)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    last = {"a": 0, "b": 0}
    for step in range(300):
        now = 1_000_000 + step * 100
        blocks = [block("a", now * MS, now * MS + 1, previous=last["a"]), block("b", now * MS + 2, previous=last["b"])]
        last = {"a": now * MS + 1, "b": now * MS + 2}
        journal.append(blocks, synced=step % 10 == 0)
        journal.maintain(now)
    stop.set()
    for reader in readers:
        reader.join()
    assert holes == []
    assert 0 < len(read_all(journal, "a")) <= 100  # of 600: buckets were indeed dropped
    journal.close()


def test_the_channel_index_is_bounded_and_rebuilt_at_open(tmp_path):
    journal = journal_at(tmp_path, index_entries=10)
    names = [f"c{number}" for number in range(30)]
    journal.append([block(name, at + 1) for at, name in enumerate(names)], synced=True)
    assert journal._state.table.indexed <= 10
    assert all(serials(read_all(journal, name)) == [at + 1] for at, name in enumerate(names))
    journal.close()
    journal = journal_at(tmp_path, index_entries=30)
    assert journal._state.table.indexed == 30
    assert all(serials(read_all(journal, name)) == [at + 1] for at, name in enumerate(names))
    journal.close()


def test_a_directory_that_is_no_journal_is_left_alone(tmp_path):
    store = RocksStore(tmp_path)
    store.create(Bucket("w", 0, 30_000).family)
    store.close()
    with pytest.raises(JournalUnavailable, match="damaged and was left untouched"):
        journal_at(tmp_path)
    store = RocksStore(tmp_path)
    store.write([(META, b"format", b"2")])
    store.close()
    with pytest.raises(JournalUnavailable, match="journal format"):
        journal_at(tmp_path)


def test_the_memory_journal_holds_nothing_and_says_so():
    journal = MemoryJournal()
    journal.append([block("a", 1, 2)], synced=True)
    assert (journal.head(), journal.forgotten_floor("w"), journal.last_serial("a")) == (2, 2, 0)
    assert after(journal, "a", 0, limit=9, budget=99) == before(journal, "a", 9, limit=9, budget=99) == []
    assert not journal.continuous("a", "w", 1)
    assert journal.continuous("a", "w", 2)
    assert MemoryJournal().series_for(True) != journal.series_for(True)


def test_entry_of_a_former_class_proves_nothing_after_a_change(tmp_path):
    journal = journal_at(tmp_path, layout="chat=p1")
    journal.append([block("a", 5 * MS, retention="p1")], synced=True)
    journal.close()
    journal = journal_at(tmp_path, layout="chat=w")
    journal.append([block("a", 9 * MS, previous=5 * MS)], synced=True)
    journal.maintain(1_000_000)  # drops the window's 9, not yet the persisted 5
    assert serials(read_all(journal, "a")) == [5 * MS]
    assert not journal.continuous("a", "w", 6 * MS)
    assert journal.continuous("a", "w", 9 * MS)
    journal.close()


def test_read_that_meets_a_dropped_bucket_begins_anew(tmp_path):
    """A page must not skip the dropped bucket and go on: that would be a hole inside of it."""
    drop_at = []

    class DroppingStore(RocksStore):
        def rows(self, family):
            rows = super().rows(family)
            if drop_at and family != META:
                journal.maintain(drop_at.pop())
            return rows

    journal = journal_at(tmp_path, open_store=DroppingStore)
    last = 0
    for second in range(0, 300, 30):
        serial = (second * 1000 + 1) * MS
        journal.append([block("a", serial, previous=last)], synced=False)
        last = serial
    held = serials(read_all(journal, "a"))
    assert len(held) == 10
    drop_at.append(300_000)  # while the first bucket is read, more than it go
    found = read_all(journal, "a")
    assert len(found) == 10 - 6
    assert all(two.previous == one.serial for one, two in pairwise(found))
    assert serials(found) == held[6:]
    journal.close()


def test_what_would_have_to_wait_is_not_begun(tmp_path):
    """A loop begins appends: it must not stand still while a bucket is made, or until another one has been dropped."""
    journal = journal_at(tmp_path)
    with journal._state.building:  # as maintenance has it
        assert not journal.begin([block("a", 1)], synced=True, wake_fd=-1)
    assert not journal.begin([block("a", 1)], synced=True, wake_fd=-1)
    assert read_all(journal, "a") == []
    journal.append([block("a", 1)], synced=True)
    with journal._state.building:
        assert journal.begin([block("a", 2, previous=1)], synced=True, wake_fd=-1)
        journal.end()
    assert serials(read_all(journal, "a")) == [1, 2]
    journal.close()
