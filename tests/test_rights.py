"""Rights that come and go on a connection (AUTH): who loses one on a channel is told so, and loses no message by it.

    may read      1        told: no more        told: RESUMED, from 1 on      4
    published     1   2           3                                           4
    delivered     1                                       2   3               4

Reading stops and goes on at the same place, whatever the reader was doing: live, in the middle of a replay, behind."""

from __future__ import annotations

import json
import random
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from tests.checker import Attached, Delivered, Outcome, PublisherLog, Sent, Stored, SubscriberLog, check
from tests.harness import KEY, Server, request
from tests.wsclient import HAS_BACKLOG, RESUMED, Action, WsClient

PUBLISH, SUBSCRIBE = 1 << 17, 1 << 18
FULL, MUTE, DEAF = ["*"], ["subscribe"], ["publish"]
RING = 64
CONFIG = f"""
[limits]
ring_entries_per_channel = {RING}
[namespaces.written]
durability = "written"
[namespaces.memory]
durability = "memory"
"""


@pytest.fixture(scope="module", params=["plain", "TLS"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    arguments, tls = ([], None) if request.param == "plain" else request.getfixturevalue("authority")
    with Server(tmp_path_factory.mktemp("rights"), config=CONFIG, arguments=arguments) as server:
        yield House(server, tls)
    assert not server.complaints(), server.complaints()


@pytest.fixture(params=["json", "msgpack"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class House:
    """A server whose rings are short, and what its clients need."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self.server, self.tls = server, tls
        self._tokens: dict[str, str] = {}

    def client(self, format: str, operations: list[str] = FULL, **params: Any) -> WsClient:
        given = {"key": None, "access_token": self.token(operations), **params}
        return WsClient(self.server.address, format=format, tls=self.tls, **given)

    def token(self, operations: list[str]) -> str:
        """One that permits this on every channel, in every qualifier."""
        return self.token_of({"[*]*": operations})

    def token_of(self, rights: dict[str, list[str]]) -> str:
        name, capability = KEY.partition(":")[0], json.dumps(rights)
        if capability not in self._tokens:
            path, body = f"/keys/{name}/requestToken", {"keyName": name, "capability": capability}
            status, details, _ = request(self.server.address, "POST", path, body, tls=self.tls)
            assert status in (200, 201), details
            self._tokens[capability] = details["token"]
        return self._tokens[capability]

    def stored(self, channel: str) -> list[Stored]:
        """All of it, page by page."""
        path: str | None = f"/channels/{channel}/messages?limit=1000&direction=forwards"
        found: list[Stored] = []
        while path:
            _, page, links = request(self.server.address, "GET", path, tls=self.tls)
            found += [Stored(message["data"], message["serial"]) for message in page]
            rest = [link[link.index("./") + 2 : link.index(">")] for link in links if 'rel="next"' in link]
            path = f"/channels/{channel}/{rest[0]}" if rest else None
        return found

    def auth(self, client: WsClient, operations: list[str]) -> None:
        client.send({"action": Action.AUTH, "auth": {"accessToken": self.token(operations)}})
        assert client.expect(Action.CONNECTED)["connectionId"] == client.connection_id


def publish(client: WsClient, channel: str, first: int, last: int, **fields: Any) -> None:
    """Each a publish of its own, many at once."""
    for n in range(first, last + 1):
        client.send_messages(channel, [{"data": f"{n}", **fields}])
    count = last + 1 - first
    while count:
        answer = client.expect(Action.ACK)
        count -= answer["count"]


def numbers(client: WsClient, channel: str, count: int) -> list[int]:
    return [int(message["data"]) for message in client.deliveries(channel, count)]


def taken(told: dict[str, Any]) -> set[str]:
    """The modes that an ATTACHED names as lost."""
    assert (told["error"]["code"], told["error"]["statusCode"]) == (40160, 401)
    return set(told["error"]["message"].partition(" permit ")[2].rpartition(" on ")[0].split(", "))


def nothing_more(client: WsClient) -> list[dict[str, Any]]:
    """What comes before the answer to a ping."""
    client.send({"action": Action.HEARTBEAT, "id": "ping"})
    client.expect(Action.HEARTBEAT)
    came, client.inbox = list(client.inbox), type(client.inbox)()
    return came


@pytest.mark.parametrize("prefix", ["", "written:", "memory:", "[?rewind=1]", "[?echo=false]"])
def test_client_with_lost_read_rights_resumes_at_its_cursor(house, channel, format, prefix):
    name, plain = prefix + channel, prefix * (prefix[:1] != "[") + channel
    with house.client(format) as client, house.client("json") as other:
        client.attach(name)
        publish(other, plain, 1, 1)
        (first,) = client.deliveries(name, 1)
        house.auth(client, DEAF)
        told = client.expect(Action.ATTACHED, channel=name)
        assert taken(told) == {"subscribe"}
        assert told["channelSerial"] == first["channelSerial"]
        assert told["flags"] & PUBLISH and not told["flags"] & (SUBSCRIBE | RESUMED | HAS_BACKLOG)
        publish(other, plain, 2, 3)
        assert nothing_more(client) == []
        house.auth(client, FULL)
        told = client.expect(Action.ATTACHED, channel=name)
        assert told["flags"] & SUBSCRIBE and told["flags"] & RESUMED and told["flags"] & HAS_BACKLOG
        assert "error" not in told
        assert told["channelSerial"] == first["channelSerial"]
        publish(other, plain, 4, 4)
        assert numbers(client, name, 3) == [2, 3, 4]
        assert nothing_more(client) == []


@pytest.mark.parametrize("count", [3, 3 * RING], ids=["from the ring", "from the journal"])
def test_the_checker_finds_no_gap_and_no_repeat(house, channel, format, count):
    """Rights come and go at random, while others publish; each time some of it is read."""
    chance = random.Random(count)
    events: list[Attached | Delivered] = []
    sent = 0

    def hear(last: str = "") -> None:
        """What has come so far, in its order; or until the one that has this mark."""
        client.send({"action": Action.HEARTBEAT, "id": "ping"})
        while True:
            message = client.receive()
            if message["action"] == Action.HEARTBEAT and not last:
                return
            if message["action"] == Action.ATTACHED:
                events.append(Attached(bool(message["flags"] & RESUMED), message["channelSerial"]))
            elif message["action"] == Action.MESSAGE:
                for each in client.members(message):
                    events.append(Delivered(each["data"], each["serial"], each["channelSerial"]))
                    if each["data"] == last:
                        return

    with house.client(format) as client, house.client("json") as other:
        client.send({"action": Action.ATTACH, "channel": channel})
        hear()
        for operations in [chance.choice([FULL, MUTE, DEAF]) for _ in range(12)] + [FULL]:
            client.send({"action": Action.AUTH, "auth": {"accessToken": house.token(operations)}})
            if chance.random() < 0.5:
                hear()
            publish(other, channel, sent + 1, sent + count)
            sent += count
        publish(other, channel, sent + 1, sent + 1)
        hear(f"{sent + 1}")
    stored = house.stored(channel)
    marks = [f"{n}" for n in range(1, sent + 2)]
    assert [event.mark for event in events if isinstance(event, Delivered)] == marks
    log = SubscriberLog("s", events, may_lose=True)  # to be told that one may not read is no loss
    report = check([PublisherLog("p", [Sent(mark, Outcome.ACKED) for mark in marks])], [log], stored)
    assert not report.faults, str(report)


def test_client_back_too_late_is_told_of_lost_continuity(house, channel, format):
    channel = f"memory:{channel}"
    with house.client(format) as client, house.client("json") as other:
        client.attach(channel)
        house.auth(client, DEAF)
        publish(other, channel, 1, 2 * RING)
        house.auth(client, FULL)
        client.expect(Action.ATTACHED, channel=channel)  # of having lost the right
        told = client.expect(Action.ATTACHED, channel=channel)
        assert told["flags"] & SUBSCRIBE and not told["flags"] & RESUMED
        assert told["error"]["code"] == 90003
        publish(other, channel, 1000, 1000)
        assert numbers(client, channel, 1) == [1000]


@pytest.mark.parametrize("steps", [[DEAF, FULL], [DEAF, FULL, DEAF, FULL], [DEAF, MUTE, FULL], [DEAF, DEAF, FULL]])
@pytest.mark.parametrize("reader", ["replays", "is behind"])
def test_a_reader_in_the_middle_of_what_it_missed_gets_the_rest(house, channel, format, reader, steps):
    """It does not read from its socket while its rights change: so there is always more to come."""
    count, padding = 600, "x" * 8000  # 5 MB: more than sockets and rings hold
    with house.client(format) as client, house.client("json") as other:
        attached = client.attach(channel)
        if reader == "replays":
            client.send({"action": Action.DETACH, "channel": channel})
            client.expect(Action.DETACHED)
        publish(other, channel, 1, count, name=padding)
        if reader == "replays":
            client.send({"action": Action.ATTACH, "channel": channel, "channelSerial": attached["channelSerial"]})
        for operations in steps:
            client.send({"action": Action.AUTH, "auth": {"accessToken": house.token(operations)}})
        assert numbers(client, channel, count) == list(range(1, count + 1))
        publish(other, channel, count + 1, count + 1)
        assert numbers(client, channel, 1) == [count + 1]
        client.inbox.clear()
        assert nothing_more(client) == []


def test_reading_continues_while_publish_rights_change(house, channel, format):
    with house.client(format) as client, house.client("json") as other:
        client.attach(channel)
        publish(client, channel, 1, 1)  # the next would go the short way
        publish(other, channel, 2, 2)
        for round in range(2):
            (*_, last) = client.deliveries(channel, 2)
            house.auth(client, MUTE)
            told = client.expect(Action.ATTACHED, channel=channel)
            assert told["flags"] & SUBSCRIBE and told["flags"] & RESUMED and not told["flags"] & PUBLISH
            assert taken(told) == {"publish"}
            assert told["channelSerial"] == last["channelSerial"]
            client.send_messages(channel, [{"data": "refused"}])
            assert client.expect(Action.NACK)["error"]["code"] == 40160
            publish(other, channel, 10 * round + 3, 10 * round + 3)
            assert numbers(client, channel, 1) == [10 * round + 3]
            house.auth(client, FULL)
            told = client.expect(Action.ATTACHED, channel=channel)
            assert told["flags"] & SUBSCRIBE and told["flags"] & RESUMED and told["flags"] & PUBLISH
            assert "error" not in told
            publish(client, channel, 10 * round + 4, 10 * round + 4)
            publish(other, channel, 10 * round + 5, 10 * round + 5)
        assert numbers(client, channel, 2) == [14, 15]
        assert nothing_more(client) == []


def test_the_right_to_read_for_that_to_publish_is_told_at_once(house, channel, format):
    with house.client(format, DEAF) as client, house.client("json") as other:
        attached = client.attach(channel)
        assert not attached["flags"] & SUBSCRIBE
        publish(other, channel, 1, 2)
        house.auth(client, MUTE)
        told = client.expect(Action.ATTACHED, channel=channel)
        assert told["flags"] & SUBSCRIBE and told["flags"] & RESUMED and not told["flags"] & PUBLISH
        assert told["error"]["code"] == 40160
        assert told["channelSerial"] == attached["channelSerial"], "messages follow the place that it was told"
        assert numbers(client, channel, 2) == [1, 2]


def test_the_same_rights_anew_disturb_nothing(house, channel, format):
    with house.client(format) as client, house.client("json") as other:
        for name in (channel, f"[?rewind=5]{channel}"):
            client.attach(name)
        for n in range(3):
            house.auth(client, FULL)
            publish(other, channel, n, n)
            for name in (channel, f"[?rewind=5]{channel}"):
                assert numbers(client, name, 1) == [n]
        assert nothing_more(client) == []


@pytest.mark.parametrize("way", ["flags", "params"])
def test_client_without_subscribe_mode_gets_nothing(house, channel, format, way):
    asked = {"flags": PUBLISH} if way == "flags" else {"params": {"modes": "publish"}}
    with house.client(format) as client, house.client("json") as other:
        client.attach(channel, **asked)
        for operations in (DEAF, FULL):
            house.auth(client, operations)
            publish(other, channel, 1, 1)
        assert nothing_more(client) == []
        house.auth(client, MUTE)
        error = client.expect(Action.ERROR, channel=channel)["error"]
        assert (error["code"], error["statusCode"]) == (40160, 401)


def test_each_of_several_channels_is_told_of_what_is_its_own(house, channel, format):
    read, write, both = (f"{channel}:{name}" for name in ("read", "write", "both"))
    narrow = house.token_of({read: MUTE, write: DEAF, both: FULL})
    with house.client(format) as client, house.client("json") as other:
        for each in (read, write, both):
            client.attach(each)
        client.send({"action": Action.AUTH, "auth": {"accessToken": narrow}})
        client.expect(Action.CONNECTED)
        told = {message["channel"]: message for message in nothing_more(client)}
        assert set(told) == {read, write}
        assert bool(told[read]["flags"] & RESUMED) and not told[write]["flags"] & RESUMED
        for each in (read, write, both):
            publish(other, each, 1, 2)
        house.auth(client, FULL)
        assert [numbers(client, each, 2) for each in (read, write, both)] == [[1, 2]] * 3


@pytest.mark.parametrize("how", ["again", "again as attached", "with a place"])
def test_attaching_anew_without_the_right_keeps_the_place(house, channel, format, how):
    """What an SDK does when options change, or when an application attaches because nothing comes."""
    with house.client(format) as client, house.client("json") as other:
        place = client.attach(channel)["channelSerial"]
        house.auth(client, DEAF)
        publish(other, channel, 1, 2)
        fields = {"again": {}, "again as attached": {"flags": 32}, "with a place": {"channelSerial": place}}[how]
        client.expect(Action.ATTACHED)
        assert client.attach(channel, **fields)["channelSerial"] == place
        publish(other, channel, 3, 3)
        house.auth(client, FULL)
        assert client.expect(Action.ATTACHED)["flags"] & RESUMED
        assert numbers(client, channel, 3) == [1, 2, 3]


def test_connection_back_with_less_rights_continues_with_more(house, channel, format):
    """As after its token was revoked: DISCONNECTED, then a resume with another one."""
    with house.client(format) as client, house.client("json") as other:
        place = client.attach(channel)["channelSerial"]
        client.drop()
        publish(other, channel, 1, 2)
        with house.client(format, DEAF, resume=client.connection_key) as again:
            assert again.connection_id == client.connection_id
            told = again.attach(channel, channelSerial=place)
            assert told["channelSerial"] == place and not told["flags"] & SUBSCRIBE
            publish(other, channel, 3, 3)
            house.auth(again, FULL)
            told = again.expect(Action.ATTACHED)
            assert told["flags"] & RESUMED and "error" not in told
            assert numbers(again, channel, 3) == [1, 2, 3]


def test_attach_and_detach_with_new_rights_keep_their_order(house, channel, format):
    with house.client(format) as client, house.client("json") as other:
        client.attach(channel)
        publish(other, channel, 1, 2 * RING)  # so that the journal has to be asked
        client.deliveries(channel, 2 * RING)
        house.auth(client, DEAF)
        publish(other, channel, 1, 2 * RING)
        client.expect(Action.ATTACHED)
        for message in (
            {"action": Action.AUTH, "auth": {"accessToken": house.token(FULL)}},
            {"action": Action.DETACH, "channel": channel},
            {"action": Action.ATTACH, "channel": channel},
        ):
            client.send(message)
        came = [client.expect(Action.ATTACHED, Action.DETACHED, channel=channel)["action"] for _ in range(3)]
        assert came == [Action.ATTACHED, Action.DETACHED, Action.ATTACHED]
        client.inbox.clear()
        publish(other, channel, 9, 9)
        assert 9 in numbers(client, channel, 1)
