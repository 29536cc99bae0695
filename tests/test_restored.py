"""A copy of the data directory is put back, or runs beside the original: what it never had, it vouches for to nobody.

    n1 to n5 | the copy is taken | n6 to n10    in a life that is lost with the directory that is thrown away
    n1 to n5 |                   | n11          what the copy goes on with

Whoever comes with a place that the lost life gave out is told so; whoever has one from before the copy, or of a
directory that was only started again, goes on as ever."""

from __future__ import annotations

import shutil
import ssl
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.journal.store import META, RocksStore
from tests.checker import Attached, Delivered, Outcome, PublisherLog, Sent, Stored, SubscriberLog, check
from tests.harness import Server, channel_path, request, wait_until
from tests.wsclient import RESUMED, WsClient

FORMATS = ("json", "msgpack")
CLASSES = ("", "kept:", "written:")  # the ways in which messages are stored
CONFIG = """
[namespaces.kept]
persisted_hours = 24
[namespaces.written]
durability = "written"
[namespaces.memory]
durability = "memory"
"""


@dataclass
class House:
    """A server that may be looked into, and what its clients need."""

    server: Server
    tls: ssl.SSLContext | None = None
    format: str = "json"

    def client(self, **params: Any) -> WsClient:
        return WsClient(self.server.address, format=self.format, tls=self.tls, **params)

    def get(self, path: str, **query: str) -> tuple[int, Any, list[str]]:
        parameters = f"?{urllib.parse.urlencode(query)}" if query else ""
        return request(self.server.address, "GET", path + parameters, tls=self.tls)

    def publish(self, channel: str, first: int, last: int) -> list[Sent]:
        with self.client() as client:
            return [
                Sent(f"n{n}", Outcome.ACKED, client.publish(channel, {"data": f"n{n}"})[0])
                for n in range(first, last + 1)
            ]


class Follower:
    """Comes and goes, and goes on each time from the place that it has; keeps a log for the checker."""

    def __init__(self, house: House, channel: str) -> None:
        self.house, self.channel = house, channel
        self.place = ""
        self.events: list[Attached | Delivered] = []

    def hear(self, count: int) -> bool:
        """Attach and take so many messages; whether it was resumed."""
        with self.house.client() as client:
            told = client.attach(self.channel, **({"channelSerial": self.place} if self.place else {}))
            resumed, self.place = bool(told["flags"] & RESUMED), told["channelSerial"]
            assert ("error" in told) == (bool(self.events) and not resumed)
            self.events.append(Attached(resumed, self.place))
            for message in client.deliveries(self.channel, count):
                self.place = message["channelSerial"]
                self.events.append(Delivered(message["data"], message["serial"], self.place))
        return resumed


@dataclass
class Story:
    """What clients have from before the copy, and from the life that was lost: of one channel, in one format."""

    house: House
    channel: str
    before: list[dict[str, Any]] = field(default_factory=list)  # the messages n1 to n5
    seen: list[dict[str, Any]] = field(default_factory=list)  # n6 to n10
    point: str = ""  # where somebody attached after n10
    quiet: str = ""  # and to a channel in which nothing was said
    page_before: str = ""  # the next page of a history that began then
    page: str = ""
    early: WsClient | None = None
    moved: WsClient | None = None  # opened before, resumed in the lost life
    late: WsClient | None = None
    follower: Follower | None = None
    sent: list[Sent] = field(default_factory=list)

    def before_the_copy(self) -> None:
        house, channel = self.house, self.channel
        with house.client() as self.early, house.client() as client:
            client.attach(channel)
            self.sent = house.publish(channel, 1, 5)
            self.before = client.deliveries(channel, 5)
        self.moved = client
        self.follower = Follower(house, channel)
        self.follower.place = self.before[0]["channelSerial"]
        self.follower.events = [Attached(False), Delivered("n1", self.before[0]["serial"], self.follower.place)]
        assert self.follower.hear(4)
        self.page_before = self.next_page()

    def in_the_lost_life(self) -> None:
        house, channel = self.house, self.channel
        assert self.follower is not None and self.moved is not None
        with house.client() as self.late, house.client(resume=self.moved.connection_key) as again:
            assert again.connection_id == self.moved.connection_id
            again.attach(channel)
            assert again.publish(channel, {"id": "an id of one's own", "data": "n6"})
            house.publish(channel, 7, 10)
            self.seen = again.deliveries(channel, 5)
            self.point = again.attach(channel)["channelSerial"]
            self.quiet = again.attach(f"{channel}-quiet")["channelSerial"]
            assert self.late.publish(f"{channel}-other", {"data": "x"})
        self.moved = again
        assert self.follower.hear(3)
        del self.follower.events[-4:]  # the checker is asked about what this server knows
        self.page = self.next_page()

    def next_page(self) -> str:
        status, _, links = self.house.get(channel_path(self.channel), limit="2")
        assert status == 200
        (link,) = [link for link in links if 'rel="next"' in link]
        return channel_path(self.channel).rpartition("/")[0] + link[link.index("./") + 1 : link.index(">")]


Lost = dict[tuple[str, str], Story]


@pytest.fixture(scope="module", params=["plain", "TLS"])
def secured(request: pytest.FixtureRequest) -> tuple[list[str], ssl.SSLContext | None]:
    """Arguments of the server, and what its clients need."""
    return ([], None) if request.param == "plain" else request.getfixturevalue("authority")  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["cold", "hot"])
def lost(
    request: pytest.FixtureRequest,
    secured: tuple[list[str], ssl.SSLContext | None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lost]:
    """The server that goes on from the copy. A cold one is of a server that has stopped, a hot one of one that runs."""
    arguments, tls = secured
    server = Server(tmp_path_factory.mktemp("restored"), config=CONFIG, arguments=arguments)
    copy = server.directory / "copy"
    with server:
        stories = {
            (format, kind): Story(House(server, tls, format), f"{kind}{format}")
            for format in FORMATS
            for kind in CLASSES
        }
        for story in stories.values():
            story.before_the_copy()
        if request.param == "cold":
            server.stop()
        shutil.copytree(server.data, copy, ignore=shutil.ignore_patterns("*.dbtmp"))  # about to be renamed
        if request.param == "cold":
            server.start()
        for story in stories.values():
            story.in_the_lost_life()
        server.kill()
        shutil.rmtree(server.data)
        copy.rename(server.data)
        server.start()
        for story in stories.values():
            story.sent += story.house.publish(story.channel, 11, 11)
        yield stories
    assert not server.complaints(), server.complaints()


@pytest.fixture(params=FORMATS)
def story(request: pytest.FixtureRequest, lost: Lost) -> Story:
    return lost[request.param, ""]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("format", FORMATS)
def test_place_of_a_lost_life_is_a_told_discontinuity(lost, format, kind):
    story = lost[format, kind]
    house, channel = story.house, story.channel
    places = [(message["channelSerial"], channel) for message in story.seen]
    for place, name in [*places, (story.point, channel), (story.quiet, f"{channel}-quiet")]:
        with house.client() as client:
            told = client.attach(name, channelSerial=place)
            assert not told["flags"] & RESUMED, place
            assert told["error"]["code"] == 90003
            client.publish(f"{name}-live", {"data": "x"})
            after = client.attach(name, channelSerial=told["channelSerial"])
            assert after["flags"] & RESUMED and "error" not in after, "what it was told is a place to go on from"
    for at, message in enumerate(story.before):  # these were given out before the copy
        with house.client() as client:
            told = client.attach(channel, channelSerial=message["channelSerial"])
            assert told["flags"] & RESUMED and "error" not in told
            assert told["channelSerial"] == message["channelSerial"]
            following = client.deliveries(channel, 5 - at)
            assert [each["data"] for each in following] == [*(f"n{n}" for n in range(at + 2, 6)), "n11"]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("format", FORMATS)
def test_the_checker_finds_no_gap_that_was_not_told(lost, format, kind):
    """One who was there all the time, and one who had not been there while the copy was away."""
    story = lost[format, kind]
    late, early = story.follower, Follower(story.house, story.channel)
    early.place = story.before[0]["channelSerial"]
    early.events = [Attached(False), Delivered("n1", story.before[0]["serial"], early.place)]
    assert early.hear(5)
    assert not late.hear(0)
    sent = [*story.sent, *story.house.publish(story.channel, 12, 13)]
    assert late.hear(2) and early.hear(2)
    status, page, _ = story.house.get(channel_path(story.channel), direction="forwards", limit="1000")
    assert status == 200
    report = check(
        [PublisherLog("p", sent, all_answered=True)],
        [SubscriberLog("early", early.events), SubscriberLog("late", late.events, may_lose=True)],
        [Stored(message["data"], message["serial"]) for message in page],
    )
    assert not report.faults, str(report)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("format", FORMATS)
def test_history_from_a_lost_life_is_refused(lost, format, kind):
    story = lost[format, kind]
    path = channel_path(story.channel)
    for place in (story.point, story.seen[-1]["channelSerial"], story.seen[1]["serial"]):
        status, body, _ = story.house.get(path, from_serial=place)
        assert (status, body["error"]["code"]) == (404, 90008)
    status, body, _ = story.house.get(story.page)
    assert (status, body["error"]["code"]) == (400, 40011)
    status, body, _ = story.house.get(path, from_serial=story.before[-1]["channelSerial"])
    assert (status, [message["data"] for message in body]) == (200, ["n5", "n4", "n3", "n2", "n1"])
    status, body, _ = story.house.get(story.page_before)
    assert (status, [message["data"] for message in body]) == (200, ["n3", "n2"])


def test_a_connection_of_the_lost_life_is_not_taken_up_again(story):
    house, path = story.house, channel_path(f"{story.channel}-by-key")
    for lost in (story.late, story.moved):  # a key that this directory did not give out
        with house.client(resume=lost.connection_key) as client:
            assert client.connection_id != lost.connection_id
            assert client.connected["error"]["code"] == 80005
        with house.client(recover=lost.connection_key) as client:
            assert client.connected["error"]["code"] == 80005
        body = {"data": "x", "connectionKey": lost.connection_key}
        status, answer, _ = request(house.server.address, "POST", path, body, tls=house.tls)
        assert (status, answer["error"]["code"]) == (400, 40006)
    with house.client(resume=story.early.connection_key) as client:
        assert client.connection_id == story.early.connection_id
        assert "error" not in client.connected


def test_an_id_of_the_lost_life_is_a_new_one(story):
    with story.house.client() as client:
        client.attach(f"{story.channel}-ids")
        (serial,) = client.publish(story.channel, {"id": "an id of one's own", "data": "stored"})
        assert serial not in [message["serial"] for message in story.seen]
        assert client.publish(story.channel, {"id": "an id of one's own", "data": "stored"}) == [serial]


@pytest.mark.parametrize("hot", [False, True], ids=["cold copy", "hot copy"])
def test_two_servers_on_copies_know_only_their_own_places(make_server, tmp_path, channel, hot):
    first = make_server()
    with WsClient(first.address) as client:
        client.attach(channel)
        client.publish(channel, {"data": "n1"})
        common = client.deliveries(channel, 1)[0]["channelSerial"]
    (tmp_path / "twin").mkdir()
    second = Server(tmp_path / "twin")
    if not hot:
        first.stop()
    shutil.copytree(first.data, second.data)
    if not hot:
        first.start()
    with second:
        given = {}
        for server in (first, second):
            with WsClient(server.address) as client:
                assert client.attach(channel, channelSerial=common)["flags"] & RESUMED
                client.publish(channel, {"data": "n2"}, {"data": "n3"})
                client.publish(channel, {"data": "n4"})
                given[server] = client.deliveries(channel, 3)[0]["channelSerial"], client.connection_key
        for server, other in ((first, second), (second, first)):
            place, key = given[other]
            with WsClient(server.address, resume=key) as client:
                assert client.connected["error"]["code"] == 80005
                told = client.attach(channel, channelSerial=place)
                assert (bool(told["flags"] & RESUMED), told["error"]["code"]) == (False, 90003)
            place, key = given[server]
            with WsClient(server.address, resume=key) as client:
                assert "error" not in client.connected
                assert client.attach(channel, channelSerial=place)["flags"] & RESUMED
                assert [message["data"] for message in client.deliveries(channel, 1)] == ["n4"]
    assert not second.complaints()


# and no false alarm


@pytest.fixture(params=["stopped", "killed"])
def ended(request: pytest.FixtureRequest) -> Callable[[Server], None]:
    return Server.kill if request.param == "killed" else Server.stop  # type: ignore[return-value]


def test_unaffected_client_is_told_nothing_after_many_starts(make_server, channel, ended):
    """Places of channels in which nothing is said, given out by lives in which nothing was stored, too."""
    server = make_server(config=CONFIG)
    places: dict[str, str] = {}

    def attach(name: str, **fields: Any) -> list[str]:
        with WsClient(server.address) as client:
            given = {"channelSerial": places[name]} if name in places else fields
            told = client.attach(name, **given)
            assert bool(told["flags"] & RESUMED) == ("channelSerial" in given), name
            assert "error" not in told
            places[name] = told["channelSerial"]
            count = {"from a rewind": 2, "from a time": 3}.get(name.partition("-")[2], 0)
            return [message["data"] for message in client.deliveries(name, count)]

    attach("empty from the beginning")
    ended(server)
    server.start()
    for name in (f"{channel}-from a rewind", f"{channel}-from a time"):
        House(server).publish(name, 1, 3)
    attach(f"{channel}-from a rewind", params={"rewind": "2"})
    attach(f"{channel}-from a time", params={"rewind": "60s"})
    attach(f"written:{channel}")
    for n in range(2):
        House(server).publish(f"memory:{channel}", 1, 1)  # moves the clock, and is kept nowhere
        attach(f"new {n}")
        ended(server)
        server.start()
        for name in list(places):
            attach(name)
    assert attach(f"{channel}-from a rewind") == ["n2", "n3"]
    assert attach(f"{channel}-from a time") == ["n1", "n2", "n3"]


def test_place_after_an_unstored_message_is_known_later(make_server, channel, ended):
    """An ephemeral message has a serial, but the journal has no entry of it: how far serials went is noted."""
    server = make_server()
    with WsClient(server.address) as client:
        client.attach(channel)
        client.publish(channel, {"data": "stored"})
        client.publish(channel, {"data": "fleeting", "extras": {"ephemeral": True}})
        place = client.deliveries(channel, 2)[-1]["channelSerial"]
    if ended is Server.kill:
        wait_until(lambda: _noted(server) >= place.partition("@")[0], what="the note", seconds=20)
    ended(server)
    server.start()
    with WsClient(server.address) as client:
        told = client.attach(channel, channelSerial=place)
        assert told["flags"] & RESUMED and "error" not in told


def _noted(server: Server) -> str:
    """How far serials went, as a copy of the journal has it."""
    copy = server.directory / "look"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(server.data / "journal", copy)
    store = RocksStore(copy)
    try:
        head = int.from_bytes(store.get(META, b"head") or b"", "big")
    finally:
        store.close()
    return f"{head >> 16:015d}-{head & 0xFFFF:05d}"


def test_older_server_s_places_are_resumed_as_far_as_stored(make_server, channel):
    """It knew one life of its log, and did not say how far that went; nor when it gave out its last key."""
    server = make_server()
    with WsClient(server.address) as client:
        client.attach(channel)
        House(server).publish(channel, 1, 3)
        first, _, last = client.deliveries(channel, 3)
    server.stop()
    _as_left_by_an_older_one(server.data)
    server.start()
    with WsClient(server.address, resume=client.connection_key) as again:
        assert again.connection_id == client.connection_id
        told = again.attach(channel, channelSerial=first["channelSerial"])
        assert told["flags"] & RESUMED
        assert [message["data"] for message in again.deliveries(channel, 2)] == ["n2", "n3"]
    number, _, series = last["channelSerial"].partition("@")
    beyond = f"{int(number[:15]) + 1:015d}{number[15:]}@{series}"
    with WsClient(server.address) as again:
        assert again.attach(channel, channelSerial=beyond)["error"]["code"] == 90003


def _as_left_by_an_older_one(data: Path) -> None:
    store = RocksStore(data / "journal")
    store.write([(META, b"lives:series", None), (META, b"lives:written", None)])
    store.close()
    alive = data / "alive"
    alive.write_text("".join(f"{' '.join(line.split()[:2])}\n" for line in alive.read_text().splitlines()))
    (data / "issued").unlink()
