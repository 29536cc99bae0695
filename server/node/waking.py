"""Wakes channels that are wanted but not in memory: reads them back, then runs the requests that waited for them.

    hub.waking --a thread: newest entries, last serial--> hub.awaken --> waiting requests, in order, in slices

Thousands of requests may wait for one channel, so other work gets turns in between."""

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

WAKE_SECONDS = 0.0005  # for requests on woken channels; then other work has a turn
READ_SECONDS = 0.05  # for reading channels back, before the requests on those already read are run


class Waking:
    """Wakes the channels of one hub."""

    def __init__(
        self,
        hub: Hub,
        older_than: Callable[[Partition, int], int],
        begin_turn: Callable[[], object],
        end_of_turn: Callable[[], object],
        pace: LoopPace,
    ) -> None:
        """``older_than``: the milliseconds of a partition's serials below which everything is older than the given age
        in ms."""
        self._hub = hub
        self._older_than = older_than
        self._begin_turn = begin_turn
        self._end_of_turn = end_of_turn
        self._pace = pace
        self._wakes = trio.Event()
        self._until = 0.0  # end of this turn, by the performance counter

    def look(self) -> None:
        """Check for channels to wake, at the end of every turn."""
        if self._hub.waking:
            self._wakes.set()

    async def run(self) -> None:
        """Read back the wanted channels, as many at a time as have gathered, until cancelled."""
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
                    self._hub.waking[:0] = kept[len(found) :]  # no time was left for these
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
        """Run the requests that waited for a channel; a failure of one does not affect the others.

        Other work gets turns in between. Meanwhile the channel counts as asleep, so new requests queue behind these.
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
        """What the journals have of these channels, or why they cannot be read; for as many as time allows, in order.
        Runs in a worker thread."""
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
