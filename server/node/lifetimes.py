"""Ends live connections when their tokens end: by expiry, or by revocation.

    joined, AUTH --> hint ----> end        next due time, by client; a heap gives the first
                     AUTH       DISCONNECTED 40142 (expired), 40141 (revoked)

A client is asked for new credentials before its token ends, if time allows. One task sleeps until the first due time,
so tokens end to the millisecond. It looks again after a second at most, to notice a clock that was set.

A client with a revoked token is cut off at once: nothing more is received from it or sent to it. The error is sent only
when a new token like the old one would be valid, in the next full second for a JWT, because the client requests a token
at once, and uses it. A client that connects with a revoked token is answered at the same time. docs/decisions/0025."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from functools import partial

import trio

from engine.auth.revocation import Revocation, Revocations, TokenRevoked
from engine.auth.tokens import Identity
from engine.errors import AuthError, PubSubError
from server.realtime.session import Session

HINT_MS = 30_000  # time before expiry at which a client is asked for a new token, as the SDKs expect
AGAIN_MS = 1_000  # delay when the new token is revoked, too: a JWT's second is over then
LOOK_SECONDS = 1.0
SLICE = 5_000  # clients checked in one slice after a revocation: a few ms
SPARE = 1_000  # outdated heap entries, beyond twice the number of clients, before the heap is rebuilt


class Lifetimes:
    """The clients with expiring tokens, and when each is due."""

    def __init__(self, revocations: Revocations, now_ms: Callable[[], int], end_of_turn: Callable[[], object]) -> None:
        self._revocations = revocations
        self._now_ms = now_ms
        self._end_of_turn = end_of_turn
        self._due: dict[Session, int] = {}
        self._heap: list[tuple[int, int, Session]] = []
        self._later: list[tuple[float, int, Callable[[], object]]] = []  # errors to send later, by trio's clock; a heap
        self._numbers = itertools.count()
        self._sooner = trio.Event()
        self._awaited: float = 0  # the task sleeps until then, unless woken

    def __len__(self) -> int:
        return len(self._due)

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            self._sooner = trio.Event()
            self._awaited = self._heap[0][0] if self._heap else float("inf")
            seconds = min(LOOK_SECONDS, (self._awaited - self._now_ms()) / 1000) if self._heap else float("inf")
            if self._later:
                seconds = min(seconds, self._later[0][0] - trio.current_time())
            with trio.move_on_after(max(0.0, seconds)):
                await self._sooner.wait()
            if self.look(self._now_ms()):
                self._end_of_turn()

    def watch(self, client: Session, *, renewed: bool = False) -> None:
        """The client has connected, or has new credentials (``renewed``).

        If a client answers the request with the same token, it is asked again after a delay: asking at once would loop
        for ever.
        """
        identity, now_ms = client.identity, self._now_ms()
        if identity.expires_ms is None:
            self.forget(client)
            return
        applies_at = self._revocations.applies_at(identity)
        if applies_at is not None and applies_at < identity.expires_ms:
            self._plan(client, min(applies_at, now_ms + AGAIN_MS) if renewed else applies_at)
            if applies_at > now_ms and not renewed:
                client.ask_for_credentials()
        else:
            hint_ms = identity.expires_ms - HINT_MS
            self._plan(client, hint_ms if hint_ms > now_ms else identity.expires_ms)

    def forget(self, client: Session) -> None:
        """The client has left. Does nothing if it was not watched."""
        self._due.pop(client, None)

    def look(self, now_ms: int) -> bool:
        """Do all due work; returns whether there was any."""
        worked = False
        while self._heap and self._heap[0][0] <= now_ms:
            due_ms, _, client = heapq.heappop(self._heap)
            if self._due.get(client) == due_ms:  # otherwise it has been rescheduled
                worked = True
                self._end_or_hint(client, now_ms)
        while self._later and self._later[0][0] <= trio.current_time():
            worked = True
            heapq.heappop(self._later)[2]()
        return worked

    def say(self, error: PubSubError, tell: Callable[[], object]) -> bool:
        """Call ``tell`` for this error, at once or when a new token would be valid. True: it was at once."""
        early_ms = error.again_ms - self._now_ms() if isinstance(error, TokenRevoked) else 0
        if early_ms <= 0:
            tell()
            return True
        # By trio's clock: if the wall clock is set back, the wait must not get longer.
        heapq.heappush(self._later, (trio.current_time() + (early_ms + 1) / 1000, next(self._numbers), tell))
        self._sooner.set()
        return False

    async def until_of_use(self, error: PubSubError) -> None:
        """Wait until ``say`` would send the error."""
        said = trio.Event()
        if not self.say(error, said.set):
            await said.wait()

    async def revoke(self, entries: Iterable[Revocation], clients: Iterable[Session]) -> None:
        """Check all clients whose token is among these; others are refused when they connect.

        If cancelled, some are left unchecked.
        """
        new = Revocations(entries)
        for number, client in enumerate(list(clients)):
            if client.open and new.applies_at(client.identity) is not None:
                self.watch(client)
            if number % SLICE == SLICE - 1:
                await trio.lowlevel.checkpoint()
        if self.look(self._now_ms()):
            self._end_of_turn()

    def _plan(self, client: Session, due_ms: int) -> None:
        self._due[client] = due_ms
        heapq.heappush(self._heap, (due_ms, next(self._numbers), client))
        if len(self._heap) > 2 * len(self._due) + SPARE:
            self._heap = [(due, next(self._numbers), each) for each, due in self._due.items()]
            heapq.heapify(self._heap)
        if due_ms < self._awaited:
            self._sooner.set()

    def _end_or_hint(self, client: Session, now_ms: int) -> None:
        if not client.open:
            self.forget(client)
            return
        end_ms, error = self._end(client.identity, now_ms)
        if now_ms >= end_ms:
            self.forget(client)
            client.cut_off()
            self.say(error, partial(client.part, error))
        else:
            self._plan(client, end_ms)
            client.ask_for_credentials()

    def _end(self, identity: Identity, now_ms: int) -> tuple[int, PubSubError]:
        """When its token ends, and the error to send then."""
        assert identity.expires_ms is not None  # otherwise it is not watched
        applies_at = self._revocations.applies_at(identity)
        if applies_at is not None and applies_at < identity.expires_ms:
            return applies_at, self._revocations.revoked(identity, max(now_ms, applies_at))
        return identity.expires_ms, AuthError("the token has expired", code=40142)
