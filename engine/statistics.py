"""The activity of apps, minute by minute: counted in memory, kept in the journal's notes, summed up on request.

    meters --look, every few seconds--> additions of this minute --keep--> rows of its minute, hour, day and month
    rows + additions not kept yet --page--> intervals with all their entries

    stats|<unit>|<app>|<8 bytes: ms of the interval's beginning>  ->  msgpack {entry: number}

A row has concrete entries only (``messages.inbound.realtime.messages.count``); the roll-ups with ``all`` in their names
are computed when it is shown. Two rows are added by summing, but peaks by the maximum and ``min`` by the minimum. A
mean is stored as its parts: ``.total`` and ``.samples``. A crash loses the additions not kept yet: seconds.

Outbound counts are exact for REST. For connections they are the committed messages, times the readers of the channel at
that moment. So a message withheld from its own sender (echo off) counts, and replayed messages (resume, rewind, attach
with a serial) do not. Counting the deliveries themselves would cost work for each of them, in the plane's inner
loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgpack

from engine.journal.port import Journal
from ext.log.counters import Gauge, Meter

Entries = dict[str, int]

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
UNITS = ("minute", "hour", "day", "month")
FORMATS = {"minute": "%Y-%m-%d:%H:%M", "hour": "%Y-%m-%d:%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
KEPT_MS = {"minute": 31 * DAY_MS, "hour": 400 * DAY_MS}  # an active minute costs about 300 bytes; days and months stay
LAST_MS = 253_370_764_800_000  # the first of January 9999: later times have no text
KINDS = ("realtime", "rest")

_FLOWS = (
    "messages.inbound.realtime.messages",
    "messages.inbound.rest.messages",
    "messages.outbound.realtime.messages",
    "messages.persisted.messages",
)


def beginning(unit: str, at_ms: int) -> int:
    """The beginning of the interval that contains this moment; UTC."""
    if unit == "month":
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp()) * 1000
    length = {"minute": MINUTE_MS, "hour": HOUR_MS, "day": DAY_MS}[unit]
    return at_ms - at_ms % length


def interval_id(unit: str, begin_ms: int) -> str:
    return datetime.fromtimestamp(begin_ms / 1000, UTC).strftime(FORMATS[unit])


def parse_interval(text: str) -> tuple[str, int]:
    """Unit and beginning. Raises: ValueError."""
    for unit, form in FORMATS.items():
        try:
            at = datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        begin_ms = int(at.timestamp()) * 1000
        if begin_ms < 0 or interval_id(unit, begin_ms) != text:
            break  # strptime accepts months of one digit, too
        return unit, begin_ms
    raise ValueError(f"{text[:32]!r} is not an interval such as 2024-02-03:15:05, 2024-02-03:15, 2024-02-03 or 2024-02")


def add(into: Entries, more: Mapping[str, int]) -> None:
    """Add by sum, maximum or minimum, as the entry's name requires."""
    for name, value in more.items():
        known = into.get(name)
        if known is None:
            into[name] = value
        elif name.endswith(".peak"):
            into[name] = max(known, value)
        elif name.endswith(".min"):
            into[name] = min(known, value)
        else:
            into[name] = known + value


def rolled_up(row: Mapping[str, int]) -> dict[str, int | float]:
    """All entries for a reader, from the concrete ones."""
    entries: Entries = {}
    shown: dict[str, int | float] = {}
    for name, value in row.items():
        path = name.split(".")
        match path:
            case ["messages", ("inbound" | "outbound") as way, kind, what, figure]:
                names = [f"messages.{way}.{k}.{w}.{figure}" for k in (kind, "all") for w in (what, "all")]
                names += [f"messages.all.{w}.{figure}" for w in (what, "all")]
            case ["messages", "persisted", what, figure]:
                names = [f"messages.persisted.{w}.{figure}" for w in (what, "all")]
            case ["apiRequests", kind, figure]:
                names = [name, f"apiRequests.all.{figure}"]
            case [*_, "total" | "samples"]:
                continue
            case _:
                names = [name]
        add(entries, dict.fromkeys(names, value))
    for name, samples in row.items():
        if name.endswith(".samples") and samples:
            of = name.removesuffix(".samples")
            shown[f"{of}.mean"] = round(row.get(f"{of}.total", 0) / samples, 2)
    return entries | shown


@dataclass(frozen=True, slots=True)
class Interval:
    """One item of the answer; ``entries`` are concrete."""

    unit: str
    begin_ms: int
    entries: Entries


@dataclass(slots=True)
class _Known:
    """The state of one app: its meter at the last look, and the additions since the last keeping."""

    flows: tuple[tuple[int, int], ...]
    opened: tuple[int, int]
    fresh: dict[int, Entries] = field(default_factory=dict)  # by minute


class Statistics:
    """The statistics of all apps. ``keep``, ``put``, ``page`` and ``forget`` use the journal, and may wait: run them in
    a thread, one at a time. They do not see counts that arrive meanwhile."""

    def __init__(self, journal: Journal, meters: Mapping[str, Meter], *, prune: bool = True) -> None:
        """``prune``: drop rows older than KEPT_MS."""
        self._journal = journal
        self._meters = meters
        self._prune = prune
        self._known: dict[str, _Known] = {}
        self._keeping: list[tuple[str, int, Entries]] = []  # being written to the journal

    def look(self, now_ms: int) -> None:
        """Add the counts since the last call; every second or so, for peaks and means."""
        minute = beginning("minute", now_ms)
        for app_id, meter in self._meters.items():
            flows, gauges = meter.messages(), (meter.connections, meter.channels)
            opened = (gauges[0].opened, gauges[1].opened)
            known = self._known.get(app_id)
            if known is None:
                known = self._known[app_id] = _Known(((0, 0),) * len(flows), (0, 0))
            bounds = gauges[0].look(), gauges[1].look()
            if flows == known.flows and opened == known.opened and not gauges[0].now and not gauges[1].now:
                continue  # no activity, past or present
            found = _gauged("connections.all", gauges[0], bounds[0], known.opened[0])
            found |= _gauged("channels", gauges[1], bounds[1], known.opened[1])
            for name, now, before in zip(_FLOWS, flows, known.flows, strict=True):
                if now[0] != before[0]:
                    found[f"{name}.count"] = now[0] - before[0]
                    found[f"{name}.data"] = now[1] - before[1]
            known.flows, known.opened = flows, opened
            add(known.fresh.setdefault(minute, {}), found)

    def count(self, app_id: str, name: str, now_ms: int, times: int = 1) -> None:
        """Add ``times`` to a count that no meter has."""
        known = self._known.get(app_id)
        if known is None:
            known = self._known[app_id] = _Known(((0, 0),) * len(_FLOWS), (0, 0))
        fresh = known.fresh.setdefault(beginning("minute", now_ms), {})
        fresh[name] = fresh.get(name, 0) + times

    def take(self) -> None:
        """Hand the additions so far to ``keep``. Not while a method that may wait is under way."""
        for app_id, known in self._known.items():
            self._keeping += [(app_id, minute, entries) for minute, entries in known.fresh.items()]
            known.fresh = {}

    def keep(self, now_ms: int) -> None:
        """Write the additions taken, and drop rows too old at this time, which must not come from a clock just set.

        Raises: JournalUnavailable; then they are written the next time.
        """
        self._write(self._keeping, now_ms)
        self._keeping = []

    def put(self, app_id: str, minutes: Iterable[tuple[int, Entries]], now_ms: int) -> None:
        """Add external counts. Raises: JournalUnavailable."""
        self._write([(app_id, minute, entries) for minute, entries in minutes], now_ms)

    def _write(self, additions: Iterable[tuple[str, int, Entries]], now_ms: int) -> None:
        rows: dict[bytes, Entries] = {}
        forget = set()
        for app_id, minute, entries in additions:
            for unit in UNITS:
                key = _key(unit, app_id, beginning(unit, minute))
                if key not in rows:
                    found = self._journal.noted(key, key + b"\0", limit=1)
                    rows[key] = msgpack.unpackb(found[0][1]) if found else {}
                add(rows[key], entries)
                if self._prune and unit in KEPT_MS:
                    forget.add((_key(unit, app_id, 0), _key(unit, app_id, max(0, now_ms - KEPT_MS[unit]))))
        if rows:
            self._journal.note({key: msgpack.packb(row) for key, row in rows.items()}, sorted(forget))

    def page(
        self, app_id: str, unit: str, first_ms: int, last_ms: int, *, limit: int, backwards: bool
    ) -> list[Interval]:
        """Intervals with activity that begin within first_ms .. last_ms, at most ``limit``, in reading order."""
        found: dict[int, Entries] = {}
        for key, row in self._journal.noted(
            _key(unit, app_id, first_ms), _key(unit, app_id, last_ms + 1), limit=limit, backwards=backwards
        ):
            found[int.from_bytes(key[-8:], "big")] = msgpack.unpackb(row)
        known = self._known.get(app_id)
        unkept = [(minute, entries) for app, minute, entries in list(self._keeping) if app == app_id]
        for minute, entries in [*unkept, *(list(known.fresh.items()) if known is not None else ())]:
            at = beginning(unit, minute)
            if first_ms <= at <= last_ms:
                add(found.setdefault(at, {}), entries)
        order = sorted(found, reverse=backwards)
        return [Interval(unit, at, found[at]) for at in order[:limit]]

    def forget(self, app_id: str) -> None:
        """Drop all statistics of an app. Raises: JournalUnavailable."""
        if app_id in self._known:
            self._known[app_id].fresh = {}
        self._keeping = [item for item in self._keeping if item[0] != app_id]
        self._journal.note({}, [(_key(unit, app_id, 0), _key(unit, app_id, LAST_MS)) for unit in UNITS])


def _key(unit: str, app_id: str, begin_ms: int) -> bytes:
    return b"|".join((b"stats", unit.encode(), app_id.encode(), begin_ms.to_bytes(8, "big")))


def _gauged(name: str, gauge: Gauge, bounds: tuple[int, int], opened_before: int) -> Entries:
    peak, least = bounds
    found = {f"{name}.peak": peak, f"{name}.min": least, f"{name}.total": gauge.now, f"{name}.samples": 1}
    if gauge.opened != opened_before:
        found[f"{name}.opened"] = gauge.opened - opened_before
    return found
