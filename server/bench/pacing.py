"""Decides how much each publisher publishes now: by ACKs, or by a schedule.

Windows     each publisher has at most so many unanswered publishes
Scheduled   message n belongs to publisher n % publishers, and is due at a time that is known beforehand; a message that
            cannot leave (its connection is away or blocked) stays due, and is sent later with its old time"""

from __future__ import annotations

from typing import Protocol

from ext.load.publisher import Publisher, now_ns
from server.bench.options import Ramp
from server.bench.schedule import Schedule

QUEUED_BYTES = 128 * 1024  # of one connection; the plane stops reading from one that has twice as much to send
AT_ONCE = 64  # publishes of one connection in one step, so that the others, and what arrives, get their turn


class Pacing(Protocol):
    def step(self) -> bool:
        """Send the messages that may be sent now. False: there were none."""


def _send(publisher: Publisher, due_ns: list[int]) -> None:
    publisher.owner.socket.send_frames(publisher.frames(due_ns))


def _room(publisher: Publisher, frame_bytes: int) -> int:
    """The number of publishes that its connection can take now."""
    owner = publisher.owner
    if not owner.ready or owner.socket.queued >= QUEUED_BYTES:
        return 0
    return int(min(AT_ONCE, 1 + (QUEUED_BYTES - owner.socket.queued) // frame_bytes))


class Windows:
    """``most``: the total of publishes of each. ``touched``: publishers that have been answered."""

    def __init__(
        self, publishers: list[Publisher], touched: list[Publisher], window: int, frame_bytes: int, most: int = 1 << 62
    ) -> None:
        self._touched, self._window, self._frame_bytes, self._most = touched, window, frame_bytes, most
        self._held = list(publishers)
        for publisher in touched:
            publisher.taken()
        touched.clear()

    def step(self) -> bool:
        due, self._held = self._held, []
        due += self._touched
        for publisher in self._touched:
            publisher.taken()
        self._touched.clear()
        sent = False
        for publisher in due:
            allowed = min(self._window - (publisher.sent - publisher.answered), self._most - publisher.sent)
            if allowed <= 0 or publisher.owner.lost:
                continue
            count = min(allowed, _room(publisher, self._frame_bytes))
            if count:
                _send(publisher, [now_ns()] * count)
                sent = True
            if count < allowed:
                self._held.append(publisher)
        return sent


class Scheduled:
    """``late_ns``: the largest delay of a publish by the load tester; ``held_ns``: by its connection."""

    def __init__(self, publishers: list[Publisher], ramp: Ramp, frame_bytes: int) -> None:
        per_publish = publishers[0].per_publish
        self._schedule = Schedule(Ramp(ramp.begin / per_publish, ramp.end / per_publish, ramp.seconds))
        self._publishers, self._frame_bytes = publishers, frame_bytes
        self._before = [publisher.sent for publisher in publishers]
        self._origin = now_ns()
        self._wanted = 0
        self._owing: set[int] = set()  # numbers of publishers that have something to send
        self._hindered: set[int] = set()  # those of them that could not
        self.late_ns = self.held_ns = 0

    def step(self) -> bool:
        now, among = now_ns(), len(self._publishers)
        wanted = self._schedule.count((now - self._origin) / 1e9)
        if wanted > self._wanted:
            new = range(self._wanted, min(wanted, self._wanted + among))
            self._owing.update(number % among for number in new)
            self._wanted = wanted
        sent = False
        for number in list(self._owing):
            sent |= self._serve(number, now)
        return sent

    def _serve(self, number: int, now: int) -> bool:
        publisher, among = self._publishers[number], len(self._publishers)
        done, owed = self._owed(number)
        room = _room(publisher, self._frame_bytes)
        count = min(owed, room)
        if not count:
            self._hindered.add(number)
            return False
        begin, step = number + done * among, among
        due = [self._origin + int(self._schedule.due(begin + n * step) * 1e9) for n in range(count)]
        if number in self._hindered:
            self.held_ns = max(self.held_ns, now - due[0])
        else:
            self.late_ns = max(self.late_ns, now - due[0])
        _send(publisher, due)
        if count == owed:
            self._owing.discard(number)
            self._hindered.discard(number)
        return True

    def _owed(self, number: int) -> tuple[int, int]:
        """How many publishes of this publisher have left, and how many more are due."""
        among = len(self._publishers)
        done = self._publishers[number].sent - self._before[number]
        return done, (self._wanted - number + among - 1) // among - done

    def unsent(self) -> int:
        """Messages that are due and have not left."""
        return sum(self._owed(number)[1] for number in self._owing) * self._publishers[0].per_publish
