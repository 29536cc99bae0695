"""History: a channel's messages, page by page, in either direction.

    retained    start                 edge                          end
       |----------|====================|############################|        backwards: # has been read, = is next
       |----------|####################|============================|        forwards

    edge = (serial, index) of the last message handed out: the ``cursor`` of the next page's link

Entries hold up to 1000 messages and pages count messages, so the end of a page may cut an entry. An edge is a message,
not a number of messages, so pages neither repeat nor skip when messages arrive in between. A page costs its own
contents and one more step of reading, which detects the last page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from engine.errors import PubSubError
from engine.journal.port import Stored
from engine.message import messages_from
from ext.text.serial import first_serial, message_serial_text, parse_message_serial, parse_serial, serial_ms
from ext.wire.encoder import record_messages
from server.http.request import bad_request

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
PAGE_BYTES = 1 << 20  # of records; then the page ends early, so that encoding it keeps nobody waiting for long
STEP_BYTES = 1 << 16  # read at a time: one publish of the largest size. Other tasks run between two steps
STEP_ENTRIES = 256
PART_BYTES, PART_MESSAGES = 1 << 14, 100  # of a page, made into messages in one go: some ms at most
LAST_MS = (1 << 48) - 1
LAST_CURSOR = (1 << 64) - 1
CARRIED = ("format", "envelope", "v")  # parameters that a page's links hand on as they are

Edge = tuple[int, int]  # serial, index


class HistorySource(Protocol):
    """The server's operations that history needs."""

    def now_ms(self) -> int: ...
    def retained_from(self, app_id: str, channel: str) -> int:
        """The time in ms before which nothing is shown, even if it is still on disk."""

    def series_of(self, app_id: str, channel: str, serial: int) -> str:
        """The series of the life that issued this serial of the channel: an attach point must have it."""

    async def continuous(self, app_id: str, channel: str, cursor: int) -> bool:
        """Is everything after the cursor still held?"""

    async def read_after(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]: ...
    async def read_before(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]: ...


@dataclass(frozen=True, slots=True)
class Query:
    """The checked parameters of a request; times in ms, inclusive. ``until`` is the text of from_serial."""

    start: int
    end: int | None
    limit: int
    backwards: bool
    until: str | None
    cursor: str | None

    def links(
        self, resource: str, end: int, params: Mapping[str, str], following: str | None = None
    ) -> list[tuple[str, str]]:
        """Relations and URLs; ``end``: for a request without one; ``following``: the next page's cursor, if any."""
        base = {
            "limit": str(self.limit),
            "direction": "backwards" if self.backwards else "forwards",
            "start": str(self.start),
            "end": str(end),
        }
        if self.until is not None:
            base["from_serial"] = self.until
        base |= {name: params[name] for name in CARRIED if name in params}
        links = [("first", base), ("current", base if self.cursor is None else base | {"cursor": self.cursor})]
        if following is not None:
            links.append(("next", base | {"cursor": following}))
        return [(relation, link_url(resource, fields)) for relation, fields in links]


@dataclass(frozen=True, slots=True)
class Page:
    """The items of a list in wire form (names, intervals), and the links: (relation, URL)."""

    items: list[Any]
    links: list[tuple[str, str]]


Shown = tuple[Stored, range]  # an entry, and the indexes of its messages that are on the page, in their order


@dataclass(frozen=True, slots=True)
class MessagePage:
    """A page of messages, not made yet: it may be large, and is made in turns."""

    entries: list[Shown]
    links: list[tuple[str, str]]
    wire: int

    @property
    def size(self) -> int:
        """Bytes of the records that were read for it."""
        return sum(len(stored.record) for stored, _ in self.entries)

    @property
    def count(self) -> int:
        return sum(len(indexes) for _, indexes in self.entries)

    def made(self, stored: Stored, indexes: range) -> list[bytes]:
        return messages_from(stored.record, stored.serial, stored.series, self.wire, indexes)

    def parts(self) -> Iterator[list[Shown]]:
        """Its entries, a few at a time, so that nobody waits long."""
        part: list[Shown] = []
        size = count = 0
        for stored, indexes in self.entries:
            for at in range(0, len(indexes), PART_MESSAGES):
                some = indexes[at : at + PART_MESSAGES]
                if part and (size + len(stored.record) > PART_BYTES or count + len(some) > PART_MESSAGES):
                    yield part
                    part, size, count = [], 0, 0
                part.append((stored, some))
                size += len(stored.record)
                count += len(some)
        if part:
            yield part


def link_url(resource: str, fields: Mapping[str, str]) -> str:
    """The URL of a page. It writes a space as %20, because ably-js does not decode a plus."""
    return f"./{resource}?{urlencode(fields, quote_via=quote, safe='')}"


def parse_query(params: Mapping[str, str]) -> Query:
    """Raises: PubSubError 40003, naming the parameter."""
    direction = params.get("direction", "backwards")
    if direction not in ("backwards", "forwards"):
        raise bad_request(f"direction: must be backwards or forwards, got {direction[:32]!r}", code=40003)
    limit = parse_limit(params)
    start = _number(params, "start", 0)
    end = min(_number(params, "end", 0), LAST_MS) if "end" in params else None
    if end is not None and start > end:
        raise bad_request(f"start: {start} is later than end, {end}", code=40003)
    until = params.get("from_serial", params.get("fromSerial"))
    if until is not None and direction == "forwards":
        raise bad_request("from_serial: reads backwards only, got direction=forwards", code=40003)
    return Query(min(start, LAST_MS), end, limit, direction == "backwards", until, params.get("cursor"))


def parse_limit(params: Mapping[str, str]) -> int:
    """The largest number of items on a page. Raises: PubSubError 40003."""
    limit = _number(params, "limit", DEFAULT_LIMIT)
    if not 1 <= limit <= MAX_LIMIT:
        raise bad_request(f"limit: must be from 1 to {MAX_LIMIT}, got {limit}", code=40003)
    return limit


def _number(params: Mapping[str, str], name: str, default: int) -> int:
    text = params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise bad_request(f"{name}: must be a whole number, got {text[:32]!r}", code=40003)
    return int(text)


class History:
    """Pages of one channel, for one request."""

    def __init__(self, source: HistorySource, app_id: str, channel: str, wire: int) -> None:
        self._source = source
        self._app_id = app_id
        self._channel = channel
        self._wire = wire

    async def page(self, query: Query, params: Mapping[str, str], resource: str) -> MessagePage:
        """One page; ``resource`` is the last segment of the request's path, ``params`` its parameters.

        Raises: PubSubError 40011 (cursor), 90008 (from_serial); what reading raises.
        """
        end = query.end if query.end is not None else await self._latest_ms(query.start)
        earliest = max(query.start, self._source.retained_from(self._app_id, self._channel))
        edge = await self._first_edge(query, earliest, end)
        if query.cursor is not None:
            edge = await self._checked(query, query.cursor, edge)
        taken: list[Shown] = []
        more = False
        if earliest <= end:
            taken, more = await self._take(query, edge, first_serial(earliest), _after(end))
        following = None
        if more:
            stored, indexes = taken[-1]
            following = message_serial_text(stored.serial, stored.series, indexes[-1])
        return MessagePage(taken, query.links(resource, end, params, following), self._wire)

    async def _latest_ms(self, start: int) -> int:
        """The end of "until now": the serials' clock may be ahead of the wall clock, and stored messages must show."""
        newest = await self._source.read_before(self._app_id, self._channel, LAST_CURSOR, limit=1, budget=1)
        return max(self._source.now_ms(), start, serial_ms(newest[0].serial) if newest else 0)

    async def _first_edge(self, query: Query, earliest: int, end: int) -> Edge:
        if not query.backwards:
            return first_serial(earliest), -1
        edge = _after(end), 0
        if query.until is None:
            return edge
        try:
            if query.until.count(":"):
                serial, series, index = parse_message_serial(query.until)
                until = serial, index + 1
            else:
                serial, series = parse_serial(query.until)
                until = min(serial, LAST_CURSOR - 1) + 1, 0
        except ValueError as error:
            raise PubSubError(f"from_serial: {error}", code=90008, status=404) from error
        if series != self._source.series_of(self._app_id, self._channel, serial):
            raise PubSubError("from_serial: does not belong to this log", code=90008, status=404)
        if not await self._holds_after(serial):
            raise PubSubError("from_serial: messages after it have expired", code=90008, status=404)
        return min(edge, until)

    async def _holds_after(self, cursor: int) -> bool:
        """Is everything after it still shown? The cursor of a new attachment to a quiet channel is an old message."""
        retained = self._source.retained_from(self._app_id, self._channel)
        if serial_ms(cursor) >= retained:
            return True
        following = await self._source.read_after(self._app_id, self._channel, cursor, limit=1, budget=1)
        if following and serial_ms(following[0].serial) < retained:
            return False
        return await self._source.continuous(self._app_id, self._channel, cursor)

    async def _checked(self, query: Query, cursor: str, edge: Edge) -> Edge:
        """The edge that a link's cursor means, if it was a message of this very log."""
        try:
            serial, series, index = parse_message_serial(cursor)
        except ValueError as error:
            raise bad_request(f"cursor: {error}", code=40011) from error
        found = await self._source.read_before(
            self._app_id, self._channel, min(serial, LAST_CURSOR - 1) + 1, limit=1, budget=1
        )
        held = bool(found) and found[0].serial == serial
        if held and found[0].series != series:
            raise bad_request("cursor: belongs to another log", code=40011)
        good = held
        if serial_ms(serial) < self._source.retained_from(self._app_id, self._channel):
            # Forwards, others that came after it may have expired with it: that would be a silent gap.
            last = held and index + 1 >= record_messages(found[0].record)
            good = query.backwards or (last and await self._holds_after(serial))
        if not good:
            raise bad_request("cursor: its message has expired", code=40011)
        return min(edge, (serial, index)) if query.backwards else max(edge, (serial, index))

    async def _take(self, query: Query, edge: Edge, low: int, high: int) -> tuple[list[Shown], bool]:
        """Entries with the indexes to show, in reading order; and whether there are more messages in the range.

        Args:
            low, high: serials; the first that may be shown, and the first that may not any more. The edge bounds the
                side where reading begins.
        """
        taken: list[Shown] = []
        missing, held = query.limit, 0
        serial, index = edge
        # The edge's own entry may have messages on the other side of it.
        cursor = min(serial, LAST_CURSOR - 1) + 1 if query.backwards else max(serial - 1, 0)
        read = self._source.read_before if query.backwards else self._source.read_after
        while True:
            step = await read(
                self._app_id, self._channel, cursor, limit=min(missing + 2, STEP_ENTRIES), budget=STEP_BYTES
            )
            for stored in step:
                past_the_end = stored.serial < low if query.backwards else stored.serial >= high
                if past_the_end:
                    return taken, False
                indexes = range(record_messages(stored.record))
                if stored.serial == serial:
                    indexes = indexes[:index] if query.backwards else indexes[index + 1 :]
                if not indexes:
                    continue
                if not missing or held >= PAGE_BYTES:
                    return taken, True
                if query.backwards:
                    indexes = indexes[::-1]
                shown = indexes[:missing]
                taken.append((stored, shown))
                missing -= len(shown)
                held += len(stored.record)
                if len(shown) < len(indexes):
                    return taken, True
            if not step:
                return taken, False
            cursor = step[-1].serial


def _after(end: int) -> int:
    """The first serial later than the millisecond ``end``."""
    return min(first_serial(end + 1), LAST_CURSOR)
