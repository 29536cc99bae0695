"""Publishes that can't be decided at once, in the order of their publishers.

    stage --Sequencer.decide--> told, or staged
              |
              +--EARLIER_IDS--> waits for the ids that earlier lives have used in this channel     recalls --> recalled
              +--a serial-----> waits for the entry that it may be a repeat of                     lookups --> found
                                                                                                                 |
    what its connection publishes there meanwhile waits behind it  <-------------- go_on <----- ready <----------+

Few ever wait: only what may be a repeat. ``recalls`` and ``lookups`` are served by whoever reads the journal, and
``Home.held`` tells the short way of a connection that it is not to overtake itself. What waits counts as pending, and
so the bounds on that hold here."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from engine.channel import Channel
from engine.errors import PubSubError
from engine.journal.port import Stored
from engine.sequencer import Asked, Found, Need
from ext.log.common import Common


class Waiting:
    """The publishes of one publisher to one channel that wait; the others for the first."""

    __slots__ = ("asked", "channel", "key", "near", "need")

    def __init__(self, channel: Channel, key: object) -> None:
        self.channel = channel
        self.key = key
        self.asked: deque[Asked] = deque()
        self.need: Need | int | None = None
        self.near: dict[int, Stored] = {}  # what was read with the last entry that was looked up: the next may be there

    @property
    def serial(self) -> int:
        """Of the entry that is to be looked up."""
        assert isinstance(self.need, int)
        return self.need


class Holding:
    """See above. One for all channels."""

    def __init__(self, common: Common) -> None:
        self.recalls: dict[Channel, None] = {}  # whose ids of earlier lives are to be read back
        self.wanted: dict[Channel, None] = {}  # those of them for which somebody waits: before the others
        self.lookups: deque[Waiting] = deque()
        self.ready: deque[Waiting] = deque()  # what they waited for has come
        self.looked_up = 0  # entries that were asked of the journal
        self._common = common

    def recall(self, channel: Channel) -> None:
        """Have its ids of earlier lives read back, when there is time."""
        self.recalls[channel] = None

    def next_recall(self) -> Channel | None:
        """Whose turn it is to be read back, or a part of it."""
        return next(iter(self.wanted or self.recalls), None)

    def stage(self, asked: Asked) -> None:
        """Decide on it now, or in its turn. Its channel is awake."""
        channel, key = asked.channel, asked.author.connection_id
        waiting = channel.held.get(key) if channel.held is not None and key is not None else None
        if waiting is None:
            need = channel.sequence.decide(asked)
            if need is None:
                return
            # Who has no connection, and wants an order, waits for an answer before the next request.
            waiting = Waiting(channel, object() if key is None else key)
            if channel.held is None:
                channel.held = {}
            channel.held[waiting.key] = waiting
            self._wait_for(waiting, need)
        waiting.asked.append(asked)
        self._common.pending_bytes += asked.size

    def found(self, looked_for: Sequence[Waiting], results: Sequence[list[Stored] | PubSubError]) -> None:
        """What the journal has from the serials on that these needed, or why it can't tell."""
        for waiting, result in zip(looked_for, results, strict=True):
            if isinstance(result, PubSubError):
                self._next(waiting).completion.refused(result)
            else:
                waiting.near = {stored.serial: stored for stored in result}
                self._give(waiting)
            self.ready.append(waiting)
        self.looked_up += len(looked_for)

    def recalled(self, channel: Channel, error: PubSubError | None = None) -> None:
        """The ids of earlier lives are there; or why they can't be: whoever comes next has it tried again."""
        self.recalls.pop(channel, None)
        self.wanted.pop(channel, None)
        for waiting in (channel.held or {}).values():
            if waiting.need is Need.EARLIER_IDS:
                waiting.need = None
                if error is not None:
                    self._next(waiting).completion.refused(error)
                self.ready.append(waiting)

    def go_on(self, most: int) -> bool:
        """Decide on what has waited, on so many at most. True: there is more."""
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
        """Its first one learns what the journal has, or has not, under the serial that it needs."""
        waiting.asked[0].found = Found(waiting.serial, waiting.near.get(waiting.serial))
        waiting.need = None

    def _next(self, waiting: Waiting) -> Asked:
        """The first one waits no longer."""
        asked = waiting.asked.popleft()
        self._common.pending_bytes -= asked.size
        return asked

    def _let_go(self, waiting: Waiting) -> None:
        channel = waiting.channel
        assert channel.held is not None
        del channel.held[waiting.key]
        if not channel.held:
            channel.held = None
