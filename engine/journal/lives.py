"""Records which life of the server issued which serial, and so whether a cursor is valid here.

    serials   0 ... head | ... head | ... head | ...        the head at the time when the next life began
    lives       oldest   |  another |  another | this one   each has a random name, the series of its serials

A life begins with each start of the server on the data directory, and its name is on the disk before it issues
anything. So a restored copy of the directory, or one beside the original, knows the lives up to the copy, and of the
last one only the serials up to the copy. A later serial has the name of a life that is unknown here, or lies where this
directory has another life.

A life that issued nothing leaves no name behind, so repeated starts do not use up the names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from secrets import choice
from string import ascii_letters, digits

from engine import limits

SERIES_LENGTH = 8
SERIAL_BYTES = 8
_STEP = SERIAL_BYTES + SERIES_LENGTH


class Lives:
    """The lives of one log, up to the present one; unchanged while the server runs."""

    __slots__ = ("_ends", "_names", "_set")

    def __init__(self, names: Iterable[str], ends: Iterable[int] = ()) -> None:
        """``names``, oldest first; ``ends``: the last serial of each but the present one."""
        self._names, self._ends = tuple(names), tuple(ends)
        assert len(self._names) == len(self._ends) + 1
        self._set = frozenset(self._names)

    @property
    def series(self) -> str:
        """The series of this life."""
        return self._names[-1]

    @property
    def began(self) -> int:
        """Everything up to this serial was issued before this life."""
        return self._ends[-1] if self._ends else 0

    def __contains__(self, series: str) -> bool:
        return series in self._set

    def series_of(self, serial: int) -> str:
        """The series of the life that issued it, or will: a cursor with another series is not of this log."""
        return self._names[bisect_left(self._ends, serial)]

    def followed(self, head: int, series: str) -> Lives:
        """These lives and one more, which begins after ``head``, the newest serial issued by now."""
        names, ends = self._names, self._ends
        if ends and ends[-1] == head:  # the first is always kept: 0 is a position of its own
            names, ends = names[:-1], ends[:-1]
        names, ends = (*names, series), (*ends, head)
        most = limits.LIVES_KEPT
        return Lives(names[-most:], ends[1 - most :])

    def encode(self) -> bytes:
        """``name | (end, big-endian | name) ...``"""
        following = zip(self._ends, self._names[1:], strict=True)
        return self._names[0].encode("ascii") + b"".join(
            end.to_bytes(SERIAL_BYTES, "big") + name.encode("ascii") for end, name in following
        )

    @classmethod
    def decode(cls, value: bytes) -> Lives:
        """Raises: ValueError."""
        rest = len(value) - SERIES_LENGTH
        if rest < 0 or rest % _STEP:
            raise ValueError(f"{len(value)} bytes are not a list of lives")
        steps = range(SERIES_LENGTH, len(value), _STEP)
        names = [value[:SERIES_LENGTH], *(value[at + SERIAL_BYTES : at + _STEP] for at in steps)]
        ends = [int.from_bytes(value[at : at + SERIAL_BYTES], "big") for at in steps]
        return cls([name.decode("ascii") for name in names], ends)


def new_series() -> str:
    return "".join(choice(ascii_letters + digits) for _ in range(SERIES_LENGTH))
