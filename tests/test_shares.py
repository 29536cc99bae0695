"""Bounds of the whole server that several apps share: none takes so much that another finds nothing."""

from __future__ import annotations

import pytest

from ext.log.common import share_of
from ext.log.rate import charge
from tests.harness import channel_path, request, wait_until
from tests.restclient import RestClient
from tests.test_memory_budget import serve  # noqa: F401 - a fixture
from tests.wsclient import RefusedError, WsClient

ONE, TWO = "app1.key1:secret", "app2.key1:secret"
IDS, CHANNELS, CONNECTIONS = 400, 40, 24
ATTACHMENTS = 64
SHARED = f"""[limits]
dedup_ids = {IDS}
channels = {CHANNELS}
connections = {CONNECTIONS}
attachments = {ATTACHMENTS}
"""
APPS = "[[apps]]\nid = 'app2'\nkeys = ['app2.key1:secret']\n"
QUOTAS = "[[apps]]\nid = 'app1'\nkeys = []\nlimits = { dedup_ids = 100, channels = 10, bytes_in = 100000 }\n"


class Socket:
    """Publishes over one WebSocket connection: the first of each channel by the long way, the next by the short one."""

    def __init__(self, server, key, format, options, *, plain=True):
        self._client = WsClient(server.address, key=key, format=format, **options)
        self._plain = plain

    def publish(self, channel, *messages):
        """None, or status, code and reason of the refusal."""
        if not self._plain:  # no short way for who gives several ids of his own
            messages = [{"extras": {"headers": {"a": "b"}}, **message} for message in messages]
        try:
            self._client.publish(channel, *messages)
        except RefusedError as refused:
            return refused.code, str(refused)
        return None

    def close(self):
        self._client.drop()


class Http:
    """The same by requests; ``short``: those that are served without a task."""

    def __init__(self, server, key, format, options, *, short=True):
        self._rest = RestClient(server.address, packed=format == "msgpack", short=short, key=key)

    def publish(self, channel, *messages):
        answer = self._rest.ask("POST", channel_path(channel), list(messages))
        if answer.status == 201:
            return None
        return answer.value["error"]["code"], answer.value["error"]["message"]

    def close(self):
        self._rest.close()


WAYS = {
    "socket": lambda *where: Socket(*where),
    "socket, long": lambda *where: Socket(*where, plain=False),
    "http": lambda *where: Http(*where),
    "http, long": lambda *where: Http(*where, short=False),
}
ways = pytest.mark.parametrize("way", WAYS)
formats = pytest.mark.parametrize("format", ["json", "msgpack"])


def until_refused(publisher, channels, *messages, most=1000):
    """How many were taken before, and the refusal."""
    for number in range(most):
        refused = publisher.publish(channels(number), *messages)
        if refused is not None:
            return number, refused
    raise AssertionError(f"{most} were taken")


@formats
@ways
def test_one_app_cannot_use_up_the_message_ids_of_all(serve, way, format):  # noqa: F811 - a fixture
    server, _ = serve(SHARED + APPS)
    first, second = WAYS[way](server, ONE, format, {}), WAYS[way](server, TWO, format, {})
    taken, (code, reason) = until_refused(first, lambda _: "room", {"data": "x"}, {"data": "y"})
    assert IDS * 0.8 < 2 * taken <= IDS * 7 / 8
    assert code == 42910
    assert "app app1" in reason
    assert f"its share of {IDS}" in reason
    for _ in range(10):
        assert second.publish("room", {"data": "x"}) is None
    taken, (code, reason) = until_refused(second, lambda _: "room", {"data": "x"})
    assert taken > 10, "what the first one has left is shared anew"
    assert (code, "app app2" in reason) == (42910, True)
    first.close()
    second.close()


@formats
@ways
def test_one_app_cannot_use_up_the_channels_of_all(serve, way, format):  # noqa: F811
    server, _ = serve(SHARED + APPS)
    first, second = WAYS[way](server, ONE, format, {}), WAYS[way](server, TWO, format, {})
    taken, (code, reason) = until_refused(first, lambda number: f"room-{number}", {"data": "x"})
    assert taken == CHANNELS * 7 // 8
    assert (code, "app app1" in reason, f"its share of {CHANNELS}" in reason) == (50004, True, True)
    assert first.publish("room-1", {"data": "x"}) is None, "those it has it keeps"
    assert until_refused(second, lambda number: f"room-{number}", {"data": "x"})[0] >= 4
    first.close()
    second.close()


@formats
def test_attach_finds_room_beside_an_app_that_attaches_to_all(serve, format):  # noqa: F811
    server, _ = serve(SHARED + APPS)
    with (
        WsClient(server.address, key=ONE, format=format) as first,
        WsClient(server.address, key=TWO, format=format) as second,
    ):
        for number in range(CHANNELS * 7 // 8):
            first.attach(f"room-{number}")
        with pytest.raises(RefusedError, match="its share"):
            first.attach("one more")
        second.attach("room")


@formats
def test_one_app_cannot_use_up_the_attachments_of_all(serve, format):  # noqa: F811
    server, _ = serve(SHARED + APPS)
    with (
        WsClient(server.address, key=ONE, format=format) as first,
        WsClient(server.address, key=ONE, format=format) as again,
        WsClient(server.address, key=TWO, format=format) as second,
    ):
        for number in range(ATTACHMENTS * 7 // 8):
            (first, again)[number % 2].attach(f"room-{number // 2}")
        for _ in range(2):
            with pytest.raises(RefusedError, match=f"app1 has 56 attachments, its share of {ATTACHMENTS}") as refused:
                first.attach("room-of-mine")
            assert (refused.value.code, refused.value.status) == (50004, 503)
        first.attach("room-0")  # attached already: it takes no room
        second.attach("room")
        second.send({"action": 12, "channel": "room"})
        again.drop()
        wait_until(lambda: attaches(first, "room-of-mine"), what="room that another has left")


def attaches(client, channel):
    try:
        client.attach(channel)
    except RefusedError:
        return False
    return True


@formats
def test_one_app_cannot_use_up_the_connections_of_all(serve, format):  # noqa: F811
    server, _ = serve(SHARED + APPS)
    crowd = [WsClient(server.address, key=ONE, format=format) for _ in range(CONNECTIONS * 7 // 8)]
    with WsClient(server.address, key=ONE, format=format, greet=False) as one_more:
        refused = one_more.receive()
    assert (refused["error"]["code"], "its share of" in refused["error"]["message"]) == (50004, True)
    with WsClient(server.address, key=TWO, format=format) as second:
        second.publish("room", {"data": "x"})
    for one in crowd:
        one.drop()


@ways
def test_an_app_that_is_alone_may_have_all(serve, way):  # noqa: F811
    server, _ = serve(SHARED)
    only = WAYS[way](server, ONE, "json", {})
    taken, (code, reason) = until_refused(only, lambda _: "room", {"data": "x"})
    assert (taken, code, "the server remembers" in reason) == (IDS, 42910, True)
    only.close()


@ways
def test_a_quota_takes_the_place_of_a_share(serve, way):  # noqa: F811
    server, _ = serve(SHARED + QUOTAS + APPS)
    first = WAYS[way](server, ONE, "json", {})
    taken, (code, reason) = until_refused(first, lambda number: f"room-{number}", {"data": "x"})
    assert (taken, code) == (10, 42910)
    assert "app app1 has 10 channels in memory, the maximum" in reason
    taken, (code, reason) = until_refused(first, lambda _: "room-1", {"data": "x"})
    assert (taken, code) == (90, 42910)
    assert "app app1 has 100 message ids remembered, the maximum is 100" in reason
    first.close()


@formats
@ways
def test_an_empty_message_is_charged_more_than_nothing(serve, way, format):  # noqa: F811
    config = "[[apps]]\nid = 'app1'\nkeys = []\nlimits = { bytes_in = 640 }\n"
    server, _ = serve(config)
    publisher = WAYS[way](server, ONE, format, {})
    taken, (code, _) = until_refused(publisher, lambda _: "room", {}, {}, {}, {}, {}, most=100)
    assert taken < 20, "two are a second's worth"
    assert code == 42910
    publisher.close()
    status, stats, _ = request(server.address, "GET", "/stats?unit=minute")
    assert status == 200
    assert stats[0]["entries"]["messages.inbound.all.messages.count"] == 5 * taken, "what is told stays true"


def test_share_leaves_something_for_later_apps():
    for most in (1, 7, 8, 100, 4096):
        own = 0
        while own < most and own + 1 <= share_of(most, own + 1):
            own += 1
        assert own == max(1, most * 7 // 8)
    assert share_of(10, 10) == share_of(10, 11) == 1


def test_message_is_charged_its_size_but_at_least_the_minimum():
    assert [charge(count, size) for count, size in ((1, 0), (1, 63), (1, 65), (10, 100), (2, 1000))] == [
        *(64, 64, 65, 640, 1000)
    ]
