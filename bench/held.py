"""The server, with a note of each step that holds its loop: python -m bench.held FILE serve ...

A step is what a task does from one wait to the next; nobody else has a turn meanwhile. Those of a millisecond or more
are added to FILE, a line each: milliseconds by the clock, milliseconds of CPU, and the task's name. By the clock,
a thread that has the interpreter counts as well, and so does whatever else the machine does meanwhile."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import trio

LONG_SECONDS = 0.001


class Holds(trio.abc.Instrument):
    """Notes long steps."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._begun = self._cpu = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._begun = time.perf_counter()
        self._cpu = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        seconds = time.perf_counter() - self._begun
        if seconds >= LONG_SECONDS:
            cpu = time.thread_time() - self._cpu
            self._file.write(f"{seconds * 1000:.2f} {cpu * 1000:.2f} {task.name}\n")


def main() -> int:
    path = Path(sys.argv[1])
    del sys.argv[1]
    run = trio.run

    def watched(function: Any, *arguments: Any, **options: Any) -> Any:
        return run(function, *arguments, **options, instruments=[Holds(path)])

    trio.run = watched
    from server.cli import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
