"""The journal's metadata, in the default family.

    format 1 | series, written: 8 characters each | head: 8 bytes | floor:<class>, base, forgotten: 8 bytes
    lives:series, lives:written: which lives there were, see ``lives``; the last is what series and written name
    boot: the kernel's boot id | clean: exists only between a close and the next open
    timeline: when serials were issued, see engine/timeline.py; none: at their own time | clock: see engine/steady.py
    note:<key>: small facts that other modules keep here (statistics)
    layout: the retention class of each namespace, as text, as of the last start

The head is written in the same batch as the entries, so it can never be behind them.

There are two logs because there are two promises: a synced entry is never lost, a written one survives the process but
not the machine. If the machine has restarted without a clean close, acknowledged entries of the written log may be
missing, so its earlier lives are forgotten, and old cursors prove nothing."""

from __future__ import annotations

from engine.errors import JournalUnavailable
from engine.journal.lives import SERIES_LENGTH, Lives, new_series
from engine.journal.store import META, Row, Store, StoreError

FORMAT = b"1"
NOTES = b"note:"
LIVES = b"lives:"


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def head_row(serial: int) -> Row:
    return META, b"head", number(serial)


def floor_row(retention: str, serial: int) -> Row:
    return META, b"floor:" + retention.encode("ascii"), number(serial)


def forgotten_row(serial: int) -> Row:
    return META, b"forgotten", number(serial)


def layout_rows(layout: str, base: int) -> list[Row]:
    return [(META, b"layout", layout.encode()), (META, b"base", number(base))]


def _life_rows(key: bytes, lives: Lives) -> list[Row]:
    return [(META, key, lives.series.encode("ascii")), (META, LIVES + key, lives.encode())]


def timeline_row(content: bytes) -> Row:
    return META, b"timeline", content


def clock_row(content: bytes) -> Row:
    return META, b"clock", content


def notes(store: Store, begin: bytes, end: bytes, limit: int, *, backwards: bool) -> list[tuple[bytes, bytes]]:
    """The notes with begin <= key < end. Raises: JournalUnavailable, if they cannot be read."""
    first, past = NOTES + begin, NOTES + end
    found: list[tuple[bytes, bytes]] = []
    try:
        rows = store.rows(META)
        if backwards:
            rows.seek_for_prev(past)
            if rows.valid() and rows.key() == past:
                rows.prev()
        else:
            rows.seek(first)
        while len(found) < limit and rows.valid() and first <= rows.key() < past:
            found.append((rows.key()[len(NOTES) :], rows.value()))
            if backwards:
                rows.prev()
            else:
                rows.next()
        rows.status()
    except StoreError as error:
        raise JournalUnavailable(f"the notes cannot be read: {error}") from error
    return found


class Meta:
    """Read at open; ``rows`` must be written (synced) before anything else."""

    def __init__(self, store: Store, boot_id: str, layout: str, begun: Meta | None) -> None:
        """
        Args:
            begun: the metadata from the beginning of this life of the server, if the journal is reopened.
        Raises: StoreError, also if the database is not a journal.
        """
        self._store = store
        rows: list[Row] = [
            (META, b"clean", None),
            (META, b"boot", boot_id.encode()),
            (META, b"layout", layout.encode()),
        ]
        found = store.get(META, b"format")
        if found is None:
            if store.families():
                raise StoreError("Corruption: column families without the journal's format mark")
            if begun is not None:
                raise StoreError("Corruption: everything that this server had written is missing")
            self.synced, self.written, self.head = Lives([new_series()]), Lives([new_series()]), 0
            rows += [(META, b"format", FORMAT), head_row(0)]
            self.floors: dict[str, int] = {}
            self.base = self.forgotten = 0
            rows += [(META, b"base", number(0)), forgotten_row(0)]
        else:
            if found != FORMAT:
                raise StoreError(f"Not supported: journal format {found!r}; this server reads {FORMAT!r}")
            self.head = self._number(b"head")
            self.base = self._number(b"base")
            self.floors = self._read_floors()
            if store.get(META, b"forgotten") is None:
                # Written by a version that did not remember silent channels: all dropped entries count as forgotten.
                self.forgotten = max(self.floors.values(), default=0)
                rows.append(forgotten_row(self.forgotten))
            else:
                self.forgotten = self._number(b"forgotten")
            if begun is not None:
                self.synced, self.written = begun.synced, begun.written
            else:
                same_boot = boot_id != "" and store.get(META, b"boot") == boot_id.encode()
                whole = same_boot or store.get(META, b"clean") is not None
                self.synced = self._lives(b"series").followed(self.head, new_series())
                self.written = (
                    self._lives(b"written").followed(self.head, new_series()) if whole else Lives([new_series()])
                )
            if store.get(META, b"layout") != layout.encode():
                # A channel may have moved to another class: the floor of the new class does not cover entries dropped
                # in the old one. From here on only the chain of its entries, or a newer cursor, proves anything.
                self.base = self.head
                rows.append((META, b"base", number(self.base)))
        if begun is None:
            rows += [*_life_rows(b"series", self.synced), *_life_rows(b"written", self.written)]
        self.timeline, self.clock = store.get(META, b"timeline"), store.get(META, b"clock")
        self.rows = rows

    def floor(self, retention: str) -> int:
        return max(self.floors.get(retention, 0), self.base)

    def _read_floors(self) -> dict[str, int]:
        rows, floors, prefix = self._store.rows(META), {}, b"floor:"
        rows.seek(prefix)
        while rows.valid() and rows.key().startswith(prefix):
            floors[rows.key()[len(prefix) :].decode("ascii")] = int.from_bytes(rows.value(), "big")
            rows.next()
        try:
            rows.status()
        except Exception as error:
            raise StoreError(str(error)) from error
        return floors

    def _lives(self, key: bytes) -> Lives:
        """The lives of a log. If only an older server has run, or one has run since, everything belongs to its one
        life."""
        last, value = self._text(key), self._store.get(META, LIVES + key)
        try:
            lives = Lives([last]) if value is None else Lives.decode(value)
        except ValueError as error:
            raise StoreError(f"Corruption: the journal's lives are damaged: {error}") from error
        return lives if lives.series == last else Lives([last])

    def _text(self, key: bytes) -> str:
        value = self._store.get(META, key)
        if value is None or len(value) != SERIES_LENGTH:
            raise StoreError(f"Corruption: the journal's {key.decode()} is missing or damaged")
        return value.decode("ascii")

    def _number(self, key: bytes) -> int:
        value = self._store.get(META, key)
        if value is None or len(value) != 8:
            raise StoreError(f"Corruption: the journal's {key.decode()} is missing or damaged")
        return int.from_bytes(value, "big")
