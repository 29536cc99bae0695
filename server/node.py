"""One running server: the engine's parts put together, and what connects them to time, threads and sockets.

    listener --websocket--> opening --> plane ---> ClientProtocol --> hub, sequencer
             --http-------> Rest ----------------------^                 |
                                                                    committer --> journal
    end_of_turn: whatever one turn of work has left: what needs no journal is committed, answers are queued, bytes leave"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import trio

import server
from engine import limits
from engine.auth.keys import Keyring
from engine.auth.tokens import Authenticator, Identity
from engine.channel import Channel, Policy
from engine.connection import Connections
from engine.errors import AuthError, JournalUnavailable, PubSubError
from engine.hub import Hub, ReadBack
from engine.journal.port import Journal
from engine.settings import Settings
from ext.plane import Plane
from ext.ring import Stream
from ext.serial import SerialClock, new_series
from server.attachment import Attachment, Rewind
from server.committer import Committer
from server.protocol import ClientProtocol
from server.replay import Replay

LOGGER = logging.getLogger("unbroken")


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Node:
    """Everything of one server process; ``run`` in a nursery keeps it going."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        keyring: Keyring,
        authenticator: Authenticator,
        connections: Connections,
        *,
        dedup_key: bytes,
        random: Callable[[int], bytes],
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        bounds = settings.limits
        self.settings = settings
        self.journal = journal
        self.keyring = keyring
        self.authenticator = authenticator
        self.connections = connections
        self.now_ms = now_ms
        self.started_ms = now_ms()
        self.draining = False
        self.clients: set[ClientProtocol] = set()
        self.hub = Hub(settings, SerialClock(journal.head()), dedup_key, self._policy_of)
        self.plane = Plane(
            max_message=bounds.max_frame_size,
            heartbeat_ms=bounds.max_idle_interval_ms * 2 // 3,
            ping_ms=bounds.max_idle_interval_ms * 4 // 3,
            lost_ms=bounds.max_idle_interval_ms * 8 // 3,
            linger_ms=limits.LINGER_MS,
        )
        self.committer = Committer(journal, self.hub.sequencer, self._committed, trio.CapacityLimiter(1))
        self.replay: Replay
        self._memory_series = new_series(random(16))
        self._policies: dict[str, Policy] = {}
        self._touched: list[ClientProtocol] = []
        self._more_to_send = trio.Event()
        self._wakes = trio.Event()
        self._expiries: list[tuple[int, int, ClientProtocol]] = []
        self._tie = 0

    # its life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Cancelling leaves nothing half done: an append under way is finished first."""
        async with trio.open_nursery() as nursery:
            self.replay = Replay(self.journal, nursery, self.now_ms, self.end_of_turn)
            nursery.start_soon(self.committer.run)
            nursery.start_soon(self.committer.recover)
            nursery.start_soon(self._wake_channels)
            nursery.start_soon(self._keep_journal)
            nursery.start_soon(run_plane, self.plane, self.now_ms, self.end_of_turn)
            nursery.start_soon(run_flush, self.plane, lambda: self._more_to_send)
            nursery.start_soon(run_tick, self.plane, self.now_ms, self._on_second)
            task_status.started()

    async def drain(self) -> None:
        """Ask the clients to go elsewhere, and finish what is pending. The caller bounds how long it may take."""
        self.draining = True
        reason = PubSubError("the server is shutting down", code=80003, status=503)
        await self.committer.settled()
        for client in list(self.clients):
            client.disconnect(reason)
        self.end_of_turn()
        while len(self.plane):
            await trio.sleep(0.02)

    def end_of_turn(self) -> None:
        """After any work: whatever it has left to do for others."""
        if self.hub.waking:
            self._wakes.set()
        self._answer()
        if self.plane.flush():
            self._more_to_send.set()
            self._more_to_send = trio.Event()

    def _answer(self) -> None:
        while self._touched:
            touched, self._touched = self._touched, []
            for client in touched:
                client.answer()

    def _committed(self, moved: list[Stream]) -> None:
        for stream in moved:
            self.plane.moved(stream)
        self.end_of_turn()

    async def _wake_channels(self) -> None:
        """Read back the channels that somebody wants, as many at a time as have gathered."""
        while True:
            await self._wakes.wait()
            self._wakes = trio.Event()
            while self.hub.waking:
                wanted, self.hub.waking = self.hub.waking[: limits.WAKES_AT_ONCE], self.hub.waking[limits.WAKES_AT_ONCE :]
                kept = [channel for channel in wanted if channel.policy.durability != "memory"]
                found: dict[str, ReadBack | PubSubError] = {}
                if kept:
                    found = await trio.to_thread.run_sync(self._read_back, kept)
                for channel in wanted:
                    result = found.get(channel.key)
                    if isinstance(result, PubSubError):
                        LOGGER.error("channel %r can't be woken: %s", channel.name, result)
                        self._refuse_waiting(channel, result)
                    else:
                        position = self.hub.sequencer.clock.last
                        self.hub.awaken(channel, result or ReadBack(self.hub.new_dedup(), [], position, position))
                self.committer.poke()
                self.end_of_turn()

    def _read_back(self, channels: list[Channel]) -> dict[str, ReadBack | PubSubError]:
        """In a worker thread: what the journal has of these channels, or why it can't tell."""
        found: dict[str, ReadBack | PubSubError] = {}
        since_ms = self.now_ms() - self.hub.window_ms
        try:
            windows = self.journal.wake([channel.key for channel in channels], since_ms)
        except PubSubError as error:
            return {channel.key: error for channel in channels}
        for channel in channels:
            window = windows[channel.key]
            try:
                last = window.last or self.journal.floor(channel.policy.retention)
                found[channel.key] = self.hub.read_back(last, window.pages)
            except PubSubError as error:
                found[channel.key] = error
        return found
