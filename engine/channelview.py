"""A channel as its readers see it, wherever its home is: its attachments, and the streams of frames that they read.

    attach    a position in the log: its text, and whether the ring still has the entries after it
    live      a stream for each variant, which readers follow
    counted   attachments, by their modes

``engine.channel.Channel`` is both a view and a home. docs/decisions/0019."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine import limits
from engine.errors import PubSubError
from engine.names import ChannelName
from engine.policy import Policy
from engine.shares import CountByApp
from engine.variant import Variant
from ext.log.stream import Stream
from ext.log.view import View

if TYPE_CHECKING:
    from engine.partition import Partition


class ChannelView(View):
    """See above. ``head`` is the position of new attachments: no future entry is at or before it."""

    __slots__ = ()  # subclasses declare them, so that it can be combined with a Home

    SLOTS = (
        "_plain_name",
        "_streams",
        "app_id",
        "attached",
        "failure",
        "modes",
        "name",
        "partition",
        "policy",
        "tally",
    )
    app_id: str
    name: str
    policy: Policy
    partition: Partition  # that of its home
    awake: bool
    waiting: list[Callable[[], None]] | None  # calls to run when it is awake
    failure: PubSubError | None  # why waking failed: calls from ``waiting`` check it
    attached: int  # attachments, live or catching up
    tally: CountByApp | None  # the app's counter of attachments
    modes: dict[int, int] | None  # number of attachments by their modes, as the protocol's flags
    _plain_name: ChannelName | None
    _streams: dict[Variant, Stream] | None  # from the first reader on

    def begin_view(self, app_id: str, name: str, policy: Policy, partition: Partition) -> None:
        """Begin without attachments."""
        self.app_id = app_id
        self.name = name
        self.policy = policy
        self.partition = partition
        self.failure = self.tally = self.modes = self._plain_name = self._streams = None
        self.attached = 0

    def count_attachment(self, change: int) -> None:
        """Add or remove an attachment."""
        self.attached += change
        if self.tally is not None:
            self.tally.count(self.app_id, change)

    def recount(self, before: int, after: int) -> None:
        """The modes of an attachment have changed; 0 means no attachment."""
        if before:
            assert self.modes is not None
            self.modes[before] -= 1
            if not self.modes[before]:
                del self.modes[before]
        if after:
            if self.modes is None:
                self.modes = {}
            self.modes[after] = self.modes.get(after, 0) + 1

    def shared_name(self, name: ChannelName) -> ChannelName:
        """The name as the client wrote it: one shared object for all clients that wrote the channel's own name."""
        if name.full != self.name:
            return name
        if self._plain_name is None:
            self._plain_name = name
        return self._plain_name

    def stream(self, variant: Variant) -> Stream:
        """The stream with frames of this variant."""
        if self._streams is None:
            self._streams = {}
        stream = self._streams.get(variant)
        if stream is None:
            stream = self._streams[variant] = Stream(self.ring, variant.encoder())
            stream.shaper = self.outgoing
        return stream

    def has_stream_for(self, variant: Variant) -> bool:
        """Is there such a stream, or capacity for one more? Always true for the channel's own name."""
        streams = self._streams or {}
        if len(streams) >= limits.STREAMS_PER_CHANNEL and variant.name != self.name and variant not in streams:
            self.close_unread_streams()
            return len(self._streams or {}) < limits.STREAMS_PER_CHANNEL
        return True

    def close_unread_streams(self) -> None:
        """Drop streams without readers. A later reader starts a new stream, and replays the entries before it."""
        for stream in self._streams.values() if self._streams else ():
            if not stream.readers_now:
                stream.close()
        if self._streams:
            self._streams = {variant: stream for variant, stream in self._streams.items() if stream.readers_now} or None

    @property
    def in_memory(self) -> bool:
        """Has it been read back? Earlier requests may still have to run before new publishes."""
        return self.ring is not None

    def in_ring(self, cursor: int) -> bool:
        """Is everything after ``cursor`` in memory?"""
        return cursor >= self.ring.evicted
