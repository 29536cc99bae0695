"""The thread that writes: one batch at a time, handed over and handed back without a task in between.

    start(blocks) --> the thread: journal.append (write; sync without the GIL) --> done, and whoever waits is woken
    take() <-------------------------------------------------------------------------+

A pass through trio's own threads costs some 100 us for each batch; a queue of one and an eventfd cost 20."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from engine.journal.port import Block, Journal


class Appender:
    """Appends in a thread of its own. Every method is for the other side's one thread."""

    def __init__(self, journal: Journal, on_done: Callable[[], None]) -> None:
        """``on_done`` is called in the thread after each append: it wakes whoever will ask for the outcome."""
        self._journal = journal
        self._on_done = on_done
        self._jobs: SimpleQueue[tuple[Sequence[Block], bool] | None] = SimpleQueue()
        self._outcome: BaseException | None = None
        self._done = False
        self._thread: threading.Thread | None = None

    @property
    def done(self) -> bool:
        """The append that was started last has ended, and its outcome has not been taken."""
        return self._done

    def start(self, blocks: Sequence[Block], *, synced: bool) -> None:
        """Begin an append. One at a time: the outcome of the one before has been taken."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()
        self._jobs.put((blocks, synced))

    def take(self) -> BaseException | None:
        """The outcome of what is done: None, or what the journal raised."""
        assert self._done
        self._done = False
        outcome, self._outcome = self._outcome, None
        return outcome

    def close(self) -> None:
        """End the thread, when what has begun is done. Blocks; nothing can be started afterwards."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            blocks, synced = job
            try:
                self._journal.append(blocks, synced=synced)
            except BaseException as error:  # told to whoever started it, who knows what to do
                self._outcome = error
            del job, blocks  # or they would live until the next batch
            self._done = True
            self._on_done()
