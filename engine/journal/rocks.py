"""The journal on RocksDB in this process, put together from its rooms.

    opening      open, recover, close            appending   blocks are written, synced, shown
    asking       entries, and is that all?       expiring    retention; buckets made ahead of time
    erasing      entries are taken back          meta        notes, floors, series

What they share, and under which lock, is in ``state.State``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

from engine.journal import asking, erasing, expiring, opening
from engine.journal.appending import Appending
from engine.journal.boot import read_boot_id
from engine.journal.buckets import INDEX_ENTRIES
from engine.journal.failing import Failing
from engine.journal.lives import Lives
from engine.journal.meta import NOTES, notes
from engine.journal.port import Block, Refused, Statistics, Stored, Window
from engine.journal.silent import MOST_CHANNELS
from engine.journal.state import State
from engine.journal.store import META, RocksStore, Store, StoreError
from engine.timeline import Timeline
from ext.countback import Countback
from ext.playback import Playback
from ext.recall import Recall
from ext.wire import EntryEncoder

WINDOW_MS = 120_000


class RocksJournal:
    """See ``engine.journal.port.Journal`` for what each method promises."""

    def __init__(
        self,
        path: Path,
        *,
        window_ms: int = WINDOW_MS,
        layout: str = "",
        index_entries: int = INDEX_ENTRIES,
        silent_channels: int = MOST_CHANNELS,
        open_store: Callable[[Path], Store] = RocksStore,
        boot_id: str | None = None,
    ) -> None:
        """Open or create.

        Args:
            layout: which namespaces have which class, as text; a changed one raises every floor to the head.
            index_entries: how many (bucket, channel) pairs are remembered; beyond them it is looked up.
            silent_channels: how many are remembered beyond their retention.
            open_store, boot_id: what a test replaces.
        Raises: JournalUnavailable, with what RocksDB said and what the operator can do.
        """
        if window_ms < 1:
            raise ValueError(f"the window must be at least 1 ms, got {window_ms}")
        boot_id = read_boot_id() if boot_id is None else boot_id
        self._state = State(path, window_ms, layout, index_entries, silent_channels, open_store, boot_id)
        opening.open_journal(self._state)
        self._appending = Appending(self._state)
        self.failing = Failing()

    @property
    def series(self) -> str:
        return self._state.meta.synced.series

    def lives_for(self, synced: bool) -> Lives:
        return self._state.meta.synced if synced else self._state.meta.written

    def series_for(self, synced: bool) -> str:
        return self.lives_for(synced).series

    def head(self) -> int:
        return self._state.head

    def raise_head(self, serial: int) -> None:
        self._appending.raise_head(serial)

    def relayout(self, layout: str) -> None:
        opening.relayout(self._state, layout)

    @property
    def timeline(self) -> Timeline:
        return self._state.timeline

    @property
    def clock_noted(self) -> bytes | None:
        return self._state.meta.clock

    def append(self, blocks: Sequence[Block], *, synced: bool) -> Refused:
        return self._appending.append(blocks, synced=synced)

    def begin(self, blocks: Sequence[Block], *, synced: bool, wake_fd: int) -> bool:
        return self._appending.begin(blocks, synced=synced, wake_fd=wake_fd)

    @property
    def ended(self) -> bool:
        return self._appending.ended

    def wait(self) -> None:
        self._appending.wait()

    def end(self) -> Refused:
        return self._appending.end()

    def read_after(self, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        with self._watched(channel, cursor):
            return asking.read_after(self._state, channel, cursor, limit=limit, budget=budget)

    def play_after(
        self,
        channel: str,
        cursor: int,
        encoder: EntryEncoder,
        *,
        until: int,
        budget: int,
        skip_origin: int = 0,
        omit: int = 0,
    ) -> Playback:
        with self._watched(channel, cursor):
            return asking.play_after(
                self._state, channel, cursor, encoder, until=until, budget=budget, skip_origin=skip_origin, omit=omit
            )

    def read_before(self, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        with self._watched(channel, cursor, backwards=True):
            return asking.read_before(self._state, channel, cursor, limit=limit, budget=budget)

    def count_back(self, channel: str, countback: Countback) -> bool:
        with self._watched(channel, countback.cursor + 1, backwards=True):
            return asking.count_back(self._state, channel, countback)

    def last(self, channel: str) -> Stored | None:
        with self._watched(channel, self.head() + 1, backwards=True):
            return asking.last(self._state, channel)

    def holds(self, channel: str, serial: int) -> bool:
        with self._watched(channel, serial - 1):
            return asking.holds(self._state, channel, serial)

    def floor(self, retention: str) -> int:
        return asking.floor(self._state, retention)

    def last_serial(self, channel: str) -> int:
        with self._watched(channel, self.head() + 1, backwards=True):
            return asking.last_serial(self._state, channel)

    def forgotten_floor(self, retention: str) -> int:
        return asking.forgotten_floor(self._state, retention)

    def continuous(self, channel: str, retention: str, cursor: int) -> bool:
        with self._watched(channel, cursor):
            return asking.continuous(self._state, channel, retention, cursor)

    def wake(self, channels: Sequence[str], since_ms: int) -> Mapping[str, Window]:
        return asking.wake(self._state, channels, since_ms)

    def recall(self, channel: str, recall: Recall) -> None:
        with self._watched(channel, recall.cursor):
            asking.recall_ids(self._state, channel, recall)

    def _watched(self, channel: str, cursor: int, *, backwards: bool = False) -> AbstractContextManager[None]:
        read = asking.read_before if backwards else asking.read_after
        return self.failing.watched(
            partial(read, self._state, channel, cursor, limit=asking.PAGE_ENTRIES, budget=asking.PAGE_BYTES)
        )

    def forget(self, app_prefix: str) -> None:
        erasing.forget(self._state, app_prefix)

    def erase(self, channel: str, serials: Sequence[int]) -> None:
        erasing.erase(self._state, channel, serials)

    def recover(self) -> None:
        opening.recover(self._state)

    def maintain(self, now_ms: int, noted: bytes = b"") -> None:
        expiring.maintain(self._state, now_ms, noted)
        self._state.note_witness()

    def note(self, rows: Mapping[bytes, bytes], forget: Sequence[tuple[bytes, bytes]] = ()) -> None:
        with self._state.appending:
            store = self._state.writable()
            try:
                for begin, end in forget:
                    store.delete_range(META, NOTES + begin, NOTES + end)
                store.write([(META, NOTES + key, value) for key, value in rows.items()])
                self._state.unsynced = True
            except StoreError as error:
                raise self._state.fail(f"statistics could not be written: {error}") from error

    def noted(self, begin: bytes, end: bytes, *, limit: int, backwards: bool = False) -> list[tuple[bytes, bytes]]:
        def read() -> list[tuple[bytes, bytes]]:
            with self._state.gate:
                return notes(self._state.readable(), begin, end, limit, backwards=backwards)

        with self.failing.watched(read):
            return read()

    def statistics(self) -> Statistics:
        state = self._state
        with state.gate:
            return Statistics(
                bytes_on_disk=_bytes_in(state.path),
                bytes_in_memory=state.store.bytes_in_memory() if state.store else 0,
                buckets=len(state.table),
                channels_indexed=state.table.indexed,
                appends=self._appending.appends,
                entries=self._appending.entries,
                bytes_appended=self._appending.bytes,
                failures=state.failures,
                recoveries=state.recoveries,
                available=state.store is not None and state.failed is None,
            )

    def close(self) -> None:
        opening.close(self._state)


def _bytes_in(directory: Path) -> int:
    total = 0
    for file in directory.iterdir():
        with suppress(FileNotFoundError):  # RocksDB removes what it no longer needs at any time
            total += file.stat().st_size
    return total
