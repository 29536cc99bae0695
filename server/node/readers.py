"""Threads that read the journal for replays: work goes in and results come back without a trio task.

    start(work, then) --> a queue --> one of a few threads: work() --> outcomes, and the loop is woken
    take(): then(outcome), for each finished one <-----------------------+

A pass through trio's own threads costs about 100 us of CPU for each batch of a replay, this one about 20 us."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

LOGGER = logging.getLogger("unbroken.replay")

TAKE_SECONDS = 0.001  # per turn; passing on a batch of a replay takes up to 0.3 ms

Work = Callable[[], Any]
_interpreter = threading.Lock()


def alone(work: Work) -> Any:
    """Run ``work`` while no other thread reads the journal, and return its result.

    The loop's thread needs only the interpreter lock now and then, but each competing thread holds it for half a
    millisecond or more. These threads cannot use more than one core anyway: RocksDB is read with the lock held.
    """
    with _interpreter:
        return work()


Then = Callable[[Any, BaseException | None], None]  # the result, or the exception


class Readers:
    """Call every method from the one thread that submits; only the work itself runs elsewhere."""

    def __init__(self, threads: int, on_done: Callable[[], None]) -> None:
        """``on_done`` is called in a thread after each work; it must wake the caller of ``take``."""
        self._most = threads
        self._on_done = on_done
        self._jobs: SimpleQueue[tuple[Work, Then] | None] = SimpleQueue()
        self._outcomes: deque[tuple[Then, Any, BaseException | None]] = deque()
        self._threads: list[threading.Thread] = []
        self._under_way = 0

    def start(self, work: Work, then: Then) -> None:
        """Queue the work."""
        self._under_way += 1
        if self._under_way > len(self._threads) < self._most:
            thread = threading.Thread(target=self._run, name=f"replay {len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put((work, then))

    def take(self) -> None:
        """Pass on finished outcomes, a few at a time. An exception in one does not affect the others."""
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
        """End the threads when all submitted work is done. Blocks; later work is not begun."""
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
            except BaseException as error:  # passed to the caller, who handles it
                self._outcomes.append((then, None, error))
            del job, work, then  # otherwise they would live until the next one
            self._on_done()
