"""A gate: many readers are inside at the same time, unless it is closed; closing it waits until all are out.

inside = 3, closing = no      ->  enter: 4
inside = 3, closing = yes     ->  enter waits; the closer waits for 0"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Gate:
    """A reader must not enter twice: it would wait for itself if someone closes in between."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._closing = False

    def __enter__(self) -> None:
        with self._changed:
            while self._closing:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if self._closing and self._inside == 0:
                self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        with self._changed:
            while self._closing:
                self._changed.wait()
            self._closing = True
            while self._inside:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._closing = False
                self._changed.notify_all()
