"""Publishes that cannot be decided at once, in order for each publisher.

    stage --Sequencer.decide--> answered, or staged
              |
              +--EARLIER_IDS--> waits for the ids that earlier lives have used in this channel     recalls --> recalled
              +--a serial-----> waits for the entry that it may be a repeat of                     lookups --> found
                                                                                                                 |
    further publishes of the connection to the channel queue behind it  <-------- go_on <----- ready <-----------+

Waiting is rare: only possible repeats wait. The journal's readers serve ``recalls`` and ``lookups``. ``Home.held``
keeps the fast path from overtaking waiting publishes of the same connection. Waiting publishes count as pending, so the
limits on pending data apply."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from engine.channel import Channel
from engine.errors import PubSubError
from engine.journal.port import Stored
from engine.sequencer import Asked, Found, Need
from ext.log.common import Common


class Waiting:
    """The waiting publishes of one publisher to one channel; all wait for the first."""

    __slots__ = ("asked", "channel", "key", "near", "need")

    def __init__(self, channel: Channel, key: object) -> None:
        self.channel = channel
        self.key = key
        self.asked: deque[Asked] = deque()
        self.need: Need | int | None = None
        self.near: dict[int, Stored] = {}  # read along with the last lookup: the next entry may be there

    @property
    def serial(self) -> int:
        """The serial of the entry to look up."""
        assert isinstance(self.need, int)
        return self.need


class Holding:
    """See above. One instance for all channels."""

    def __init__(self, common: Common) -> None:
        self.recalls: dict[Channel, None] = {}  # channels whose ids of earlier lives are to be read back
        self.wanted: dict[Channel, None] = {}  # those with waiting publishes: served first
        self.lookups: deque[Waiting] = deque()
        self.ready: deque[Waiting] = deque()  # their answers have arrived
        self.looked_up = 0  # entries looked up in the journal
        self._common = common

    def recall(self, channel: Channel) -> None:
        """Have its ids of earlier lives read back, when time allows."""
        self.recalls[channel] = None

    def next_recall(self) -> Channel | None:
        """The next channel to read back, or a part of it."""
        return next(iter(self.wanted or self.recalls), None)

    def stage(self, asked: Asked) -> None:
        """Decide on it now, or in its turn. Its channel is awake."""
        channel, key = asked.channel, asked.author.connection_id
        waiting = channel.held.get(key) if channel.held is not None and key is not None else None
        if waiting is None:
            need = channel.sequence.decide(asked)
            if need is None:
                return
            # A publisher without a connection that needs an order waits for each answer before its next request.
            waiting = Waiting(channel, object() if key is None else key)
            if channel.held is None:
                channel.held = {}
            channel.held[waiting.key] = waiting
            self._wait_for(waiting, need)
        waiting.asked.append(asked)
        self._common.pending_bytes += asked.size

    def found(self, looked_for: Sequence[Waiting], results: Sequence[list[Stored] | PubSubError]) -> None:
        """The journal's entries from the wanted serials on, or why they cannot be read."""
        for waiting, result in zip(looked_for, results, strict=True):
            if isinstance(result, PubSubError):
                self._next(waiting).completion.refused(result)
            else:
                waiting.near = {stored.serial: stored for stored in result}
                self._give(waiting)
            self.ready.append(waiting)
        self.looked_up += len(looked_for)

    def recalled(self, channel: Channel, error: PubSubError | None = None) -> None:
        """The ids of earlier lives have been recalled; or that failed, and the next such publish triggers another
        attempt."""
        self.recalls.pop(channel, None)
        self.wanted.pop(channel, None)
        for waiting in (channel.held or {}).values():
            if waiting.need is Need.EARLIER_IDS:
                waiting.need = None
                if error is not None:
                    self._next(waiting).completion.refused(error)
                self.ready.append(waiting)

    def go_on(self, most: int) -> bool:
        """Decide on waiting publishes, ``most`` at a time. True: there is more."""
        while self.ready and most:
            waiting = self.ready.popleft()
            while waiting.asked and most:
                most -= 1
                need = waiting.channel.sequence.decide(waiting.asked[0])
                if need is None:
                    self._next(waiting)
                elif need in waiting.near:
                    waiting.need = need
                    self._give(waiting)
                else:
                    self._wait_for(waiting, need)
                    break
            else:
                if waiting.asked:
                    self.ready.appendleft(waiting)
                else:
                    self._let_go(waiting)
        return bool(self.ready)

    def _wait_for(self, waiting: Waiting, need: Need | int) -> None:
        waiting.need = need
        if need is Need.EARLIER_IDS:
            self.recalls[waiting.channel] = self.wanted[waiting.channel] = None
        else:
            self.lookups.append(waiting)

    def _give(self, waiting: Waiting) -> None:
        """Give the first publish the journal's entry with the wanted serial, or its absence."""
        waiting.asked[0].found = Found(waiting.serial, waiting.near.get(waiting.serial))
        waiting.need = None

    def _next(self, waiting: Waiting) -> Asked:
        """Take the first publish out of the queue."""
        asked = waiting.asked.popleft()
        self._common.pending_bytes -= asked.size
        return asked

    def _let_go(self, waiting: Waiting) -> None:
        channel = waiting.channel
        assert channel.held is not None
        del channel.held[waiting.key]
        if not channel.held:
            channel.held = None
