"""What a piece of work costs, in a unit that a slow or busy machine stretches as much as the work.

assert cost(lambda: decode(frame)) < 5      it takes less CPU time than five yardsticks

One yardstick is what the standard library takes to read 32,000 empty lists: about 1 ms."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable

from server.app import GC_THRESHOLDS

PATIENCE_SECONDS = 30.0  # until a busy machine has let one try through
YARDSTICK = f"[{'[],' * 32_000}1]"


def cost(work: Callable[[], object], enough: float) -> float:
    """The CPU time that this thread needs for ``work``, in yardsticks: the least of many tries, until one is below
    ``enough``.

    Both are timed in turns: what slows the machine down, be it for the whole test, slows down both. The collector is
    set as the server sets it: what other tests have left behind is not looked through.
    """
    best, yardsticks = float("inf"), [_seconds(_yardstick)]
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        patience = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < patience:
            yardsticks.append(_seconds(_yardstick))
            best = min(best, _seconds(work))
            if best < enough * statistics.median_low(yardsticks):
                break
            time.sleep(0.05)
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    return best / statistics.median_low(yardsticks)


def _yardstick() -> None:
    json.loads(YARDSTICK)


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
