"""The server on a disk that fails on command: an executable for ``tests.harness.Server``.

    disk = FailingDisk(tmp_path)
    server = make_server(executable=disk.executable)
    disk.hold()          the next sync ends, and well, when the disk is told something else: one batch gathers
    disk.fail()          a sync that begins now fails, though the bytes are in the log; the journal does not reopen
    disk.fail_reads()    from now on nothing stored can be read
    disk.hang_reads()    ... each read waits until the disk is told something else
    disk.mend()

With ``closed`` it is closed in between, as where it was closed and then does not open; else readers go on."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SWITCH = "FAILING_DISK"  # names, in the environment, the file that says how it fails; no file: it does not
PATIENCE = "DOUBT_SECONDS"


class FailingDisk:
    def __init__(self, directory: Path, *, doubt_seconds: float = 60.0) -> None:
        self._switch = directory / "disk"
        self.executable = directory / "unbroken-on-a-failing-disk"
        self.executable.write_text(
            f"#!/bin/sh\nPYTHONPATH={ROOT} {SWITCH}={self._switch} {PATIENCE}={doubt_seconds}"
            f' exec {sys.executable} {__file__} "$@"\n'
        )
        self.executable.chmod(0o700)

    def hold(self) -> None:
        self._switch.write_text("hold")

    def fail(self, *, closed: bool = False) -> None:
        new = self._switch.with_suffix(".new")
        new.write_text("closed" if closed else "open")
        new.rename(self._switch)

    def fail_reads(self) -> None:
        self._switch.write_text("unread")

    def hang_reads(self) -> None:
        self._switch.write_text("hung")

    def failed_reads(self) -> int:
        counted = Path(f"{self._switch}.reads")
        return counted.stat().st_size if counted.exists() else 0

    def mend(self) -> None:
        self._switch.unlink(missing_ok=True)


def main() -> int:
    from engine import limits
    from engine.errors import JournalUnavailable
    from engine.journal import reopening
    from engine.journal.store import FamilyRows, RocksStore, StoreError
    from server.cli import main as serve
    from server.node import readwatch

    switch = Path(os.environ[SWITCH])
    readwatch.HUNG_MS = 2_000
    limits.DOUBT_SECONDS = float(os.environ[PATIENCE])  # type: ignore[misc]
    check_room, begin_sync, end_sync = reopening._check_room, RocksStore.begin_sync, RocksStore.end_sync
    sync, open_store, rows = RocksStore.sync, RocksStore.__init__, RocksStore.rows
    sync_ended = RocksStore.sync_ended.fget
    doomed: list[bool] = []

    def told() -> str:
        try:
            return switch.read_text()
        except FileNotFoundError:
            return ""

    def fails() -> bool:
        return told() in ("open", "closed")

    def failing_begin_sync(self: RocksStore, wake_fd: int) -> None:
        doomed[:] = [fails()]
        begin_sync(self, wake_fd)

    def held_sync_ended(self: RocksStore) -> bool:
        return sync_ended(self) and told() != "hold"

    def failing_end_sync(self: RocksStore) -> None:
        end_sync(self)
        if doomed[0]:
            raise StoreError("IO error: Input/output error")

    def failing_sync(self: RocksStore) -> None:
        sync(self)
        if fails():
            raise StoreError("IO error: Input/output error")

    def failing_open(self: RocksStore, path: Path) -> None:
        if fails():
            raise StoreError("IO error: Input/output error")
        open_store(self, path)

    def failing_rows(self: RocksStore, family: str) -> FamilyRows:
        if told() == "unread":
            with Path(f"{switch}.reads").open("a") as counted:
                counted.write(".")
            raise StoreError("IO error: Input/output error")
        while told() == "hung":
            time.sleep(0.05)
        return rows(self, family)

    def no_room(state: reopening.JournalState) -> None:
        if told() == "open":
            raise JournalUnavailable(f"{state.failed}; no room to reopen it")
        check_room(state)

    reopening._check_room = no_room  # type: ignore[assignment]
    RocksStore.begin_sync = failing_begin_sync  # type: ignore[method-assign]
    RocksStore.sync_ended = property(held_sync_ended)  # type: ignore[method-assign,assignment]
    RocksStore.end_sync = failing_end_sync  # type: ignore[method-assign]
    RocksStore.sync = failing_sync  # type: ignore[method-assign]
    RocksStore.rows = failing_rows  # type: ignore[method-assign]
    RocksStore.__init__ = failing_open  # type: ignore[method-assign]
    return serve()


if __name__ == "__main__":
    sys.exit(main())
