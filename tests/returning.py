"""Clients that come back: whatever happens to their connections, they resume and keep honest logs for the checker.

    Publisher    at most ``window`` unacknowledged; after a resume it sends those again, with their old msgSerials
    Subscriber   attaches again with the channelSerial of what it got last

Each is a thread over raw clients. A publisher whose connection could not be continued sends again under new msgSerials;
without ids of its own that may store a message twice, so it counts as broken unless ``lossy``."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tests.checker import Attached, Delivered, Outcome, PublisherLog, Report, Sent, Stored, SubscriberLog, check
from tests.harness import Address, history, wait_until
from tests.wsclient import ATTACH_RESUME, RESUMED, Action, GoneError, RefusedError, WsClient

PAUSE_SECONDS = 0.02  # between attempts to connect
RETURN_SECONDS = 30.0  # until a client that can't come back gives up


class Returning(threading.Thread):
    """A thread that holds a connection, and makes a new one with ``resume`` when it is gone."""

    def __init__(self, name: str, address: Address, **params: Any) -> None:
        super().__init__(name=name, daemon=True)
        self.address = address
        self.connections = 0
        self.failure: BaseException | None = None
        self.kept_identity = True  # no resume has failed
        self._params = params
        self._key: str | None = None
        self._identity: str | None = None
        self._leaving = threading.Event()

    def run(self) -> None:
        try:
            while not self.finished():
                client = self._connect()
                if client is None:
                    return
                with client:
                    try:
                        self.use(client)
                    except GoneError:
                        continue
                    if self._leaving.is_set() or self.finished():
                        client.close()
        except BaseException as error:
            self.failure = error

    def _connect(self) -> WsClient | None:
        deadline = time.monotonic() + RETURN_SECONDS
        while not self._leaving.is_set():
            params = self._params if self._key is None else {**self._params, "resume": self._key}
            try:
                client = WsClient(self.address, **params)
            except GoneError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)
                continue
            if self._identity not in (None, client.connection_id):
                self.kept_identity = False
            self._identity, self._key = client.connection_id, client.connection_key
            self.connections += 1
            return client
        return None

    def leave(self) -> None:
        """End in order. Raises: what went wrong in the thread."""
        self._leaving.set()
        self.join(RETURN_SECONDS)
        assert not self.is_alive(), f"{self.name} does not end"
        if self.failure is not None:
            raise AssertionError(f"{self.name} failed: {self.failure!r}") from self.failure

    def finished(self) -> bool:
        return self._leaving.is_set()

    def use(self, client: WsClient) -> None:
        raise NotImplementedError


class Publisher(Returning):
    """Publishes ``count`` entries of ``size`` messages to one channel."""

    def __init__(
        self,
        name: str,
        address: Address,
        channel: str,
        *,
        count: int,
        size: int = 1,
        window: int = 40,
        ids: bool = False,
        padding: str = "",
        pace_seconds: float = 0.0,
        **params: Any,
    ) -> None:
        super().__init__(name, address, **params)
        self.channel = channel
        self.ids = ids
        self.lossy = False
        self.resent = 0
        self._size, self._window, self._padding, self._pace = size, window, padding, pace_seconds
        self._count = count
        self._sent = 0
        self._next_serial = 0
        self._pending: deque[tuple[int, list[str]]] = deque()  # msgSerial, marks
        self._outcome: dict[str, Sent] = {}

    @property
    def acked(self) -> int:
        return sum(sent.outcome is Outcome.ACKED for sent in list(self._outcome.values()))

    def log(self) -> PublisherLog:
        return PublisherLog(self.name, list(self._outcome.values()), all_answered=True)

    def finished(self) -> bool:
        return self._leaving.is_set() or (self._sent == self._count and not self._pending)

    def use(self, client: WsClient) -> None:
        """Send again what is unanswered, then go on; an answer of a kind is due for each."""
        if not self.kept_identity:
            if not (self.lossy or self.ids):
                raise AssertionError("the connection could not be continued")
            self.kept_identity = True
            self._pending = deque((number, marks) for number, (_, marks) in enumerate(self._pending))
            client.next_serial = self._next_serial = len(self._pending)
        else:
            client.next_serial = self._next_serial
        for number, marks in self._pending:
            self.resent += 1
            self._send(client, marks, number)
        while not self.finished():
            while self._sent < self._count and len(self._pending) < self._window and not self._leaving.is_set():
                marks = [f"{self.name}/{self._sent:06d}/{index}" for index in range(self._size)]
                for mark in marks:
                    self._outcome[mark] = Sent(mark)
                number = client.next_serial
                self._pending.append((number, marks))
                self._sent += 1
                self._next_serial = number + 1
                self._send(client, marks, number)
                if self._pace:
                    time.sleep(self._pace)
            self._settle(client.expect(Action.ACK, Action.NACK))

    def _send(self, client: WsClient, marks: list[str], number: int) -> None:
        messages: list[dict[str, Any]] = [{"name": mark, "data": mark + self._padding} for mark in marks]
        if self.ids:
            base = marks[0].rpartition("/")[0]
            for index, message in enumerate(messages):
                message["id"] = f"{base}:{index}"
        client.send_messages(self.channel, messages, msg_serial=number)

    def _settle(self, answer: dict[str, Any]) -> None:
        for at in range(answer["count"]):
            number, marks = self._pending.popleft()
            assert number == answer["msgSerial"] + at, f"{answer} answers {number}: out of order"
            if answer["action"] == Action.ACK:
                serials = answer["res"][at]["serials"]
                assert len(serials) == len(marks), answer
                for mark, serial in zip(marks, serials, strict=True):
                    self._outcome[mark] = Sent(mark, Outcome.ACKED, serial)
            else:
                for mark in marks:
                    self._outcome[mark] = Sent(mark, Outcome.NACKED)


class Subscriber(Returning):
    """Reads one channel until it is told to leave."""

    def __init__(self, name: str, address: Address, channel: str, *, pace_seconds: float = 0.0, **params: Any) -> None:
        super().__init__(name, address, **params)
        self.channel = channel
        self.pace_seconds = pace_seconds  # after each message: a slow reader
        self.attached = threading.Event()
        self.events: list[Attached | Delivered] = []
        self.errors: list[dict[str, Any]] = []  # of ATTACHED without RESUMED
        self.last = ""  # mark of the newest
        self._position: str | None = None

    def log(self, **options: Any) -> SubscriberLog:
        return SubscriberLog(self.name, list(self.events), **options)

    @property
    def received(self) -> int:
        return sum(isinstance(event, Delivered) for event in list(self.events))

    def use(self, client: WsClient) -> None:
        fields = {} if self._position is None else {"channelSerial": self._position, "flags": ATTACH_RESUME}
        client.send({"action": Action.ATTACH, "channel": self.channel, **fields})
        while not self._leaving.is_set():
            try:
                message = client.receive(0.1)
            except TimeoutError:
                continue
            if message["action"] == Action.ATTACHED:
                self._position = message["channelSerial"]
                self.events.append(Attached(bool(message["flags"] & RESUMED), self._position))
                if "error" in message:
                    self.errors.append(message["error"])
                self.attached.set()
            elif message["action"] == Action.MESSAGE:
                for member in client.members(message):
                    self.events.append(Delivered(member["name"], member["serial"], member.get("channelSerial")))
                    self.last = member["name"]
                self._position = message["channelSerial"]
                if self.pace_seconds:
                    time.sleep(self.pace_seconds)
            elif message["action"] == Action.ERROR:
                raise RefusedError(message["error"])


def marks_of(messages: Sequence[dict[str, Any]]) -> list[Stored]:
    """History as the checker wants it; the mark is the name."""
    return [Stored(message["name"], message["serial"]) for message in messages]


def settle_and_check(
    address: Address,
    channel: str,
    publishers: Sequence[Publisher],
    subscribers: Sequence[Subscriber],
    *,
    seconds: float = 60.0,
    stored: Callable[[], Sequence[Stored]] | None = None,
) -> Report:
    """Wait until all is published and the subscribers have the newest message, let them leave, and compare all logs."""
    for publisher in publishers:
        publisher.join(seconds)
        publisher.leave()
    journal = list(stored()) if stored is not None else marks_of(history(address, channel))
    newest = journal[-1].mark if journal else ""

    def all_there() -> bool:
        return all(subscriber.last == newest or subscriber.failure is not None for subscriber in subscribers)

    with contextlib.suppress(TimeoutError):  # the report says better what is missing
        wait_until(all_there, seconds=15)
    for subscriber in subscribers:
        subscriber.leave()
    return check([one.log() for one in publishers], [one.log() for one in subscribers], journal)
