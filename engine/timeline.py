"""Records when each serial was issued, by a clock that cannot be set.

    wall      the machine's clock, in ms. It can be set, in both directions; serials carry it, and never go back
    steady    elapsed ms. Equal to the wall clock as long as that has never been set
    marks     (serial ms, steady ms, paced), ascending in both: serials from this millisecond on were issued from
              that time on, up to the next mark
    paced     serials advanced with steady time: the time of each is known
    not       the wall clock was behind the serials, so they crept by their counters; or marks were merged. Each
              serial lies somewhere between its mark and the next one

        serial ms   0 ........... 5000 | 90000 .. 93000 | 93001 (creeping) | 93002 (creeping) | ...
        steady ms   0 ........... 5000 | 5000 .... 8000 | 8000 ........... | 38000 .......... | ...
                        paced          |     paced      |    not paced     |    not paced

Code that expires data by age asks here for the minimum age: an uncertain serial counts as younger."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

from engine.limits import CLOCK_MARKS

FOREVER = 1 << 62
LARGEST_MS = (1 << 48) - 1
MARK_BYTES = 13  # serial ms: 6 | steady ms: 6 | paced: 1


class Mark(NamedTuple):
    serial_ms: int
    steady_ms: int
    paced: bool


START = Mark(0, 0, True)


class Timeline:
    """The timeline of one log. One task adds marks; any thread may ask, and sees a consistent snapshot of the marks."""

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self.marks: tuple[Mark, ...] = tuple(marks) or (START,)
        self.version = 0  # grows with each change
        self._changing = Lock()

    # its marks

    def add(self, mark: Mark) -> None:
        """From now on serials are issued from ``mark.serial_ms`` on, which is above all issued ones.

        Marks at or above it are replaced: no serial was issued after them.
        """
        with self._changing:
            kept = [each for each in self.marks if each.serial_ms < mark.serial_ms]
            assert not kept or kept[-1].steady_ms <= mark.steady_ms
            kept.append(mark)
            if len(kept) > CLOCK_MARKS:
                kept = _merged(kept)
            self._change(tuple(kept))

    def prune(self, serial_ms: int) -> None:
        """Serials before this millisecond no longer matter."""
        with self._changing:
            first = max(0, bisect_right(self.marks, serial_ms, key=_serial_ms) - 1)
            if first:
                self._change(self.marks[first:])

    def load(self, content: bytes) -> None:
        """Restore the output of ``dump``. Raises: ValueError."""
        whole, rest = divmod(len(content), MARK_BYTES)
        marks = [_read(content[at * MARK_BYTES : (at + 1) * MARK_BYTES]) for at in range(whole)]
        ascend = all(
            one.serial_ms < other.serial_ms and one.steady_ms <= other.steady_ms for one, other in pairwise(marks)
        )
        if rest or not marks or not ascend:
            raise ValueError(f"{len(content)} bytes are not ascending marks")
        with self._changing:
            self._change(tuple(marks))

    def dump(self) -> bytes:
        return b"".join(
            mark.serial_ms.to_bytes(6, "big") + mark.steady_ms.to_bytes(6, "big") + bytes((mark.paced,))
            for mark in self.marks
        )

    # queries

    def all_by(self, serial_ms: int) -> int:
        """The steady time by which every serial below this millisecond was issued; FOREVER: one may still come."""
        marks = self.marks
        at = bisect_right(marks, serial_ms - 1, key=_serial_ms) - 1
        if at < 0:
            return marks[0].steady_ms
        mark, end = marks[at], marks[at + 1].steady_ms if at + 1 < len(marks) else FOREVER
        return min(mark.steady_ms + serial_ms - mark.serial_ms, end) if mark.paced else end

    def none_before(self, serial_ms: int) -> int:
        """The steady time before which no serial of this millisecond or a later one was issued."""
        marks = self.marks
        at = bisect_right(marks, serial_ms, key=_serial_ms) - 1
        if at < 0:
            return 0
        mark, end = marks[at], marks[at + 1].steady_ms if at + 1 < len(marks) else FOREVER
        return min(mark.steady_ms + serial_ms - mark.serial_ms, end) if mark.paced else mark.steady_ms

    def older_than(self, steady_ms: int) -> int:
        """The millisecond below which every serial was issued before this time."""
        marks = self.marks
        at = bisect_right(marks, steady_ms, key=_steady_ms) - 1
        if at < 0:
            return 0
        mark = marks[at]
        if not mark.paced:
            return mark.serial_ms
        end = marks[at + 1].serial_ms if at + 1 < len(marks) else LARGEST_MS
        return min(mark.serial_ms + steady_ms - mark.steady_ms, end)

    def newest_by(self, steady_ms: int) -> int:
        """A millisecond that no serial issued before this time has reached."""
        marks = self.marks
        at = bisect_right(marks, steady_ms, key=_steady_ms) - 1
        if at < 0:
            return marks[0].serial_ms
        mark, end = marks[at], marks[at + 1].serial_ms if at + 1 < len(marks) else LARGEST_MS
        return min(mark.serial_ms + steady_ms - mark.steady_ms, end) if mark.paced else end

    def expected(self, steady_ms: int) -> int | None:
        """The millisecond of serials at this time, unless the wall clock is set; None while they creep."""
        mark = self.marks[-1]
        return mark.serial_ms + steady_ms - mark.steady_ms if mark.paced else None

    def cut(self, begin_ms: int, length_ms: int, above_ms: int) -> int:
        """The end of a span of serials from ``begin_ms`` on that lasts at most ``length_ms`` of steady time plus a step
        between marks; always above ``above_ms``. FOREVER: no mark determines it yet."""
        marks = self.marks
        after = max(begin_ms, above_ms)
        end_ms = self.none_before(begin_ms) + length_ms
        at = bisect_right(marks, after, key=_serial_ms)
        return next((mark.serial_ms for mark in marks[at:] if mark.steady_ms >= end_ms), FOREVER)

    def _change(self, marks: tuple[Mark, ...]) -> None:
        self.marks = marks
        self.version += 1


def _serial_ms(mark: Mark) -> int:
    return mark.serial_ms


def _steady_ms(mark: Mark) -> int:
    return mark.steady_ms


def _merged(marks: list[Mark]) -> list[Mark]:
    """Drop every other mark of the older half: that loses precision about the serials there, but is never wrong."""
    half = len(marks) // 2
    return [mark._replace(paced=False) for mark in marks[:half:2]] + marks[half:]


def _read(content: bytes) -> Mark:
    if content[12] > 1:
        raise ValueError(f"{content[12]} is neither paced nor not")
    return Mark(int.from_bytes(content[:6], "big"), int.from_bytes(content[6:12], "big"), bool(content[12]))
