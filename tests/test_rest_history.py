"""History over HTTP from a running server: edges, bounds, forms; from the journal, and from memory where that is all.

What is right is said by the whole list: a page is a cut of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness import Server, wait_until
from tests.restclient import FORMATS, Answer, RestClient
from tests.wsclient import WsClient

ENTRIES = 5
LINK = re.compile(r'<\./(messages|history)\?([^,;>]*)>; rel="(\w+)"')
KEPT = pytest.mark.parametrize("kept", ["journal", "memory"])  # the namespace says where it is read from


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = '[namespaces.memory]\ndurability = "memory"\n'
    config += '[namespaces.journal]\ndurability = "written"\npersisted_hours = 1\n'
    with Server(tmp_path_factory.mktemp("history"), config=config) as running:
        for name in ("journal:ticks", "memory:ticks"):
            fill(running, name)
        yield running
    assert not running.complaints(), running.complaints()


def fill(server: Server, channel: str) -> None:
    """Entries of two messages, each of a millisecond of its own."""
    with RestClient(server.address) as rest:
        for n in range(ENTRIES):
            serial = rest.publish(channel, [{"data": f"{n}a"}, {"data": f"{n}b"}])["serials"][0]
            now = int(serial[:15])
            wait_until(lambda now=now: time.time() * 1000 > now + 2)


@pytest.fixture
def rest(both: Server, packed: bool) -> Iterator[RestClient]:
    with RestClient(both.address, packed=packed) as made:
        yield made


def links(answer: Answer) -> dict[str, str]:
    found = {match[3]: f"{match[1]}?{match[2]}" for match in LINK.finditer(answer.headers.get("link", ""))}
    assert answer.headers.get("link", "").count("rel=") == len(found)
    return found


def read(rest: RestClient, channel: str, query: str, resource: str = "messages") -> list[dict[str, Any]]:
    """All pages. Each page's ``first`` and ``current`` lead to what they say."""
    base, items, following = f"/channels/{channel}/", [], f"{resource}?{query}"
    first = None
    while following:
        answer = rest.ask("GET", base + following)
        assert answer.status == 200, answer
        told = links(answer)
        again = rest.ask("GET", base + told["current"])
        assert again.value == answer.value, "current is the page itself"
        if first is None:
            first = answer.value
        assert rest.ask("GET", base + told["first"]).value == first
        items += answer.value
        following = told.get("next", "")
        assert answer.value or not following
    return items


@KEPT
@FORMATS
def test_start_and_end_are_inclusive_to_the_millisecond(rest: RestClient, kept: str) -> None:
    channel = f"{kept}:ticks"
    whole = read(rest, channel, "direction=forwards")
    times = sorted({message["timestamp"] for message in whole})
    assert len(whole) == 2 * ENTRIES and len(times) == ENTRIES
    marks = [times[0] - 1, *times, times[1] + 1, times[-1] + 1]
    for start in marks:
        for end in marks:
            for direction in ("forwards", "backwards"):
                query = f"start={start}&end={end}&direction={direction}"
                if start > end:
                    assert rest.ask("GET", f"/channels/{channel}/messages?{query}").refusal == (400, 40003)
                    continue
                expected = [message for message in whole if start <= message["timestamp"] <= end]
                assert read(rest, channel, query) == (expected if direction == "forwards" else expected[::-1])
    assert read(rest, channel, f"start={times[2]}") == [m for m in whole[::-1] if m["timestamp"] >= times[2]]
    assert read(rest, channel, f"end={times[2]}") == [m for m in whole[::-1] if m["timestamp"] <= times[2]]


@KEPT
@FORMATS
@pytest.mark.parametrize("resource", ["messages", "history"])
def test_any_limit_gives_the_same_list(rest: RestClient, kept: str, resource: str) -> None:
    channel = f"{kept}:ticks"
    whole = read(rest, channel, "direction=forwards")
    for limit in (1, 2, 3, 9, 10, 11, 1000):
        for direction in ("forwards", "backwards", ""):
            query = f"limit={limit}" + (f"&direction={direction}" if direction else "")
            expected = whole if direction == "forwards" else whole[::-1]
            assert read(rest, channel, query, resource) == expected


@FORMATS
def test_page_has_a_hundred_or_a_requested_thousand_at_most(rest: RestClient, channel: str, packed: bool) -> None:
    for first in (0, 501):
        rest.publish(channel, [{"data": str(n)} for n in range(first, first + 501)])
    sizes = {"": 100, "limit=1": 1, "limit=0999": 999, "limit=1000": 1000}
    for query, size in sizes.items():
        answer = rest.ask("GET", f"/channels/{channel}/messages?{query}")
        assert [message["data"] for message in answer.value] == [str(n) for n in range(1001, 1001 - size, -1)]
        assert "next" in links(answer)
    for limit in ("0", "1001", "-1", "abc", "1.0", "", "%D9%A1", "1e2", "99999999999999999999999"):
        assert rest.ask("GET", f"/channels/{channel}/messages?limit={limit}").refusal == (400, 40003)
    for query in ("direction=up", "direction=", "start=x", "end=-1", "start=1.5", "end=x"):
        assert rest.ask("GET", f"/channels/{channel}/messages?{query}").refusal == (400, 40003)
    following, seen = "messages?limit=1000&direction=forwards", 0
    while following:
        answer = rest.ask("GET", f"/channels/{channel}/{following}")
        seen += len(answer.value)
        following = links(answer).get("next", "")
    assert seen == 1002


@KEPT
def test_both_formats_say_the_same(both: Server, kept: str, channel: str) -> None:
    name = f"{kept}:{channel}"
    with RestClient(both.address) as as_json, RestClient(both.address, packed=True) as as_msgpack:
        as_json.publish(name, {"name": "n", "data": {"a": [1, "č"]}, "extras": {"headers": {"k": 1}}, "clientId": "me"})
        as_msgpack.publish(name, {"data": b"\x00\xff"})
        one, other = (rest.ask("GET", f"/channels/{name}/messages") for rest in (as_json, as_msgpack))
    assert one.value[1] == other.value[1]
    assert (one.value[0].pop("data"), one.value[0].pop("encoding")) == ("AP8=", "base64")
    assert other.value[0].pop("data") == b"\x00\xff" and one.value[0] == other.value[0]


@KEPT
@FORMATS
@pytest.mark.parametrize("envelope", ["json", "msgpack"])
def test_pages_in_envelopes_are_the_pages(rest: RestClient, kept: str, envelope: str) -> None:
    channel = f"{kept}:ticks"
    expected = [(message["id"], message["data"]) for message in read(rest, channel, "")]
    following: str | None = f"./messages?limit=3&envelope={envelope}"
    found: list[tuple[str, str]] = []
    while following is not None:
        answer = rest.ask("GET", f"/channels/{channel}/{following.removeprefix('./')}")
        assert (answer.status, answer.headers["content-type"]) == (
            200,
            f"application/{'x-' * (envelope > 'k')}{envelope}",
        )
        assert "link" not in answer.headers
        value = answer.value
        assert value["statusCode"] == 200
        found += [(message["id"], message["data"]) for message in value["response"]]
        assert {match[3]: f"./{match[1]}?{match[2]}" for match in LINK.finditer(value["headers"]["link"])} == value[
            "rel"
        ]
        following = value["rel"].get("next")
    assert found == expected


@KEPT
@FORMATS
def test_up_to_an_attach_point(both: Server, rest: RestClient, kept: str) -> None:
    channel = f"{kept}:ticks"
    whole = read(rest, channel, "")
    for place in (0, 4, 2 * ENTRIES - 2):
        serial = whole[place]["serial"]
        entry = serial.rpartition(":")[0]
        for name in ("from_serial", "fromSerial"):
            assert read(rest, channel, f"{name}={quote(entry)}&limit=2") == whole[place - place % 2 :]
        assert read(rest, channel, f"from_serial={quote(serial)}&limit=3") == whole[place:]
    with WsClient(both.address) as client:
        attached = quote(client.attach(channel)["channelSerial"])
        assert read(rest, channel, f"from_serial={attached}") == whole
        assert read(rest, channel, f"from_serial={attached}&end={whole[-1]['timestamp']}") == whole[-2:]
        elsewhere = quote(client.attach("journal:other" if kept == "memory" else "memory:other")["channelSerial"])
    base = f"/channels/{channel}/messages?"
    assert rest.ask("GET", f"{base}from_serial={attached}&direction=forwards").refusal == (400, 40003)
    for unknown in ("nonsense", "", "0", elsewhere):
        assert rest.ask("GET", f"{base}from_serial={unknown}").refusal == (404, 90008), unknown
    for cursor in ("nonsense", quote(whole[0]["serial"].replace("@", "@x")), elsewhere):
        assert rest.ask("GET", f"{base}cursor={cursor}").refusal == (400, 40011), cursor


@KEPT
@FORMATS
def test_a_channel_of_nobody_has_an_empty_history(rest: RestClient, kept: str, channel: str) -> None:
    for query in ("", "direction=forwards", "start=5", "start=99999999999999", "limit=1000"):
        answer = rest.ask("GET", f"/channels/{kept}:{channel}/messages?{query}")
        assert (answer.status, answer.value) == (200, [])
        assert set(links(answer)) == {"first", "current"}


@FORMATS
def test_a_page_in_an_envelope_has_what_it_has_without_one(both: Server, rest: RestClient) -> None:
    """Pages are encoded message by message, and put into the envelope as they are."""
    form = "msgpack" if rest.packed else "json"
    for query in ("limit=3", "limit=1000", "limit=3&start=0&end=1"):
        plain = rest.ask("GET", f"/channels/journal:ticks/messages?{query}")
        wrapped = rest.ask("GET", f"/channels/journal:ticks/messages?{query}&envelope={form}")
        assert wrapped.value["statusCode"] == 200
        assert wrapped.value["response"] == plain.value


@FORMATS
@pytest.mark.parametrize("direction", ["forwards", "backwards"])
def test_ephemeral_messages_end_no_page_in_memory(both: Server, rest: RestClient, packed: bool, direction: str) -> None:
    """More of them than are looked at in one step of reading."""
    name = f"memory:fleeting-{packed}-{direction}"
    with WsClient(both.address) as client:
        client.publish(name, {"data": "first"})
        for _ in range(40):
            client.publish(name, {"data": "x" * 4000, "extras": {"ephemeral": True}})
        client.publish(name, {"data": "last"})
    found = [message["data"] for message in read(rest, name, f"limit=1&direction={direction}")]
    assert found == (["first", "last"] if direction == "forwards" else ["last", "first"])
