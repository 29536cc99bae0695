"""The threads that read the journal for replays: work is handed over and its outcome handed back without a task.

    start(work, then) --> a queue --> one of a few threads: work() --> outcomes, and whoever waits is woken
    take(): then(outcome), for each that is done <-----------------------+

A pass through trio's own threads costs some 100 us of CPU for each batch of a replay, this one some 20."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

LOGGER = logging.getLogger("unbroken.replay")

TAKE_SECONDS = 0.001  # of one turn; to hand on a batch of a replay takes up to 0.3 ms

Work = Callable[[], Any]
_interpreter = threading.Lock()


def alone(work: Work) -> Any:
    """Its result, got while no other thread reads the journal.

    All that the loop's own thread needs now and then is the interpreter; each of the threads that want it too keeps it
    for half a millisecond or more. They can't use more than one core anyway: RocksDB is read with it held.
    """
    with _interpreter:
        return work()


Then = Callable[[Any, BaseException | None], None]  # the result, or what was raised


class Readers:
    """Every method is for the side that hands over, in its one thread; only the work is done elsewhere."""

    def __init__(self, threads: int, on_done: Callable[[], None]) -> None:
        """``on_done`` is called in a thread after each work: it wakes whoever will ``take``."""
        self._most = threads
        self._on_done = on_done
        self._jobs: SimpleQueue[tuple[Work, Then] | None] = SimpleQueue()
        self._outcomes: deque[tuple[Then, Any, BaseException | None]] = deque()
        self._threads: list[threading.Thread] = []
        self._under_way = 0

    def start(self, work: Work, then: Then) -> None:
        """Have it done, in its turn."""
        self._under_way += 1
        if self._under_way > len(self._threads) < self._most:
            thread = threading.Thread(target=self._run, name=f"replay {len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put((work, then))

    def take(self) -> None:
        """Pass on outcomes that have come, a few at a time. A failure of one is not the others'."""
        late = time.perf_counter() + TAKE_SECONDS
        while self._outcomes:
            if time.perf_counter() > late:
                self._on_done()
                return
            then, result, error = self._outcomes.popleft()
            self._under_way -= 1
            try:
                then(result, error)
            except Exception:
                LOGGER.exception("the step after a read failed")

    def close(self) -> None:
        """End the threads, when what has been handed over is done. Blocks; nothing that comes later is begun."""
        self._most = 0
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, then = job
            try:
                self._outcomes.append((then, alone(work), None))
            except BaseException as error:  # told to whoever asked, who knows what to do
                self._outcomes.append((then, None, error))
            del job, work, then  # or they would live until the next one
            self._on_done()
