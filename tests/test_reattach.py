"""An ATTACH for what is attached already: nothing that is on its way meanwhile is missed, and nothing comes twice.

A library may discard what comes between its ATTACH and our ATTACHED, or hand it on. It does not say which; it says who
it is (server/realtime/libraries.py)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from server.realtime.libraries import discards_while_attaching
from tests.harness import Server
from tests.test_continuity import Stream, number
from tests.wsclient import HAS_BACKLOG, RESUMED, Served

ATTACHED, MESSAGE = 11, 15
HANDS_ON = "ably-js/2.28.0 nodejs/22.4.1"
DISCARDS = "ably-java/1.2.50 jre/17.0.1"
AGAIN = 100  # times that a client attaches anew


@pytest.fixture(scope="module", params=["plain", "TLS"])
def served(request, tmp_path_factory):
    arguments, tls = ([], None) if request.param == "plain" else request.getfixturevalue("authority")
    with Server(tmp_path_factory.mktemp("reattach"), arguments=arguments) as server:
        yield Served(server, tls)
    assert not server.complaints(), server.complaints()


@pytest.mark.parametrize(
    ("agent", "discards"),
    [
        ("ably-js/2.28.0 nodejs/22.4.1", False),
        ("ably-js/1.2.50 browser", False),
        ("ably-js/2.0.0-beta.1", False),
        ("my-app/1.0 ably-js/2.9.1", False),
        ("ably-js/3.0.0", True),
        ("ably-python/2.1.0 python/3.11.2", False),
        ("ably-python/3.1.4 python/3.11.2", False),
        ("ably-python/3.2.0 python/3.11.2", True),
        ("ably-python/10.0.0", True),
        ("ably-java/1.2.50 jre/17.0.1", True),
        ("ably-cocoa/1.2.30 iOS/17.0", True),
        ("not-ably-js/2.0.0", True),
        ("ably-js", True),
        ("ably-js/2", True),
        ("ably-js/x.y", True),
        ("x" * 300 + " ably-js/2.28.0", True),
        ("", True),
        (None, True),
    ],
)
def test_only_known_libraries_are_expected_to_pass_on_messages(agent, discards):
    assert discards_while_attaching(agent) is discards


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("told", ["in the query", "in a header", "in a header of an unusual request"])
@pytest.mark.parametrize("agent", [HANDS_ON, DISCARDS])
def test_messages_on_their_way_repeat_only_if_maybe_discarded(served, channel, format, told, agent):
    params = {"agent": agent} if told == "in the query" else {}
    headers = {} if params else {"Ably-Agent": agent}
    if "unusual" in told:
        headers["TE"] = "trailers"
    with served.client(format=format, headers=headers, **params) as client, served.client() as other:
        begin = client.attach(channel)["channelSerial"]
        for text in "abc":
            other.publish(channel, {"data": text})
        cursors = [begin, *(message["channelSerial"] for message in client.deliveries(channel, 3))]
        for at, cursor in enumerate(cursors):
            again = client.attach(channel, channelSerial=cursor, params={"rewind": "3"})
            assert again["flags"] & RESUMED
            other.publish(channel, {"data": "end"})
            expected = "abc"[at:] if agent == DISCARDS else ""
            expected_after = ["end"] * at if agent == DISCARDS else []
            got = [message["data"] for message in client.deliveries(channel, len(expected) + len(expected_after) + 1)]
            assert got == [*expected, *expected_after, "end"]
            if agent == HANDS_ON:
                assert not again["flags"] & HAS_BACKLOG
                assert again["channelSerial"] >= cursors[-1]
        with served.client(format=format, headers=headers, **params) as back:
            assert back.attach(channel, channelSerial=cursors[0])["flags"] & RESUMED
            assert [message["data"] for message in back.deliveries(channel, 3)] == list("abc"), "on another connection"
        lost = client.attach(channel, channelSerial="garbage")
        assert lost["error"]["code"] == 90003
        assert not lost["flags"] & RESUMED


@pytest.mark.parametrize("agent", [HANDS_ON, DISCARDS])
def test_reattach_under_load_passes_every_message_on_once(served, channel, agent):
    """A client with much on its way all the time, which either discards what comes while it attaches anew, or not."""
    stream = Stream(served.server.address, channel, tls=served.tls)
    got, between = [], 0
    stream.start()
    try:
        with served.client(agent=agent) as client:
            place = client.attach(channel)["channelSerial"]
            for turn in range(AGAIN):
                while not got or len(got) < 10 * turn:
                    message = client.skip_to(MESSAGE)
                    got.append(number(message))
                    place = message["channelSerial"]
                echo = "true" if turn % 2 else "false"
                client.send({"action": 10, "channel": channel, "channelSerial": place, "params": {"echo": echo}})
                while (message := client.receive())["action"] != ATTACHED:
                    if message["action"] == MESSAGE:
                        between += 1
                        if agent == HANDS_ON:
                            got.append(number(message))
                            place = message["channelSerial"]
                assert message["flags"] & RESUMED
                assert message["channelSerial"] == place, "as far as it has handed on what came"
    finally:
        stream.stop()
    assert between, "else nothing was on its way"
    assert all(second == first + 1 for first, second in pairwise(got))
