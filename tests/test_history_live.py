"""History of a running server while it is published to: pages and the live stream join without gap or overlap."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from urllib.parse import quote

from tests.harness import PAGE, Server, history, publish, request, wait_until
from tests.wsclient import WsClient


def pages(server: Server, channel: str, query: str) -> Iterator[list[str]]:
    """Page after page, as a client follows the links."""
    base, following = f"/channels/{channel}", f"messages?{query}"
    while following:
        status, page, links = request(server.address, "GET", f"{base}/{following}")
        assert status == 200, page
        yield [message["data"] for message in page]
        found = [match[1] for link in links if (match := re.match(r'<\./(messages\?.*)>; rel="next"', link))]
        following = found[0] if found else ""


class Publisher:
    """Publishes ``0``, ``1``, ``2``, ... until it is stopped."""

    def __init__(self, server: Server, channel: str) -> None:
        self.count = 0
        self._server, self._channel, self._ended = server, channel, False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended:
            publish(self._server.address, self._channel, [{"data": str(self.count + n)} for n in range(3)])
            self.count += 3

    def __enter__(self) -> Publisher:
        self._thread.start()
        wait_until(lambda: self.count >= 9)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()


def test_history_until_attach_and_live_are_everything_once(server: Server, channel: str) -> None:
    with Publisher(server, channel) as publisher, WsClient(server.address) as client:
        attached = client.attach(channel)
        before: list[str] = []
        for page in pages(server, channel, f"limit=2&from_serial={quote(attached['channelSerial'])}"):
            before += page
        until = publisher.count + 9
        live = [message["data"] for message in client.deliveries(channel, until - len(before))]
    assert [*before[::-1], *live] == [str(n) for n in range(len(before) + len(live))]
    assert before and live


def test_attach_to_a_quiet_channel_can_read_what_was_before(make_server: Callable[..., Server]) -> None:
    config = "[limits]\nwindow_seconds = 2\nconnection_state_seconds = 2\n[namespaces.memory]\ndurability = 'memory'\n"
    server = make_server(config=config)
    channels = ("room", "memory:room", "nobody:was:ever:here")
    with WsClient(server.address) as early, WsClient(server.address) as late:
        for channel in channels[:2]:
            early.attach(channel)
            publish(server.address, channel, [{"data": "old"}])
        wait_until(lambda: not any(history(server.address, channel) for channel in channels[:2]), what="they expire")
        points = {channel: quote(late.attach(channel)["channelSerial"]) for channel in channels}
        for following in ([], [{"data": "live"}]):
            for channel, point in points.items():
                if following:
                    publish(server.address, channel, following)
                answer = request(server.address, "GET", f"/channels/{channel}/messages?from_serial={point}")
                assert answer[:2] == (200, []), channel
        wait_until(lambda: not any(history(server.address, channel) for channel in channels), what="they expire")
        for channel, point in points.items():
            status, answer, _ = request(server.address, "GET", f"/channels/{channel}/messages?from_serial={point}")
            assert (status, answer["error"]["code"]) == (404, 90008), channel


def test_pages_show_the_moment_of_the_first_one(server: Server, channel: str) -> None:
    with Publisher(server, channel) as publisher:
        found: list[str] = []
        turning = pages(server, channel, "limit=4")
        for page in turning:
            seen = publisher.count
            wait_until(lambda seen=seen: publisher.count > seen)  # type: ignore[misc]  # mypy knows no such lambda
            found += page
            if len(found) > 40:
                break
        newest = int(found[0])
        assert found == [str(newest - n) for n in range(len(found))]
    assert [message["data"] for message in history(server.address, channel, limit=PAGE)] == [
        str(n) for n in range(publisher.count)
    ]


def test_messages_in_memory_and_evicted_ones_are_one_history(make_server: Callable[..., Server]) -> None:
    server = make_server(config="[limits]\nring_entries_per_channel = 16\n")
    for n in range(40):
        extras = {"extras": {"ephemeral": True}} if n % 5 == 4 else {}
        publish(server.address, "room", {"data": str(n), **extras})
    kept = [str(n) for n in range(40) if n % 5 != 4]
    for limit in (1, 7, 16, 100):
        for direction, expected in (("forwards", kept), ("backwards", kept[::-1])):
            found = [data for page in pages(server, "room", f"limit={limit}&direction={direction}") for data in page]
            assert found == expected
