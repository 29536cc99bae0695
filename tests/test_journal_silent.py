"""Channels that fell silent: what the journal still knows of them once all that they said is gone."""

import pytest

from engine.errors import JournalUnavailable
from engine.journal.buckets import HOUR_MS
from engine.journal.store import META, RocksStore, StoreError
from tests.journals import MS, block, floor, journal_at, read_all, serials


def test_silent_channel_is_continuous_after_a_restart(tmp_path):
    """Nothing came after its last entry, so a cursor there is as good as ever; one before it is not."""
    journal = journal_at(tmp_path)
    series, day = journal.series, 24 * HOUR_MS
    start = 1_000_000_000_000
    last, other = start * MS + 7, (start + 1) * MS
    journal.append([block("a", start * MS, last, series=series), block("other", other, series=series)], synced=True)
    journal.append([block("other", (start + 500_000) * MS, previous=other, series=series)], synced=True)
    for now in (start + 500_000, start + HOUR_MS, start + day - HOUR_MS):
        journal.maintain(now)
        journal.close()
        journal = journal_at(tmp_path)
        assert read_all(journal, "a") == []
        assert floor(journal, "w") > last
        assert journal.continuous("a", "w", last)
        assert not journal.continuous("a", "w", last - 1)
        assert journal.last_serial("a") == last
        assert journal.last_serial("never") == 0
        assert journal.forgotten_floor("w") == 0
        assert journal.continuous("never", "w", 5)
    journal.maintain(start + 2 * day)
    assert journal.last_serial("a") == 0  # after a day it is forgotten, and known to be
    assert last <= journal.forgotten_floor("w") <= floor(journal, "w")
    assert not journal.continuous("a", "w", last)
    assert journal._state.store.families() == []
    journal.close()


def test_only_the_newest_of_silent_channels_is_remembered(tmp_path):
    journal = journal_at(tmp_path)
    previous, given = {"busy": 0, "slow": 0}, {}
    for second in range(0, 1200, 20):
        now = 1_000_000_000 + second * 1000
        for name in ("busy", "slow") if second % 400 == 0 else ("busy",):
            serial = journal.head() + 1 if journal.head() >= now * MS else now * MS
            journal.append([block(name, serial, previous=previous[name], series=journal.series)], synced=False)
            previous[name] = given[name] = serial
        journal.maintain(now)
        assert {name: journal.last_serial(name) for name in given} == given
    assert journal._state.silent.find(journal._state.store, "busy") is None
    assert [family.count for family in journal._state.silent.families] == [1]
    journal.close()


def test_forgetting_an_app_forgets_who_fell_silent_in_it(tmp_path):
    journal = journal_at(tmp_path)
    names = ["app:a", "app2:a"]
    journal.append([block(name, at, series=journal.series) for at, name in enumerate(names, 100)], synced=True)
    journal.maintain(1_000_000)
    assert [journal.last_serial(name) for name in names] == [100, 101]
    journal.forget("app:")
    for reopened in (False, True):
        if reopened:
            journal.close()
            journal = journal_at(tmp_path)
        assert [journal.last_serial(name) for name in names] == [0, 101]
    journal.close()


def test_silent_channels_are_bounded_and_the_oldest_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.journal.silent.CHUNK", 3)
    journal = journal_at(tmp_path, silent_channels=40, index_entries=10)
    given = {}
    for burst in range(12):
        now = 1_000_000_000 + burst * 300_000
        names = [f"c{burst}-{number}" for number in range(9)]
        for at, name in enumerate(names):
            given[name] = now * MS + at
        journal.append([block(name, given[name], series=journal.series) for name in names], synced=False)
        journal.maintain(now)
        assert sum(family.count for family in journal._state.silent.families) <= 40
        assert len(journal._state.silent.families) <= 6
        forgotten = journal.forgotten_floor("w")
        for name, serial in given.items():
            assert journal.last_serial(name) in (0, serial)
            assert journal.last_serial(name) == serial or serial <= forgotten
    remembered = [name for name in given if journal.last_serial(name)]
    assert remembered == list(given)[-len(remembered) :]
    assert len(remembered) > 25
    journal.close()


def test_bucket_with_unknown_channels_makes_all_forgotten(tmp_path, monkeypatch):
    journal = journal_at(tmp_path)
    journal.append([block("a", 1_000 * MS, series=journal.series)], synced=True)
    journal.maintain(200_000)
    journal.append([block("a", 300_000 * MS, previous=1_000 * MS, series=journal.series)], synced=True)
    assert journal._state.silent.find(journal._state.store, "a") == (1_000 * MS, journal.series)
    next(iter(journal._state.table)).channels = None
    monkeypatch.setattr("engine.journal.silent.channels_of", lambda *_: None)
    journal.maintain(600_000)
    assert journal.last_serial("a") == 0  # what was remembered is not its newest any more
    assert journal.forgotten_floor("w") == 300_000 * MS
    assert not journal.continuous("a", "w", 1_000 * MS)
    journal.close()


def test_unreadable_dropped_block_counts_as_later(tmp_path):
    journal = journal_at(tmp_path)
    blocks = [block(name, at, series=journal.series) for at, name in enumerate(("a", "bad"), 1)]
    journal.append([*blocks, block("z", 9 * MS, series=journal.series)], synced=True)
    family = next(iter(journal._state.table)).family
    rows = journal._state.store.rows(family)
    rows.seek(b"bad")
    journal._state.store.write([(family, rows.key(), rows.value()[:-1] + b"!")])
    journal.maintain(1_000_000)
    assert journal.last_serial("a") == 1
    assert journal.last_serial("bad") == journal.head() == 9 * MS
    assert not journal.continuous("bad", "w", 2)
    journal.append([block("bad", 10 * MS, previous=9 * MS)], synced=True)
    journal.close()


@pytest.mark.parametrize("step", range(8))
def test_crash_during_a_drop_keeps_silent_channels_known(tmp_path, monkeypatch, step):
    """Each write, sync, creation and drop in turn is the last that the disk does."""
    monkeypatch.setattr("engine.journal.silent.CHUNK", 2)
    done, limit = [], []

    class DyingStore(RocksStore):
        def _step(self):
            if limit and len(done) >= limit[0]:
                raise StoreError("IO error: the machine is gone")
            done.append(1)

        def write(self, rows):
            self._step()
            super().write(rows)

        def sync(self):
            self._step()
            super().sync()

        def create(self, family):
            self._step()
            super().create(family)

        def drop(self, family):
            self._step()
            super().drop(family)

    journal = journal_at(tmp_path, open_store=DyingStore)
    names = [f"c{number}" for number in range(5)]
    journal.append([block(name, at, series=journal.series) for at, name in enumerate(names, 1)], synced=True)
    done.clear()
    limit.append(step)
    with pytest.raises(JournalUnavailable):
        journal.maintain(1_000_000)
    assert len(done) == step  # of eight, and the drop is the last of them
    journal._state.store.close()
    journal = journal_at(tmp_path)
    for now in (1_000_000, 1_000_001):
        assert [journal.last_serial(name) for name in names] == [1, 2, 3, 4, 5]
        assert all(journal.continuous(name, "w", at) for at, name in enumerate(names, 1))
        journal.maintain(now)
    assert all(not journal.continuous(name, "w", at - 1) for at, name in enumerate(names, 1))
    journal.close()


def test_silent_channel_of_a_new_life_proves_nothing(tmp_path):
    journal = journal_at(tmp_path)
    written, synced = journal.series_for(False), journal.series
    journal.append([block("w", 1, series=written), block("s", 2, series=synced), block("z", 3)], synced=False)
    journal.maintain(1_000_000)
    assert journal.continuous("w", "w", 1)
    journal._state.store.close()  # the machine dies
    journal = journal_at(tmp_path, boot_id="boot-2")
    assert not journal.continuous("w", "w", 1)  # entries after it, acknowledged, may be gone
    assert journal.continuous("s", "w", 2)
    assert [journal.last_serial(name) for name in "ws"] == [1, 2]
    journal.close()


def test_taken_back_entry_leaves_the_channel_remembered(tmp_path):
    """The older bucket was dropped without a word, for the younger one had the channel too."""
    journal = journal_at(tmp_path)
    old, young = 1_000 * MS, 100_000 * MS
    journal.append([block("a", old, series=journal.series), block("b", old + 1, series=journal.series)], synced=True)
    journal.append([block("a", young, previous=old, series=journal.series)], synced=True)
    journal.maintain(151_000)
    assert serials(read_all(journal, "a")) == [young]
    journal.erase("a", [young])
    for _ in range(2):
        assert journal.last_serial("a") == old
        assert not journal.continuous("a", "w", old - 1)
        journal.close()
        journal = journal_at(tmp_path)
    journal.close()


def test_older_journal_claims_nothing_about_silent_channels(tmp_path):
    journal = journal_at(tmp_path)
    journal.append([block("a", 7 * MS)], synced=True)
    journal.maintain(1_000_000)
    silent = [family for family in journal._state.store.families() if family.startswith("silent-")]
    for family in silent:
        journal._state.store.drop(family)
    journal._state.store.write([(META, b"forgotten", None)])
    journal._state.store.close()
    journal = journal_at(tmp_path)
    assert silent
    assert journal.forgotten_floor("w") == floor(journal, "w") == 7 * MS
    assert not journal.continuous("a", "w", 6 * MS)
    journal.close()


def test_entry_taken_back_before_the_drop_is_not_relied_on(tmp_path):
    journal = journal_at(tmp_path)
    old, young = 1_000 * MS, 100_000 * MS
    journal.append([block("a", old, series=journal.series)], synced=True)
    journal.append([block("a", young, series=journal.series)], synced=True)
    journal.erase("a", [young])  # the index of its bucket still has the channel
    journal.maintain(151_000)
    journal.maintain(1_000_000)
    assert old <= journal.last_serial("a") < young
    assert not journal.continuous("a", "w", old - 1)
    journal.close()


def test_channel_of_two_classes_has_the_newest_serial_of_both(tmp_path):
    journal = journal_at(tmp_path, layout="chat=p1")
    journal.append([block("a", 5_000 * MS, retention="p1", series=journal.series)], synced=True)
    journal.close()
    journal = journal_at(tmp_path, layout="chat=w")
    journal.append([block("a", 9_000 * MS, previous=5_000 * MS, series=journal.series)], synced=True)
    for now in (1_000_000, 2 * HOUR_MS):  # the window's newer entry is dropped first
        journal.maintain(now)
        assert journal.last_serial("a") == 9_000 * MS
    assert read_all(journal, "a") == []
    assert len(journal._state.silent.families) == 1
    journal.close()


def test_former_class_entry_does_not_outlive_forgotten_ones(tmp_path):
    journal = journal_at(tmp_path, layout="chat=p72")
    journal.append([block("a", 5_000 * MS, retention="p72", series=journal.series)], synced=True)
    journal.close()
    journal = journal_at(tmp_path, layout="chat=w")
    journal.append([block("a", 9_000 * MS, previous=5_000 * MS, series=journal.series)], synced=True)
    journal.append([block("b", 1_000_000 * MS, series=journal.series)], synced=True)
    journal.maintain(500_000)
    journal._state.meta.base = journal.head() - 1  # as if the layout had changed again since
    assert journal.last_serial("a") == 9_000 * MS
    journal.maintain(40 * HOUR_MS)
    assert serials(read_all(journal, "a")) == [5_000 * MS]
    assert journal.last_serial("a") >= 9_000 * MS
    assert not journal.continuous("a", "w", 6_000 * MS)
    journal.close()
