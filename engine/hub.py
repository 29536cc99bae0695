"""All channels in memory; wakes them and puts them to sleep.

    asleep --open--> waking --read_back (a thread), awaken--> awake --idle for a window--> asleep
                       |                                        |
            requests meanwhile wait in                ids of earlier lives are recalled in parallel; only a
            ``channel.waiting``, in order             possible repeat of one of them waits (engine/holding.py)

A sleeping channel costs nothing: its log is in the journal. Waking reads the newest entries, for the ring; a long log
takes no longer. Ids from before the server start are in the journal, too, so repeats are recognised even after a
crash."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine import limits
from engine.allowance import admit, check_unopened
from engine.channel import Channel
from engine.channelview import ChannelView
from engine.directory import ChannelNames
from engine.errors import PubSubError
from engine.holding import Holding
from engine.journal.port import Journal, Stored
from engine.logclock import LogClock
from engine.partition import Partition
from engine.policy import Policy
from engine.quota import NOTHING_SAID, Quota
from engine.sequencer import Asked, Completion, overloaded
from engine.settings import Settings
from engine.shares import CountByApp, check_share
from ext.disk.recall import Recall
from ext.log.author import Author
from ext.log.budget import Budget, Share
from ext.log.common import Common
from ext.log.counters import Meter
from ext.log.dedup import DedupWindow
from ext.log.terms import Terms
from ext.text.serial import first_serial
from ext.wire.encoder import record_origin
from ext.wire.publish import Publish


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The initial state of a waking channel."""

    newest: list[tuple[int, str, bytes, int]]  # serial, series, record, origin: for the ring
    evicted: int
    last_stored: int
    since: int | None = None  # ids of earlier lives are in entries after this serial; None: none within the window


class Hub:
    """Finds a channel by its name."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        clock: LogClock,
        dedup_key: bytes,
        policy_of: Callable[[str, str], Policy],
        quota_of: Callable[[str, str], Quota] = lambda app_id, name: NOTHING_SAID,
    ) -> None:
        """``journal``, ``clock``: of the channels that are kept; the clock is restored."""
        self.settings = settings
        self.common = Common(settings.limits.dedup_ids)
        self._bound_pending(settings)
        self.kept = Partition(journal, clock, self.common, kept=True)
        self.memory = Partition.in_memory(self.common, step_ms=clock.step_ms)
        self.partitions = (self.memory, self.kept)
        self.holding = Holding(self.common)
        self.channels: dict[str, Channel] = {}
        self.names = ChannelNames()
        self.meters: dict[str, Meter] = {}  # by app
        self.budget = Budget(settings.limits.within(limits.MEMORY_UNKNOWN).ring_bytes)
        self._shares: dict[str, Share] = {}  # parts of the budget, by app
        self.attachments = CountByApp()
        self.waking: list[Channel] = []  # to be read back from the journal
        self.window_ms = settings.limits.held_ms
        self._dedup_key = dedup_key
        self._policy_of = policy_of
        self.quota_of = quota_of
        # When to look at each, in steady time. Entries of a deque wait equally long, so they are in order of time.
        self._due: deque[tuple[int, Channel]] = deque()
        self._quiet: deque[tuple[int, Channel]] = deque()  # not used lately; a look has its cost
        self._quiet_ms = max(limits.CHANNEL_SWEEP_MS, self.window_ms // 2)
        self._bounds = (settings.limits.ring_entries_per_channel, settings.limits.ring_bytes_per_channel)

    def limit(self, settings: Settings) -> None:
        """Apply these settings from now on; for quotas of open channels see ``Channel.limit``."""
        bounds = settings.limits
        self.settings = settings
        self.common.max_remembered = bounds.dedup_ids
        self._bound_pending(settings)
        self.budget.limit(bounds.within(limits.MEMORY_UNKNOWN).ring_bytes)
        for app_id, meter in self.meters.items():
            meter.max_remembered = settings.app_quota(app_id).dedup_ids

    def _bound_pending(self, settings: Settings) -> None:
        self.common.max_staged = settings.limits.staged_bytes
        self.common.max_pending = limits.OVERSTAGED * settings.limits.staged_bytes

    def partition_for(self, durability: str) -> Partition:
        """The partition for channels of this durability."""
        return self.memory if durability == "memory" else self.kept

    def is_open(self, app_id: str, name: str) -> bool:
        return f"{app_id}:{name}" in self.channels

    def open(self, app_id: str, name: str) -> Channel:
        """The channel, awake or waking.

        Raises: LimitExceeded, when the maximum of channels is in memory.
        """
        channel = self.channels.get(f"{app_id}:{name}")
        if channel is None:
            self._check_channels(app_id)
            policy = self._policy_of(app_id, name)
            channel = Channel(app_id, name, policy, self.partition_for(policy.durability))
            channel.meter = self.meter(app_id)
            channel.share = self.share(app_id)
            channel.tally = self.attachments
            channel.limit(self.quota_of(app_id, name))
            channel.meter.channels.add()
            self.channels[channel.key] = channel
            self.names.add(channel.key)
            self.waking.append(channel)
        channel.last_used_ms = self.common.steady_ms
        if not channel.scheduled:
            channel.scheduled = True
            self._due.append((self.common.steady_ms + limits.CHANNEL_SWEEP_MS, channel))
        return channel

    def view(self, app_id: str, name: str) -> ChannelView:
        """The channel for readers: here, its home itself. Raises: as ``open``."""
        return self.open(app_id, name)

    def _check_channels(self, app_id: str) -> None:
        """Check whether the app may have one more channel. Raises: LimitExceeded."""
        check_share(
            "channels in memory",
            app_id,
            own=self.meter(app_id).channels.now,
            taken=len(self.channels),
            most=self.settings.limits.channels,
            shared=self.common.shared,
            quota=self.settings.app_quota(app_id).channels,
        )

    def check_attachments(self, app_id: str) -> None:
        """Check whether a client of the app may attach once more. Raises: LimitExceeded."""
        check_share(
            "attachments",
            app_id,
            own=self.attachments.of(app_id),
            taken=self.attachments.now,
            most=self.settings.limits.attachments,
            shared=self.common.shared,
        )

    def meter(self, app_id: str) -> Meter:
        """The meter of the app."""
        found = self.meters.get(app_id)
        if found is None:
            found = self.meters[app_id] = Meter()
            found.max_remembered = self.settings.app_quota(app_id).dedup_ids
        return found

    def share(self, app_id: str) -> Share:
        """The app's part of the memory for rings and streams."""
        found = self._shares.get(app_id)
        if found is None:
            found = self._shares[app_id] = self.budget.share()
        return found

    def when_awake(self, channel: ChannelView, do: Callable[[], None]) -> None:
        """Do it now, or in its turn once the channel is awake."""
        if channel.awake:
            do()
        else:
            _wait(channel, do)

    def publish(
        self,
        app_id: str,
        name: str,
        publish: Publish,
        base_id: str,
        author: Author,
        terms: Terms,
        completion: Completion,
    ) -> Channel:
        """Stage it in the channel, and open the channel for it, if the terms permit; ``completion`` gets the outcome.

        Raises: LimitExceeded: then ``completion`` is not called, nothing is charged, and no channel is opened.
        """
        now_ms = self.common.now_ms
        if not self.is_open(app_id, name):
            check_unopened(terms, self.quota_of(app_id, name), publish.size, now_ms)
        channel = self.open(app_id, name)
        admit(terms, channel, publish.count, publish.size, now_ms)
        self.stage(Asked(channel, publish, base_id, author, completion))
        return channel

    def stage(self, asked: Asked) -> None:
        """Decide on it, now or in its turn: see ``Sequencer.decide``."""
        channel, completion = asked.channel, asked.completion
        if channel.awake:
            self.holding.stage(asked)
            return
        if self.common.overfull:
            completion.refused(overloaded())
            return
        self.common.pending_bytes += asked.size

        def later() -> None:
            self.common.pending_bytes -= asked.size
            if channel.failure is not None:
                completion.refused(channel.failure)
            else:
                self.holding.stage(asked)

        _wait(channel, later)

    def new_dedup(self) -> DedupWindow:
        return DedupWindow(self._dedup_key, self.window_ms)

    def read_back(self, channel: Channel, last_stored: int, newest: Sequence[Stored], since: int) -> ReadBack:
        """The initial state for waking this channel; changes nothing, and can run in any thread.

        Args:
            last_stored: serial of its newest entry; or, if the journal has none, a serial above which there is
                certainly none.
            newest: some of its newest entries, the newest first.
            since: the last serial before the window.
        """
        kept = [stored for stored in newest if stored.serial > since]
        return ReadBack(
            [(stored.serial, stored.series, stored.record, record_origin(stored.record)) for stored in reversed(kept)],
            kept[-1].previous if kept else last_stored,
            last_stored,
            since if kept and since < channel.partition.began else None,
        )

    def awaken(self, channel: Channel, found: ReadBack, position: int) -> list[Callable[[], None]]:
        """Put the state into place; ``position``: see ``Channel.wake``.

        Returns: the waiting calls, to be run now, in this order.
        """
        channel.wake(
            self.new_dedup(),
            found.newest,
            last_stored=found.last_stored,
            evicted=found.evicted,
            position=position,
            bounds=self._bounds,
            earlier=None if found.since is None else self.new_dedup(),
        )
        if found.since is not None:
            channel.since = found.since
            self.holding.recall(channel)
        waiting, channel.waiting = channel.waiting, None
        return waiting or []

    def new_recall(self, channel: Channel) -> Recall:
        """A recall of its ids of earlier lives, to be filled in any thread."""
        partition = channel.partition
        return Recall(self.new_dedup(), partition.steady_of, channel.since, until=partition.began)

    def recalled(self, channel: Channel, window: DedupWindow) -> None:
        """This window has all ids of earlier lives: waiting publishes can continue."""
        channel.earlier = window
        channel.recalled = True
        window.expire(self.common.steady_ms)
        self.common.recall(channel.meter, len(window))
        self.holding.recalled(channel)

    def give_up(self, channel: Channel, error: PubSubError) -> list[Callable[[], None]]:
        """Its log cannot be read: forget the channel.

        Returns: the waiting calls, to be run now; they check ``failure``, and report it.
        """
        if self.channels.pop(channel.key, None) is not None:
            self.names.discard(channel.key)
            self.meter(channel.app_id).channels.remove()
        channel.failure = error
        waiting, channel.waiting = channel.waiting, None
        return waiting or []

    def sweep_is_due(self, now_ms: int) -> bool:
        """Does ``sweep`` have work at this steady time?"""
        return any(due and due[0][0] <= now_ms for due in (self._due, self._quiet))

    def sweep(self, now_ms: int, most: int) -> int:
        """Trim channels to the window, and drop idle ones; at most ``most`` in one call.

        Returns: the number of dropped channels.
        """
        dropped = 0
        oldest = {each: first_serial(each.older_than(now_ms - self.window_ms)) for each in self.partitions}
        for due in (self._due, self._quiet):
            while most and due and due[0][0] <= now_ms:
                most -= 1
                _, channel = due.popleft()
                if self.channels.get(channel.key) is not channel:
                    continue  # it was given up
                if channel.awake:
                    self.common.forget(channel.meter, channel.forget(now_ms, oldest[channel.partition], self.window_ms))
                    if channel.idle(now_ms):
                        del self.channels[channel.key]
                        self.names.discard(channel.key)
                        self.meter(channel.app_id).channels.remove()
                        channel.awake = False  # holders of a reference must open it again
                        dropped += 1
                        continue
                if now_ms - channel.last_used_ms < limits.CHANNEL_SWEEP_MS:
                    self._due.append((now_ms + limits.CHANNEL_SWEEP_MS, channel))
                else:
                    self._quiet.append((now_ms + self._quiet_ms, channel))
        return dropped


def _wait(channel: ChannelView, do: Callable[[], None]) -> None:
    if channel.waiting is None:
        channel.waiting = []
    channel.waiting.append(do)
