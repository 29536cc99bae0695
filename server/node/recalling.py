"""Journal reads for possible repeats, in threads beside the loop (engine/holding.py).

    recalls    a channel's ids of earlier lives, a part at a time; channels with waiting publishers first
    lookups    the entries that publishes may be repeats of, as many at a time as have gathered

Waiting publishes are decided in slices, so that a crowd of them does not delay others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from engine import limits
from engine.channel import Channel
from engine.errors import JournalUnavailable, OutcomeUnknown, PubSubError
from engine.hub import Hub
from engine.journal import entries
from engine.journal.port import Stored
from ext.disk.recall import Recall

LOGGER = logging.getLogger("unbroken.recalling")

PAGE_ENTRIES, PAGE_BYTES = 512, 64 * limits.KIB  # read along with the wanted entry: the next one is often there
RETRY_SECONDS = 1.0  # between attempts to read an unavailable journal

Answer = TypeVar("Answer")


def _unavailable(answer: object) -> bool:
    return isinstance(answer, JournalUnavailable)


def _told(answer: Answer) -> Answer | OutcomeUnknown:
    """The answer for publishers: a possible repeat of a stored message is not refused because the lookup failed."""
    return OutcomeUnknown(answer.reason) if isinstance(answer, JournalUnavailable) else answer


class Recalling:
    """See above; run ``run_recalls`` and ``run_lookups`` until cancelled."""

    def __init__(self, hub: Hub, end_of_turn: Callable[[], object], now_ms: Callable[[], int]) -> None:
        self._hub = hub
        self._holding = hub.holding
        self._end_of_turn = end_of_turn
        self._now_ms = now_ms
        self._recalls = trio.Event()
        self._lookups = trio.Event()
        self._begun: dict[Channel, Recall] = {}

    def look(self) -> None:
        """Check for work, at the end of every turn."""
        if self._holding.recalls:
            self._recalls.set()
        if self._holding.lookups:
            self._lookups.set()

    async def run_recalls(self) -> None:
        while True:
            await self._recalls.wait()
            self._recalls = trio.Event()
            while (channel := self._holding.next_recall()) is not None:
                recall = self._begun.get(channel)
                if recall is None:
                    recall = self._begun[channel] = self._hub.new_recall(channel)
                found = _told(await self._while_open(partial(self._recall, channel, recall), _unavailable))
                if isinstance(found, PubSubError):
                    LOGGER.error("the ids of channel %r cannot be recalled: %s", channel.name, found)
                    del self._begun[channel]
                    self._holding.recalled(channel, found)
                elif not found or recall.cursor >= channel.partition.began:
                    del self._begun[channel]
                    self._hub.recalled(channel, recall.window)
                else:
                    continue
                await self._go_on()

    async def run_lookups(self) -> None:
        while True:
            await self._lookups.wait()
            self._lookups = trio.Event()
            while self._holding.lookups:
                wanted = [
                    self._holding.lookups.popleft()
                    for _ in range(min(len(self._holding.lookups), limits.LOOKUPS_AT_ONCE))
                ]
                serials = [(waiting.channel, waiting.serial) for waiting in wanted]
                found = await self._while_open(
                    partial(self._look_up, serials), lambda found: any(map(_unavailable, found))
                )
                self._holding.found(wanted, [_told(each) for each in found])
                await self._go_on()

    async def _while_open(self, ask: Callable[[], Answer], unavailable: Callable[[Answer], bool]) -> Answer:
        """The answer, from a thread; retried while the journal is being reopened, as long as a publisher waits."""
        until = trio.current_time() + limits.DOUBT_SECONDS
        while True:
            answer = await trio.to_thread.run_sync(ask)
            if not unavailable(answer) or trio.current_time() >= until:
                return answer
            await trio.sleep(RETRY_SECONDS)

    async def _go_on(self) -> None:
        while self._holding.go_on(limits.DECISIONS_AT_ONCE):
            self._end_of_turn()
            await trio.lowlevel.checkpoint()
        self._end_of_turn()

    def _recall(self, channel: Channel, recall: Recall) -> PubSubError | bool:
        """Continue the recall, in a thread. True: there may be more."""
        recall.begin(limits.RECALL_BYTES)
        try:
            return channel.partition.journal.feed(channel.key, recall)
        except PubSubError as error:
            return error

    def _look_up(self, wanted: list[tuple[Channel, int]]) -> list[list[Stored] | PubSubError]:
        """The entries from these serials on, or why they cannot be read; in a thread."""
        found: list[list[Stored] | PubSubError] = []
        for channel, serial in wanted:
            journal = channel.partition.journal
            try:
                found.append(entries.after(journal, channel.key, serial - 1, limit=PAGE_ENTRIES, budget=PAGE_BYTES))
            except PubSubError as error:
                found.append(error)
        return found
