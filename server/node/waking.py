"""Channels that somebody wants and that are not in memory: read back, and then what has been asked of them is done.

    hub.waking --a thread: newest entries, last serial--> hub.awaken --> what waited, in its order, in slices

What waits for one channel may be thousands of things, so others have their turns in between."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

import trio

from engine import limits
from engine.channel import Channel
from engine.errors import PubSubError
from engine.hub import Hub, ReadBack
from engine.journal.entries import before
from engine.partition import Partition
from ext.text.serial import last_serial_before
from server.pace import LoopPace

LOGGER = logging.getLogger("unbroken")

WAKE_SECONDS = 0.0005  # of what waits for channels that wake; then others have a turn
READ_SECONDS = 0.05  # of reading channels back, before those that have been read take what waits for them


class Waking:
    """Of one hub."""

    def __init__(
        self,
        hub: Hub,
        older_than: Callable[[Partition, int], int],
        begin_turn: Callable[[], object],
        end_of_turn: Callable[[], object],
        pace: LoopPace,
    ) -> None:
        """``older_than``: the milliseconds of a partition's serials below which everything is older than so many ms."""
        self._hub = hub
        self._older_than = older_than
        self._begin_turn = begin_turn
        self._end_of_turn = end_of_turn
        self._pace = pace
        self._wakes = trio.Event()
        self._until = 0.0  # by the performance counter: the end of this turn

    def look(self) -> None:
        """Is there a channel to be woken? At the end of every turn."""
        if self._hub.waking:
            self._wakes.set()

    async def run(self) -> None:
        """Until cancelled: read back the channels that somebody wants, as many at a time as have gathered."""
        while True:
            await self._wakes.wait()
            self._wakes = trio.Event()
            while self._hub.waking:
                wanted, self._hub.waking = (
                    self._hub.waking[: limits.WAKES_AT_ONCE],
                    self._hub.waking[limits.WAKES_AT_ONCE :],
                )
                kept = [channel for channel in wanted if channel.partition.kept]
                found: dict[str, ReadBack | PubSubError] = {}
                if kept:
                    since = {each: self._older_than(each, self._hub.window_ms) for each in self._hub.partitions}
                    found = await trio.to_thread.run_sync(self._read_back, kept, since)
                    self._hub.waking[:0] = kept[len(found) :]  # there was no time for them yet
                self._until = time.perf_counter() + WAKE_SECONDS
                self._begin_turn()
                for channel in wanted:
                    result = found.get(channel.key)
                    if result is None and channel.partition.kept:
                        continue
                    if isinstance(result, PubSubError):
                        LOGGER.error("channel %r cannot be woken: %s", channel.name, result)
                        await self._do_all(channel, self._hub.give_up(channel, result))
                    else:
                        position = channel.partition.head()
                        nothing = ReadBack([], position, position)
                        await self._do_all(channel, self._hub.awaken(channel, result or nothing, position))
                self._end_of_turn()

    async def _do_all(self, channel: Channel, waiting: list[Callable[[], None]]) -> None:
        """What clients have asked of a channel while it woke; a failure of one is not the others'.

        Others have their turns in between. Then the channel sleeps on for whoever comes, who waits behind those before.
        """
        awake = channel.awake
        while waiting:
            channel.awake = awake
            done = 0
            for do in waiting:
                done += 1
                try:
                    do()
                except Exception:
                    LOGGER.exception("an operation that waited for a channel failed")
                if time.perf_counter() > self._until:
                    break
            else:
                return
            channel.awake, channel.waiting = False, waiting[done:]
            self._end_of_turn()
            await trio.lowlevel.checkpoint()
            await self._pace.turn(math.inf)
            self._until = time.perf_counter() + WAKE_SECONDS
            self._begin_turn()
            waiting, channel.waiting = channel.waiting, None
        channel.awake = awake

    def _read_back(
        self, channels: list[Channel], since_ms: Mapping[Partition, int]
    ) -> dict[str, ReadBack | PubSubError]:
        """In a worker thread: what the journals have of these channels, or why they can't tell; of as many as there is
        time for, in their order."""
        found: dict[str, ReadBack | PubSubError] = {}
        until = time.monotonic() + READ_SECONDS
        for channel in channels:
            if found and time.monotonic() > until:
                break
            key, journal, newest = channel.key, channel.partition.journal, []
            since = last_serial_before(since_ms[channel.partition])
            try:
                last = journal.last_serial(key)
                if last > since:
                    newest = before(journal, key, last + 1, limit=limits.WAKE_ENTRIES, budget=limits.WAKE_BYTES)
                last = last or journal.forgotten_floor(channel.policy.retention)
                found[key] = self._hub.read_back(channel, last, newest, since)
            except PubSubError as error:
                found[key] = error
        return found
