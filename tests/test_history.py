"""History's pages: joined, they are the channel's messages, whatever the limits and whatever arrives in between."""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote

import msgpack
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import PubSubError
from engine.journal.port import Stored
from ext.text.serial import message_serial_text, serial_text
from ext.wire.encoder import encode_record
from server.rest import history as room
from server.rest.history import History, MessagePage, parse_query
from tests.models.history import ModelMessage
from tests.models.history import history as model

Result = TypeVar("Result")
SERIES, OLD_SERIES = "abcd1234", "zyxw9876"
NOW = 1_700_000_000_000
LINK = re.compile(r"^\./(\w+)\?([^,;>]*)$")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Nothing here ever waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class FakeArchive:
    def __init__(self) -> None:
        self.entries: list[Stored] = []
        self.messages: list[ModelMessage] = []
        self.retained = 0
        self.forgotten = 0  # the newest serial of those that are gone
        self.now = NOW
        self.entries_read = 0
        self.bytes_read = 0

    def add(self, serial: int, count: int, *, series: str = SERIES, size: int = 1) -> None:
        name = f"e{len(self.messages)}"
        kept = msgpack.packb([{"data": f"{i}".ljust(size, ".")} for i in range(count)])
        previous = self.entries[-1].serial if self.entries else 0
        self.entries.append(Stored(serial, previous, series, encode_record(name, None, None, 0, kept)))
        self.messages += [ModelMessage(serial, i, f"{name}:{i}") for i in range(count)]

    def now_ms(self) -> int:
        return self.now

    def retained_from(self, app_id: str, channel: str) -> int:
        return self.retained

    def series_of(self, app_id: str, channel: str, serial: int) -> str:
        return SERIES

    async def continuous(self, app_id: str, channel: str, cursor: int) -> bool:
        return cursor >= self.forgotten

    async def read_after(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return self._cut([stored for stored in self.entries if stored.serial > cursor], limit, budget)

    async def read_before(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return self._cut([stored for stored in reversed(self.entries) if stored.serial < cursor], limit, budget)

    def _cut(self, entries: list[Stored], limit: int, budget: int) -> list[Stored]:
        assert limit > 0 and budget > 0
        found: list[Stored] = []
        for stored in entries[:limit]:
            budget -= len(stored.record)
            if budget < 0 and found:
                break
            found.append(stored)
            self.bytes_read += len(stored.record)
        self.entries_read += len(found)
        return found


def page_of(archive: FakeArchive, params: dict[str, str], resource: str = "messages") -> MessagePage:
    return run(History(archive, "app", "room", 0).page(parse_query(params), params, resource))


def items(page: MessagePage) -> list[dict[str, Any]]:
    """All messages of a page."""
    return [orjson.loads(message) for entry in page.entries for message in page.made(*entry)]


def ids(page: MessagePage) -> list[str]:
    return [str(message["id"]) for message in items(page)]


def link(page: MessagePage, relation: str) -> dict[str, str] | None:
    for name, url in page.links:
        if name == relation:
            match = LINK.match(url)
            assert match is not None, url
            return dict(parse_qsl(match[2], strict_parsing=True))
    return None


def refused(archive: FakeArchive, params: dict[str, str]) -> int:
    with pytest.raises(PubSubError) as caught:
        page_of(archive, params)
    return caught.value.code


@settings(deadline=None)
@given(data=st.data())
def test_joined_pages_are_the_messages_while_others_arrive(data: st.DataObject) -> None:
    archive, serial = FakeArchive(), (NOW - 50) << 16

    def arrive() -> None:
        nonlocal serial
        serial += data.draw(st.one_of(st.integers(1, 3), st.integers(1, 8).map(lambda ms: ms << 16)), "gap")
        archive.add(serial, data.draw(st.integers(1, 6), "messages"), size=data.draw(st.integers(1, 60), "size"))

    for _ in range(data.draw(st.integers(0, 15), "entries")):
        arrive()
    backwards = data.draw(st.booleans(), "backwards")
    archive.retained = data.draw(st.sampled_from([0, NOW - 30]), "retained")
    params = {"direction": "backwards" if backwards else "forwards"}
    if data.draw(st.booleans(), "with start"):
        params["start"] = str(NOW + data.draw(st.integers(-60, 0), "start"))
    if data.draw(st.booleans(), "with end"):
        params["end"] = str(data.draw(st.integers(int(params.get("start", NOW - 60)), NOW + 60), "end"))
    until = None
    if backwards and archive.entries and data.draw(st.booleans(), "until"):
        until = data.draw(st.sampled_from(archive.entries), "from_serial").serial
        archive.retained = min(archive.retained, until >> 16)
        params["from_serial"] = serial_text(until, SERIES)
    known = list(archive.messages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "PAGE_BYTES", data.draw(st.sampled_from([1, 200, 1 << 20]), "page bytes"))
        patch.setattr(room, "STEP_BYTES", data.draw(st.sampled_from([1, 100, 1 << 16]), "step bytes"))
        found: list[str] = []
        following: dict[str, str] | None = params
        end = start = 0
        while following is not None:
            following["limit"] = str(data.draw(st.integers(1, 12), "limit"))
            known = known if backwards else list(archive.messages)
            page = page_of(archive, following)
            assert len(items(page)) <= int(following["limit"])
            found += ids(page)
            following = link(page, "next")
            assert items(page) or following is None
            first = link(page, "first")
            assert first is not None
            end, start = int(first["end"]), int(first["start"])
            if data.draw(st.booleans(), "arrival"):
                arrive()
    assert start == int(params.get("start", 0))
    expected = model(known, start=max(start, archive.retained), end=end, backwards=backwards, until=until)
    assert found == expected


def test_the_last_page_has_no_next_link_even_when_it_is_full() -> None:
    archive = FakeArchive()
    for n in range(4):
        archive.add((NOW - 10 + n) << 16, 5)
    for direction in ("backwards", "forwards"):
        params = {"limit": "10", "direction": direction}
        first = page_of(archive, params)
        second = page_of(archive, link(first, "next") or {})
        assert (len(items(first)), len(items(second))) == (10, 10)
        assert [relation for relation, _ in second.links] == ["first", "current"]


def test_links_say_the_resolved_range_and_lead_back() -> None:
    archive = FakeArchive()
    archive.add((NOW - 5) << 16, 3)
    page = page_of(archive, {"limit": "2", "format": "msgpack", "key": "secret"}, resource="history")
    assert page.links[0][1].startswith("./history?")
    base = {"limit": "2", "direction": "backwards", "start": "0", "end": str(NOW), "format": "msgpack"}
    assert link(page, "first") == base == link(page, "current")
    cursor = message_serial_text((NOW - 5) << 16, SERIES, 1)
    assert link(page, "next") == base | {"cursor": cursor}
    assert quote(cursor, safe="") in page.links[2][1]
    second = page_of(archive, base | {"cursor": cursor})
    assert link(second, "current") == base | {"cursor": cursor}
    assert link(second, "first") == base
    assert "secret" not in str(page.links)


def test_what_is_stored_shows_although_the_clock_stepped_back() -> None:
    archive = FakeArchive()
    archive.add((NOW + 5000) << 16, 2)
    for direction in ("backwards", "forwards"):
        assert len(items(page_of(archive, {"direction": direction}))) == 2


def test_start_and_end_are_inclusive() -> None:
    archive = FakeArchive()
    for ms in range(4):
        archive.add((NOW + ms) << 16, 1)
        archive.add(((NOW + ms) << 16) + 65535, 1)
    for direction in ("backwards", "forwards"):
        page = page_of(archive, {"start": str(NOW + 1), "end": str(NOW + 2), "direction": direction})
        assert sorted(ids(page)) == ["e2:0", "e3:0", "e4:0", "e5:0"]


def test_a_start_in_the_future_is_an_empty_page_and_no_error() -> None:
    archive = FakeArchive()
    archive.add(NOW << 16, 1)
    for direction in ("backwards", "forwards"):
        page = page_of(archive, {"start": str(NOW + 1000), "direction": direction})
        assert items(page) == [] and link(page, "next") is None


def test_expired_messages_are_not_shown_though_on_disk() -> None:
    archive = FakeArchive()
    archive.add((NOW - 100) << 16, 2)
    archive.add((NOW - 10) << 16, 1)
    archive.retained = NOW - 50
    for direction in ("backwards", "forwards"):
        page = page_of(archive, {"direction": direction, "limit": "1"})
        assert (ids(page), link(page, "next")) == (["e2:0"], None)


def test_the_first_message_of_the_next_millisecond_is_outside() -> None:
    archive = FakeArchive()
    archive.add(NOW << 16, 1)
    archive.add((NOW + 1) << 16, 2)
    archive.now = NOW + 1
    for direction in ("backwards", "forwards"):
        assert ids(page_of(archive, {"end": str(NOW), "direction": direction})) == ["e0:0"]
        assert ids(page_of(archive, {"start": str(NOW + 1), "limit": "1", "direction": direction}))[0][:3] == "e1:"


def test_an_attach_point_is_the_newest_that_is_shown() -> None:
    archive = FakeArchive()
    for n in range(5):
        archive.add((NOW - 10 + n) << 16, 2)
    for name in ("from_serial", "fromSerial"):
        page = page_of(archive, {name: serial_text((NOW - 8) << 16, SERIES), "limit": "3"})
        assert ids(page) == ["e4:1", "e4:0", "e2:1"]
        rest = page_of(archive, link(page, "next") or {})
        assert ids(rest) == ["e2:0", "e0:1", "e0:0"]
    between = serial_text(((NOW - 8) << 16) + 7, SERIES)  # where somebody attached while nothing was published
    assert ids(page_of(archive, {"from_serial": between}))[0] == "e4:1"
    message = message_serial_text((NOW - 8) << 16, SERIES, 0)
    assert ids(page_of(archive, {"from_serial": message}))[0] == "e4:0"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "no serial"),
        (serial_text(NOW << 16, OLD_SERIES), "another life of the log"),
        (serial_text((NOW - 100) << 16, SERIES), "past retention"),
    ],
)
def test_an_attach_point_that_proves_nothing_is_refused(text: str, why: str) -> None:
    archive = FakeArchive()
    archive.retained = NOW - 50
    if why == "past retention":
        archive.add((NOW - 70) << 16, 1)
    archive.add((NOW - 10) << 16, 1)
    assert refused(archive, {"from_serial": text}) == 90008, why


def test_an_attach_point_may_be_old_if_nothing_after_it_is_gone() -> None:
    archive = FakeArchive()
    archive.retained = NOW - 50
    archive.add((NOW - 100) << 16, 1)
    attached = {"from_serial": serial_text((NOW - 100) << 16, SERIES)}
    assert ids(page_of(archive, attached)) == []
    archive.add((NOW - 50) << 16, 1)  # the oldest that is still shown
    assert ids(page_of(archive, attached)) == []
    archive.forgotten = (NOW - 60) << 16
    assert refused(archive, attached) == 90008


def test_a_cursor_is_a_message_of_this_very_log() -> None:
    archive = FakeArchive()
    archive.add((NOW - 10) << 16, 1)
    for direction in ("backwards", "forwards"):
        for cursor in (
            "nonsense",
            message_serial_text((NOW - 10) << 16, OLD_SERIES, 0),
            message_serial_text((NOW - 9) << 16, SERIES, 0),
            message_serial_text((1 << 64) - 1, SERIES, 0),
        ):
            assert refused(archive, {"cursor": cursor, "direction": direction}) == 40011


def test_expired_cursor_ends_backward_and_is_refused_forward() -> None:
    archive = FakeArchive()
    archive.retained = NOW - 50
    archive.add((NOW - 10) << 16, 1)
    cursor = message_serial_text((NOW - 60) << 16, SERIES, 0)
    assert items(page_of(archive, {"cursor": cursor})) == []
    assert refused(archive, {"cursor": cursor, "direction": "forwards"}) == 40011


def test_forward_pages_continue_unless_their_entry_expired() -> None:
    archive = FakeArchive()
    for ago in (100, 80, 60):
        archive.add((NOW - ago) << 16, 2)
    params = {"direction": "forwards", "limit": "2"}
    following = link(page_of(archive, params), "next") or {}
    within = link(page_of(archive, params | {"limit": "1"}), "next") or {}
    archive.retained = NOW - 90
    assert ids(page_of(archive, following)) == ["e2:0", "e2:1"]
    assert refused(archive, within) == 40011
    archive.retained = NOW - 70
    assert refused(archive, following) == 40011


def test_entries_of_an_older_series_link_by_their_own_serials() -> None:
    archive = FakeArchive()
    archive.add((NOW - 10) << 16, 2, series=OLD_SERIES)
    archive.add((NOW - 5) << 16, 2)
    page = page_of(archive, {"limit": "3"})
    following = link(page, "next") or {}
    assert following["cursor"] == message_serial_text((NOW - 10) << 16, OLD_SERIES, 1)
    assert ids(page_of(archive, following)) == ["e0:0"]


def test_a_page_costs_the_page_and_not_the_channel() -> None:
    archive = FakeArchive()
    for n in range(5000):
        archive.add((NOW - 10_000 + n) << 16, 1, size=100)
    for direction in ("backwards", "forwards"):
        archive.entries_read = 0
        page_of(archive, {"limit": "10", "direction": direction})
        assert archive.entries_read <= 14


def test_a_page_of_large_messages_ends_early_and_goes_on() -> None:
    archive = FakeArchive()
    for n in range(100):
        archive.add((NOW - 1000 + n) << 16, 1, size=60_000)
    for direction in ("backwards", "forwards"):
        archive.bytes_read = 0
        params: dict[str, str] | None = {"limit": "1000", "direction": direction}
        found: list[str] = []
        pages = 0
        while params is not None:
            page = page_of(archive, params)
            found += ids(page)
            params = link(page, "next")
            pages += 1
            assert sum(len(str(message["data"])) for message in items(page)) <= room.PAGE_BYTES + 60_000
        assert len(found) == len(set(found)) == 100
        assert pages == 6


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "-1"},
        {"limit": "ten"},
        {"limit": "١٠"},
        {"limit": ""},
        {"limit": "9" * 5000},
        {"start": "2", "end": "1"},
        {"start": "-1"},
        {"end": "1.5"},
        {"direction": "sideways"},
        {"direction": "forwards", "from_serial": serial_text(NOW << 16, SERIES)},
    ],
)
def test_a_parameter_out_of_range_is_refused(params: dict[str, str]) -> None:
    assert refused(FakeArchive(), params) == 40003


def test_times_beyond_48_bits_count_as_the_last_serial() -> None:
    archive = FakeArchive()
    archive.add(NOW << 16, 1)
    for direction in ("backwards", "forwards"):
        page = page_of(archive, {"end": str(10**19), "direction": direction})
        assert ids(page) == ["e0:0"]
        assert items(page_of(archive, {"start": str(10**19), "direction": direction})) == []


def test_page_in_parts_delays_nobody_and_joins_to_the_whole() -> None:
    archive = FakeArchive()
    for n in range(30):
        archive.add((NOW - n << 16) + 1 if n == 0 else (NOW << 16) + n + 1, 40 if n % 3 else 300, size=200)
    page = page_of(archive, {"limit": "1000"})
    assert page.count == 1000
    parts = list(page.parts())
    assert len(parts) > 8
    for part in parts:
        assert sum(len(indexes) for _, indexes in part) <= room.PART_MESSAGES
        assert len(part) == 1 or sum(len(stored.record) for stored, _ in part) <= room.PART_BYTES
    made = [orjson.loads(message) for part in parts for entry in part for message in page.made(*entry)]
    assert made == items(page)
