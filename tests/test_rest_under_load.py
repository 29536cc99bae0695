"""REST and realtime at once, across cuts and a kill -9: one log, in which everything is once, whoever reads it how.

    realtime publishers      two, of both formats
    REST publishers          single messages, arrays, batches; JSON and msgpack; each request is sent again until it
                             has its 201, some of them also on purpose after it
    realtime subscribers     four, cut off and resumed
    history readers          page after page, in both directions, all the while

The checker holds the publishers' and subscribers' logs against the journal; what readers saw is held against it."""

from __future__ import annotations

import http.client
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.checker import Outcome, PublisherLog, Sent
from tests.harness import Address, Server, channel_path, history
from tests.proxy import ChaosProxy
from tests.restclient import Answer, RestClient
from tests.returning import Publisher, Subscriber, settle_and_check

SEED = 20261121
RETRY_SECONDS = 0.02
GIVE_UP_SECONDS = 30.0


class Rest(threading.Thread):
    """Something that is done over HTTP again and again; whatever goes wrong in the thread is raised by ``end``."""

    def __init__(self, name: str, address: Address, channel: str, *, packed: bool = False) -> None:
        super().__init__(name=name, daemon=True)
        self.channel = channel
        self.failure: BaseException | None = None
        self.ended = False
        self._rest = RestClient(address, packed=packed)

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.failure = error
        finally:
            self._rest.close()

    def work(self) -> None:
        raise NotImplementedError

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)

    def leave(self) -> None:
        self.ended = True
        self.join(GIVE_UP_SECONDS)
        assert not self.is_alive(), f"{self.name} does not end"
        if self.failure is not None:
            raise AssertionError(f"{self.name} failed: {self.failure!r}") from self.failure

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """One request, until it is answered: what became of one that was not is not known."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                answer = self._rest.ask(method, path, body)
            except (OSError, http.client.HTTPException):
                self._rest.close()  # the next request connects again
                assert time.monotonic() < deadline, "the server does not come back"
            else:
                if answer.status not in (500, 503):  # it is going, or has just come
                    return answer
            time.sleep(RETRY_SECONDS)


class RestPublisher(Rest):
    """Publishes ``count`` times ``size`` messages with ids of its own, by POST to the channel, or as a batch."""

    def __init__(
        self,
        name: str,
        address: Address,
        channel: str,
        *,
        count: int,
        size: int = 1,
        batch: bool = False,
        packed: bool = False,
    ) -> None:
        super().__init__(name, address, channel, packed=packed)
        self.repeated = 0
        self._count, self._size, self._batch = count, size, batch
        self._sent: list[Sent] = []
        self._chance = random.Random(f"{SEED} {name}")

    @property
    def acked(self) -> int:
        return len(self._sent)

    def log(self) -> PublisherLog:
        return PublisherLog(self.name, list(self._sent), all_answered=True)

    def work(self) -> None:
        for number in range(self._count):
            marks = [f"{self.name}/{number:05d}/{index}" for index in range(self._size)]
            messages = [
                {"id": f"{self.name}/{number:05d}:{index}", "name": mark, "data": mark}
                for index, mark in enumerate(marks)
            ]
            serials = self._publish(messages)
            assert len(serials) == len(marks)
            if self._chance.random() < 0.2:
                self.repeated += 1
                assert self._publish(messages) == serials, "a repeat has the serials of the first"
            self._sent += [Sent(mark, Outcome.ACKED, serial) for mark, serial in zip(marks, serials, strict=True)]

    def _publish(self, messages: list[dict[str, str]]) -> list[str]:
        if self._batch:
            body = {"channels": [f"{self.channel}-beside", self.channel], "messages": messages}
            answer = self.ask("POST", "/messages", body)
            assert (answer.status, answer.value["successCount"]) == (201, 2), answer
            return list(answer.value["results"][1]["serials"])
        answer = self.ask("POST", channel_path(self.channel), messages if self._size > 1 else messages[0])
        assert answer.status == 201, answer
        return list(answer.value["serials"])


class Reader(Rest):
    """Reads the whole history, page after page; ``passes`` has the marks of each time, oldest first."""

    def __init__(self, name: str, address: Address, channel: str, *, direction: str, limit: int) -> None:
        super().__init__(name, address, channel)
        self.passes: list[list[str]] = []
        self._direction, self._limit = direction, limit

    def work(self) -> None:
        while not self.ended:
            base = f"/channels/{self.channel}"
            following, marks = f"messages?limit={self._limit}&direction={self._direction}", []
            while following:
                page = self.ask("GET", f"{base}/{following}")
                assert page.status == 200, page
                assert len(page.value) <= self._limit
                marks += [str(message["name"]) for message in page.value]
                found = re.search(r'<\./(messages\?[^>]*)>; rel="next"', page.headers.get("link", ""))
                following = found[1] if found else ""
            self.passes.append(marks if self._direction == "forwards" else marks[::-1])


@pytest.mark.parametrize("crash", [False, True], ids=["cut", "kill -9"])
def test_rest_and_realtime_share_one_log_without_repeats(
    make_server: Callable[..., Server], make_proxy: Callable[[Server], ChaosProxy], channel: str, crash: bool
) -> None:
    server = make_server()
    proxy = make_proxy(server)
    formats = ("json", "msgpack")
    subscribers = [Subscriber(f"s{n}", proxy.address, channel, format=formats[n % 2]) for n in range(4)]
    for subscriber in subscribers:
        subscriber.start()
    for subscriber in subscribers:
        assert subscriber.attached.wait(20), subscriber.failure
    realtime = [
        Publisher(name, server.address, channel, count=300, format=name, pace_seconds=0.002) for name in formats
    ]
    rest = [
        RestPublisher("single", server.address, channel, count=150),
        RestPublisher("packed", server.address, channel, count=150, packed=True),
        RestPublisher("array", server.address, channel, count=80, size=5),
        RestPublisher("batch", server.address, channel, count=80, size=3, batch=True, packed=True),
    ]
    readers = [
        Reader("forwards", server.address, channel, direction="forwards", limit=70),
        Reader("backwards", server.address, channel, direction="backwards", limit=70),
    ]
    for thread in (*realtime, *rest, *readers):
        thread.start()
    chance = random.Random(SEED)
    cuts = 0
    while any(one.is_alive() for one in (*realtime, *rest)):
        time.sleep(0.1)
        cuts += 1
        if crash and cuts == 4:
            server.restart()
        elif cuts < 10:
            proxy.cut_after(downstream=chance.randrange(400, 60_000))
            proxy.cut()
            proxy.cut_after()
    for reader in readers:
        reader.leave()
    report = settle_and_check(server.address, channel, [*realtime, *rest], subscribers)  # type: ignore[list-item]
    assert not report.faults, str(report)
    assert report.stored == report.acked == report.sent == 2 * 300 + 2 * 150 + 80 * 5 + 80 * 3
    assert all(one.repeated > 5 for one in rest)
    assert all(subscriber.connections > 1 for subscriber in subscribers)
    journal = [message["name"] for message in history(server.address, channel)]
    for reader in readers:
        assert len(reader.passes) > 1
        for marks in reader.passes:
            assert marks == journal[: len(marks)], f"{reader.name}: a pass that is no beginning of the log"
    beside = [message["name"] for message in history(server.address, f"{channel}-beside")]
    assert beside == [sent.mark for sent in rest[3].log().sent]
