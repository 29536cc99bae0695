"""Journal appends, one at a time, without blocking the loop on the disk.

start(blocks) -> journal.begin: written, and being synced by a thread that does not need the interpreter
              -> or, while maintenance holds the journal: journal.append, in a thread of its own
done <---- the loop is woken (wake_fd, an eventfd) ---------+            take() -> the outcome"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from engine.journal.port import NONE_REFUSED, Block, Journal, Refused


class Appender:
    """Call every method but ``close`` from one thread, that of the loop."""

    def __init__(self, journal: Journal, wake_fd: int) -> None:
        """``wake_fd``: an eventfd, written when an append that was not finished at once has ended."""
        self._journal = journal
        self._wake_fd = wake_fd
        self._jobs: SimpleQueue[tuple[Sequence[Block], bool] | None] = SimpleQueue()
        self._outcome: Refused | BaseException = NONE_REFUSED
        self._done = False
        self._begun = False
        self._thread: threading.Thread | None = None

    @property
    def done(self) -> bool:
        """The latest append has ended, and its outcome has not been taken."""
        return self._done or (self._begun and self._journal.ended)

    def start(self, blocks: Sequence[Block], *, synced: bool) -> bool:
        """Begin an append. One at a time: take the previous outcome first. True: it takes a while, surely."""
        try:
            self._begun = self._journal.begin(blocks, synced=synced, wake_fd=self._wake_fd)
        except BaseException as error:  # raised by take(), whose caller handles it
            self._outcome, self._done = error, True
            return False
        if not self._begun:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
                self._thread.start()
            self._jobs.put((blocks, synced))
        return synced

    def take(self) -> Refused:
        """The outcome of the finished append. Raises: the journal's exception."""
        if self._begun:
            self._begun = False
            return self._journal.end()
        assert self._done
        self._done = False
        outcome, self._outcome = self._outcome, NONE_REFUSED
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def close(self) -> None:
        """Wait for the append under way; nothing can be started afterwards. Blocks."""
        if self._begun:
            self._journal.wait()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            blocks, synced = job
            try:
                self._outcome = self._journal.append(blocks, synced=synced)
            except BaseException as error:
                self._outcome = error
            del job, blocks  # otherwise they would live until the next batch
            self._done = True
            os.eventfd_write(self._wake_fd, 1)
