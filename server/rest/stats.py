"""Statistics for clients: ``GET /stats``, and the fixtures that test suites post in development mode.

unit, start, end, direction, limit  --parse_stats--> StatsQuery --engine.statistics--> intervals --items-->
    [{"intervalId": "2024-02-03:15:05", "unit": "minute", "entries": {"messages.all.all.count": 7, ...}}, ...]

{"intervalId": ..., "inbound": {"realtime": {"messages": {"count": 70}}}}  --parse_fixtures--> its entries"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.statistics import (
    LAST_MS,
    MINUTE_MS,
    UNITS,
    Entries,
    Interval,
    beginning,
    interval_id,
    parse_interval,
    rolled_up,
)
from engine.statistics import add as add_entries
from server.http.request import bad_request
from server.rest.history import CARRIED, Page, link_url, parse_limit

SCHEMA = "https://schemas.ably.com/json/app-stats-0.0.5.json"  # as clients know it
FLAT_SINCE_VERSION = 3  # before, the entries are nested maps
MAX_FIXTURES = 1000
LARGEST = 1 << 53  # a number that JSON readers get exactly; a year of sums of it still fits 64 bits

_FIGURES = ("count", "data")
_GAUGE_FIGURES = ("peak", "min", "mean", "opened")
_REQUEST_FIGURES = ("succeeded", "failed", "refused")


@dataclass(frozen=True, slots=True)
class StatsQuery:
    """The checked parameters of a request: intervals that begin within ``first_ms`` .. ``last_ms``."""

    unit: str
    first_ms: int
    last_ms: int
    limit: int
    backwards: bool
    cursor: int | None  # beginning of the last interval that was shown

    @property
    def span(self) -> tuple[int, int]:
        """The first and last beginning of an interval that this page may show."""
        if self.cursor is None:
            return self.first_ms, self.last_ms
        if self.backwards:
            return self.first_ms, min(self.last_ms, self.cursor - 1)
        return max(self.first_ms, self.cursor + 1), self.last_ms


def parse_stats(params: Mapping[str, str], now_ms: int) -> StatsQuery:
    """Raises: PubSubError 40003, naming the parameter; 40011 for an invalid cursor."""
    unit = params.get("unit", params.get("by", "minute"))
    if unit not in UNITS:
        raise bad_request(f"unit: must be one of {', '.join(UNITS)}, got {unit[:32]!r}", code=40003)
    direction = params.get("direction", "backwards")
    if direction not in ("backwards", "forwards"):
        raise bad_request(f"direction: must be backwards or forwards, got {direction[:32]!r}", code=40003)
    start, end = _moment(params, "start", 0), _moment(params, "end", now_ms)
    if start > end:
        if "end" in params:
            raise bad_request(f"start: {start} is later than end, {end}", code=40003)
        end = start
    cursor = params.get("cursor")
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 16):
        raise bad_request(f"cursor: {cursor[:32]!r} does not belong to this list", code=40011)
    at = None if cursor is None else int(cursor)
    return StatsQuery(unit, beginning(unit, start), end, parse_limit(params), direction == "backwards", at)


def _moment(params: Mapping[str, str], name: str, default: int) -> int:
    """Milliseconds, or the beginning of an interval."""
    text = params.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) != 4:  # which would be a year, an interval that is not supported
        return min(int(text[:20]), LAST_MS)
    try:
        return min(parse_interval(text)[1], LAST_MS)
    except ValueError as error:
        raise bad_request(f"{name}: must be a time in ms or an interval; {error}", code=40003) from error


def stats_page(
    query: StatsQuery, intervals: list[Interval], app_id: str, now_ms: int, version: int, params: Mapping[str, str]
) -> Page:
    """A page, from its intervals and one more, if there are further ones."""
    shown = intervals[: query.limit]
    base = {
        "limit": str(query.limit),
        "direction": "backwards" if query.backwards else "forwards",
        "unit": query.unit,
        "start": str(query.first_ms),
        "end": str(query.last_ms),
    }
    base |= {name: params[name] for name in CARRIED if name in params}
    links = [("first", base), ("current", base if query.cursor is None else base | {"cursor": str(query.cursor)})]
    if len(intervals) > query.limit:
        links.append(("next", base | {"cursor": str(shown[-1].begin_ms)}))
    items = [_item(interval, app_id, now_ms, version) for interval in shown]
    return Page(items, [(relation, link_url("stats", fields)) for relation, fields in links])


def _item(interval: Interval, app_id: str, now_ms: int, version: int) -> dict[str, Any]:
    name, entries = interval_id(interval.unit, interval.begin_ms), rolled_up(interval.entries)
    item: dict[str, Any] = {"intervalId": name, "unit": interval.unit, "appId": app_id}
    if version >= FLAT_SINCE_VERSION:
        item |= {"schema": SCHEMA, "entries": entries}
    else:
        item |= _nested(entries)
    if interval.begin_ms == beginning(interval.unit, now_ms):
        item["inProgress"] = interval_id("minute", beginning("minute", now_ms))
    return item


def _nested(entries: Mapping[str, int | float]) -> dict[str, Any]:
    """The entries for older clients: ``messages.inbound.all.messages.count`` is ``inbound.all.messages.count``."""
    nested: dict[str, Any] = {}
    for name, value in entries.items():
        path = name.split(".")
        match path:
            case ["messages", "all", *rest]:
                path = ["all", *rest]
            case ["messages", *rest]:
                path = rest
            case ["apiRequests", "tokenRequests", figure]:
                path = ["tokenRequests", figure]
            case ["apiRequests", "other", figure]:
                path = ["apiRequests", figure]
            case ["apiRequests", *_]:
                continue
        inner = nested
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return nested


def parse_fixtures(body: object) -> list[tuple[int, Entries]]:
    """Minutes and their entries. Raises: PubSubError 40000, naming the field."""
    given = body if isinstance(body, list) else [body]
    if len(given) > MAX_FIXTURES:
        raise bad_request(f"body: more than {MAX_FIXTURES} fixtures")
    found = []
    for at, fixture in enumerate(given):
        if not isinstance(fixture, Mapping):
            raise bad_request(f"body[{at}]: must be a map, got {type(fixture).__name__}")
        try:
            unit, begin_ms = parse_interval(str(fixture.get("intervalId")))
        except ValueError as error:
            raise bad_request(f"body[{at}].intervalId: {error}") from error
        if unit != "minute" or begin_ms > LAST_MS - MINUTE_MS:
            raise bad_request(f"body[{at}].intervalId: must be a minute, such as 2024-02-03:15:05")
        entries: Entries = {}
        for path, value in _leaves(fixture, f"body[{at}]", ()):
            add_entries(entries, _entry(path, value))
        found.append((begin_ms, entries))
    return found


def _leaves(value: Mapping[Any, Any], field: str, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    for name, inner in value.items():
        if not path and not isinstance(inner, Mapping):
            continue  # intervalId, unit and the like
        if isinstance(inner, Mapping) and len(path) < 3:
            yield from _leaves(inner, f"{field}.{name}", (*path, str(name)))
        elif type(inner) is not int or not 0 <= inner <= LARGEST:
            raise bad_request(f"{field}.{name}: must be a whole number from 0 to {LARGEST}")
        else:
            yield (*path, str(name)), inner


def _entry(path: tuple[str, ...], value: int) -> Entries:
    """The concrete entries that store a figure of a fixture. Sums in a fixture are recomputed here."""
    match path:
        case ("inbound" | "outbound") as way, str(kind), str(what), str(figure) if figure in _FIGURES:
            return {} if "all" in (kind, what) else {f"messages.{way}.{kind}.{what}.{figure}": value}
        case "persisted", str(what), str(figure) if figure in _FIGURES:
            return {} if what == "all" else {f"messages.persisted.{what}.{figure}": value}
        case "connections", str(kind), str(figure) if figure in _GAUGE_FIGURES:
            return {} if kind == "plain" else _gauge("connections.all", figure, value)
        case "channels", str(figure) if figure in _GAUGE_FIGURES:
            return _gauge("channels", figure, value)
        case "apiRequests", str(figure) if figure in _REQUEST_FIGURES:
            return {f"apiRequests.other.{figure}": value}
        case "tokenRequests", str(figure) if figure in _REQUEST_FIGURES:
            return {f"apiRequests.tokenRequests.{figure}": value}
    return {}


def _gauge(name: str, figure: str, value: int) -> Entries:
    if figure == "mean":
        return {f"{name}.total": value * 60, f"{name}.samples": 60}  # as if it had been looked at every second
    return {f"{name}.{figure}": value}
