"""The journal on RocksDB in this process, composed of its parts.

    reopening    open, recover, close            appending   write, sync and show blocks
    asking       blocks, and their completeness  expiring    retention; buckets created ahead of time
    erasing      remove entries                  meta        notes, floors, series

``state.JournalState`` holds the shared state, and its locks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from engine.journal import asking, erasing, expiring, reopening
from engine.journal.appending import Appending
from engine.journal.boot import read_boot_id
from engine.journal.buckets import INDEX_ENTRIES
from engine.journal.entries import EntriesAfter, EntriesBack
from engine.journal.failing import Failing
from engine.journal.lives import Lives
from engine.journal.meta import NOTES, notes
from engine.journal.port import Block, Refused, Taker
from engine.journal.silent import MAX_CHANNELS
from engine.journal.state import JournalState
from engine.journal.store import META, MIB, RocksStore, Store, StoreError
from engine.timeline import Timeline

WINDOW_MS = 120_000
AGAIN_ENTRIES, AGAIN_BYTES = 4096, MIB  # for the retry of a failed read


class RocksJournal:
    """See ``engine.journal.port.Journal`` for the contract of each method."""

    def __init__(
        self,
        path: Path,
        *,
        window_ms: int = WINDOW_MS,
        layout: str = "",
        index_entries: int = INDEX_ENTRIES,
        silent_channels: int = MAX_CHANNELS,
        open_store: Callable[[Path], Store] = RocksStore,
        boot_id: str | None = None,
    ) -> None:
        """Open or create.

        Args:
            layout: the class of each namespace, as text; a changed layout raises every floor to the head.
            index_entries: maximum of remembered (bucket, channel) pairs; further ones are looked up.
            silent_channels: maximum of channels remembered beyond their retention.
            open_store, boot_id: replaced in tests.
        Raises: JournalUnavailable, with RocksDB's text and advice for the operator.
        """
        if window_ms < 1:
            raise ValueError(f"the window must be at least 1 ms, got {window_ms}")
        boot_id = read_boot_id() if boot_id is None else boot_id
        self._state = JournalState(path, window_ms, layout, index_entries, silent_channels, open_store, boot_id)
        reopening.open_journal(self._state)
        self._appending = Appending(self._state)
        self.failing = Failing()

    @property
    def series(self) -> str:
        """The series of the present life of the synced log."""
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
        reopening.relayout(self._state, layout)

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

    def feed(self, channel: str, taker: Taker) -> bool:
        with self._watched(channel, taker.cursor):
            return asking.feed(self._state, channel, taker)

    def feed_back(self, channel: str, taker: Taker) -> bool:
        with self._watched(channel, taker.cursor, backwards=True):
            return asking.feed_back(self._state, channel, taker)

    def holds(self, channel: str, serial: int) -> bool:
        with self._watched(channel, serial - 1):
            return asking.holds(self._state, channel, serial)

    def last_serial(self, channel: str) -> int:
        with self._watched(channel, self.head(), backwards=True):
            return asking.last_serial(self._state, channel)

    def forgotten_floor(self, retention: str) -> int:
        return asking.forgotten_floor(self._state, retention)

    def continuous(self, channel: str, retention: str, cursor: int) -> bool:
        with self._watched(channel, cursor):
            return asking.continuous(self._state, channel, retention, cursor)

    def _watched(self, channel: str, cursor: int, *, backwards: bool = False) -> AbstractContextManager[None]:
        """Wrap a read. If it fails, a read from the same position is retried from time to time, until it works."""

        def again() -> None:
            if backwards:
                asking.feed_back(self._state, channel, EntriesBack(cursor, AGAIN_ENTRIES, AGAIN_BYTES))
            else:
                asking.feed(self._state, channel, EntriesAfter(cursor, AGAIN_ENTRIES, AGAIN_BYTES, until=self.head()))

        return self.failing.watched(again)

    def forget(self, app_prefix: str) -> None:
        erasing.forget(self._state, app_prefix)

    def erase(self, channel: str, serials: Sequence[int]) -> None:
        erasing.erase(self._state, channel, serials)

    def recover(self) -> None:
        reopening.recover(self._state)

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

    def close(self) -> None:
        reopening.close(self._state)
