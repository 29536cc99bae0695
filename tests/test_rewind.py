"""A rewind counts messages: it begins inside a publish where the last messages of that are enough."""

from __future__ import annotations

import pytest

from tests.harness import Server
from tests.wsclient import HAS_BACKLOG, RESUMED, Action, Served

CONFIG = """
[limits]
ring_entries_per_channel = 32
[namespaces.quick]
durability = "memory"
"""
MANY = 1000  # messages of one publish, the most there may be
LATER = 40  # publishes behind it push it out of the ring


@pytest.fixture(scope="module", params=["plain", "TLS"])
def served(request, tmp_path_factory):
    arguments, tls = ([], None) if request.param == "plain" else request.getfixturevalue("authority")
    with Server(tmp_path_factory.mktemp("rewind"), config=CONFIG, arguments=arguments) as server:
        yield Served(server, tls)
    assert not server.complaints(), server.complaints()


@pytest.fixture
def publisher(served):
    with served.client() as client:
        yield client


def filled(served, publisher, channel, where):
    """A channel with one large publish, which is in the ring, in a stream, or on disk alone; so many come behind it."""
    name = f"{'quick:' if where == 'memory' else ''}{channel}-{served.tls is not None}"
    publisher.publish(name, *[{"data": f"{n}", "name": "n"} for n in range(MANY)])
    later = LATER if where == "journal" else 3
    for n in range(later):
        publisher.publish(name, {"data": f"later {n}"})
    return name, later


def until(client, channel, last):
    """All messages up to that one, each with its position and id."""
    got = []
    while not got or got[-1]["data"] != last:
        got += client.deliveries(channel, 1)
    return got


def told(messages):
    return [(message["id"], message["serial"], message["data"]) for message in messages]


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("where", ["ring", "stream", "memory", "journal"])
def test_as_many_messages_come_as_requested_with_their_names(served, publisher, channel, where, format):
    with served.client(format) as watcher:
        name, later = filled(served, publisher, f"{channel}-{format}", where)
        stored = served.history(name)
        if where == "stream":
            watcher.attach(name)
            publisher.publish(name, *[{"data": f"{n}"} for n in range(5)])
            publisher.publish(name, {"data": "and one"})
            stored, later = served.history(name), 1
        last = stored[-1]["data"]
        for part in (1, 2, 5 if where == "stream" else MANY - 1):
            with served.client(format) as client:
                attached = client.attach(name, params={"rewind": str(later + part)})
                assert attached["flags"] & HAS_BACKLOG
                assert "error" not in attached
                first = client.expect(Action.MESSAGE)
                client.inbox.appendleft(first)
                assert told(until(client, name, last)) == told(stored[-later - part :])
                assert first["id"] == first["messages"][0]["id"].rpartition(":")[0]
                assert len(first["messages"]) == part
                assert first["messages"][0]["serial"].startswith(f"{first['channelSerial']}:")
                assert attached["channelSerial"] < first["channelSerial"]
                with served.client(format) as back:  # who lost its connection after the first of them
                    resumed = back.attach(name, channelSerial=first["channelSerial"], params={"rewind": "3"})
                    assert resumed["flags"] & RESUMED
                    assert told(until(back, name, last)) == told(stored[-later:])


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"rewind": "2m"}, MANY + 3),
        ({"rewind": "2m", "rewindLimit": "7"}, 7),
        ({"rewind": "100", "rewindLimit": "7"}, 7),
        ({"rewind": str(MANY + 3)}, MANY + 3),
        ({"rewind": str(MANY + 4)}, MANY + 3),
        ({"rewind": "3"}, 3),
    ],
)
def test_a_time_cuts_no_publish_and_a_number_does(served, publisher, channel, params, expected):
    name, _ = filled(served, publisher, channel, "ring")
    with served.client() as client:
        client.attach(name, params=params)
        assert told(until(client, name, "later 2")) == told(served.history(name)[-expected:])


def test_own_publish_is_counted_in_part_and_does_not_come(served, channel):
    with served.client() as client, served.client() as other:
        name = f"{channel}-{served.tls is not None}"
        client.publish(name, *[{"data": f"own {n}"} for n in range(10)])
        other.publish(name, {"data": "other's"})
        client.attach(name, params={"rewind": "5", "echo": "false"})
        other.publish(name, {"data": "end"})
        assert [message["data"] for message in until(client, name, "end")] == ["other's", "end"]


def test_slow_or_reattaching_reader_gets_the_part(served, publisher, channel):
    """Much more than a connection is sent in one go: what is left of the backlog waits for its client to read."""
    names = [f"{channel}-{served.tls is not None}-{n}" for n in range(40)]
    for name in names:
        publisher.publish(name, *[{"data": f"{n}".ljust(20_000)} for n in range(3)])
    with served.client() as client:
        for name in names:
            client.send({"action": Action.ATTACH, "channel": name, "params": {"rewind": "2"}})
        for name in names:
            client.send({"action": Action.ATTACH, "channel": name, "params": {"rewind": "2"}})
        for name in names:
            publisher.publish(name, {"data": "end"})
        counted_before_the_end = 0
        for name in names:
            got = [message["data"].strip() for message in until(client, name, "end")]
            assert got in (["1", "2", "end"], ["2", "end"]), name  # the last two then, or after "end" had come
            counted_before_the_end += len(got) == 3
        assert counted_before_the_end > len(names) // 2


@pytest.mark.parametrize(("agent", "again"), [("ably-js/2.28.0", []), ("ably-java/1.2.50", ["1", "2"])])
def test_reattach_from_before_the_part_does_not_get_the_rest(served, publisher, channel, agent, again):
    """Once more only if it may have discarded it meanwhile."""
    name = f"{channel}-{served.tls is not None}"
    publisher.publish(name, *[{"data": f"{n}"} for n in range(3)])
    with served.client(agent=agent) as client:
        place = client.attach(name, params={"rewind": "2"})["channelSerial"]
        assert client.attach(name, channelSerial=place, params={"rewind": "2"})["flags"] & RESUMED
        publisher.publish(name, {"data": "end"})
        assert [message["data"] for message in until(client, name, "end")] == ["1", "2", *again, "end"]
