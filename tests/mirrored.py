"""The server whose readers read mirrors: an executable for ``tests.harness.Server``.

    server = make_server(executable=mirrored(tmp_path))

    publish --> the channel, which is its home --reveal--> follow --> mirror --> attach, resume, rewind, live
                     ^                               X                  |
                     |                      every third batch is lost    |
                     +---- what is missing, from its journal <-- the chain of ``previous`` is broken

Each channel has a mirror, made by hand of the same parts: a ring that holds a few entries and begins with the first
reader, the streams, and nothing that numbers or stores. What it is told has gaps, which it has to notice."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.channel import Channel
from engine.channelview import ChannelView
from engine.hub import Hub
from engine.journal.entries import after
from engine.sequencer import Sequencer
from ext.log.entry import Entry
from ext.log.ring import EPHEMERAL, Ring
from ext.log.stream import Stream
from ext.wire.encoder import record_origin
from server.node.turn import Turn

ROOT = Path(__file__).resolve().parent.parent
RING_ENTRIES, RING_BYTES = 16, 1 << 16
EVERY = 3  # batches, of which one does not arrive
QUIET_SECONDS = 0.02
PAGE_ENTRIES, PAGE_BYTES = 64, 1 << 16


def mirrored(directory: Path) -> Path:
    executable = directory / "unbroken-of-mirrors"
    executable.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {__file__} "$@"\n')
    executable.chmod(0o700)
    return executable


class Mirror(ChannelView):
    """Of a channel whose home is elsewhere: here, in another object."""

    __slots__ = (*ChannelView.SLOTS, "awake", "heard", "home", "newest", "waiting")

    def __init__(self, home: Channel) -> None:
        super().__init__(home.key, home.series)
        self.begin_view(home.app_id, home.name, home.policy, home.partition)
        self.home = home
        self.awake = False
        self.waiting = None
        self.heard = 0  # batches
        self.newest = 0  # the serial of the last entry that the next one has to name as its previous

    def begin(self) -> None:
        """Its home is awake, or can't be woken."""
        home = self.home
        self.failure = home.failure
        if self.awake or self.failure is not None:
            return
        lives = self.policy.lives
        began = lives.began if lives else 0
        self.ring = Ring(RING_ENTRIES, RING_BYTES, home.head, self.series, None, began, lives)
        self.head, self.newest = home.head, home.last_stored
        self.outgoing = home.outgoing
        self.awake = True

    def follow(self, entries: list[Entry]) -> list[Stream]:
        """What the home has revealed; what is missing before it is asked for first. The streams that have grown."""
        moved: list[Stream] = []
        for entry in entries:
            kept = self.home.kept and not entry.flags & EPHEMERAL
            if kept and entry.previous != self.newest:
                moved += self.catch_up(entry.serial)
            if entry.serial > self.head:
                moved += self.reveal([entry])
                if kept:
                    self.newest = entry.serial
        return moved

    def catch_up(self, before: int) -> list[Stream]:
        """With what the home has stored up to this serial, and we have not heard of."""
        moved: list[Stream] = []
        while True:
            journal = self.partition.journal
            page = after(journal, self.key, self.newest, limit=PAGE_ENTRIES, budget=PAGE_BYTES)
            page = [stored for stored in page if stored.serial < before]
            for stored in page:
                assert stored.previous == self.newest, "nothing is missing between them"
                self.newest = stored.serial
                moved += self.reveal([Entry(stored.serial, stored.record, record_origin(stored.record), 0, 1)])
            if not page:
                return moved

    def count_attachment(self, change: int) -> None:
        self.home.count_attachment(change)  # a fact that the home is told

    def recount(self, before: int, after: int) -> None:
        self.home.recount(before, after)


class Mirrors:
    """All of a server."""

    def __init__(self) -> None:
        self.of: dict[Channel, Mirror] = {}
        self.late: dict[Mirror, tuple[int, float]] = {}  # with a batch that has not arrived: up to this serial; when
        self.lost = 0

    def view(self, home: Channel) -> Mirror:
        if home not in self.of:
            self.of[home] = Mirror(home)
        return self.of[home]

    def hear(self, groups: list[tuple[Channel, list[Entry]]]) -> list[Stream]:
        """These are visible at their homes."""
        moved: list[Stream] = []
        for home, entries in groups:
            mirror = self.of.get(home)
            if mirror is None or not mirror.awake:
                continue
            mirror.heard += 1
            if home.kept and mirror.heard % EVERY == 0 and not any(entry.flags & EPHEMERAL for entry in entries):
                self.late[mirror] = entries[-1].serial, time.monotonic()
                self.lost += 1
            else:
                moved += mirror.follow(entries)
        return moved

    def catch_up(self) -> list[Stream]:
        """Where nothing has come since for a while: the home says how far its log goes."""
        overdue = time.monotonic() - QUIET_SECONDS
        due = [(mirror, serial) for mirror, (serial, since) in self.late.items() if since < overdue]
        for mirror, _ in due:
            del self.late[mirror]
        return [stream for mirror, serial in due for stream in mirror.catch_up(serial + 1)]


def main() -> int:
    from server.cli import main as serve

    mirrors = Mirrors()
    when_awake, commit, end_of_turn = Hub.when_awake, Sequencer._commit, Turn.end

    def view(self: Hub, app_id: str, name: str) -> ChannelView:
        return mirrors.view(self.open(app_id, name))

    def when_mirror_awake(self: Hub, channel: ChannelView, do: Callable[[], None]) -> None:
        def begin() -> None:
            channel.begin()  # type: ignore[attr-defined]
            do()

        when_awake(self, channel.home, begin)  # type: ignore[attr-defined]

    def commit_and_tell(self: Sequencer, groups: list[tuple[Channel, list[Entry]]]) -> list[Stream]:
        return [*commit(self, groups), *mirrors.hear(groups)]

    def end_of_turn_and_catch_up(self: Turn, *, whole: bool = True) -> Any:
        if mirrors.late:
            self._plane.moved(mirrors.catch_up())
        before, more = mirrors.lost, end_of_turn(self, whole=whole)
        if mirrors.lost > before:
            threading.Timer(2 * QUIET_SECONDS, self._plane.kick).start()
        return more

    Hub.view = view  # type: ignore[method-assign]
    Hub.when_awake = when_mirror_awake  # type: ignore[method-assign]
    Sequencer._commit = commit_and_tell  # type: ignore[method-assign]
    Turn.end = end_of_turn_and_catch_up  # type: ignore[method-assign]
    status = serve()
    if mirrors.of and not mirrors.lost:
        print("no batch was lost on its way to a mirror", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
