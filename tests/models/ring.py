"""The ring, plainly: a list of everything that it ever took, and how much of its front was let go."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Taken:
    serial: int
    entry: object
    size: int
    origin: int
    ephemeral: bool
    frame: bytes


@dataclass
class ModelRing:
    max_entries: int
    max_bytes: int
    taken: list[Taken] = field(default_factory=list)
    gone: int = 0

    def append(self, taken: Taken) -> None:
        self.taken.append(taken)
        while len(self.held) > 1 and (
            len(self.held) > self.max_entries or sum(t.size for t in self.held) > self.max_bytes
        ):
            self.gone += 1

    def trim(self, cursor: int) -> None:
        while self.held and self.held[0].serial <= cursor:
            self.gone += 1

    def press(self, evicted: int) -> None:
        """Others needed the memory: everything up to this serial is gone, too."""
        self.trim(evicted)

    @property
    def held(self) -> list[Taken]:
        return self.taken[self.gone :]

    @property
    def evicted(self) -> int:
        return self.taken[self.gone - 1].serial if self.gone else 0

    def read_after(self, cursor: int, budget: int, skip_origin: int) -> tuple[int, list[object]] | None:
        """None: something after the cursor is gone."""
        if cursor < self.evicted:
            return None
        found, total, last = [], 0, cursor
        for taken in self.held:
            if taken.serial <= cursor:
                continue
            if (total and total + taken.size > budget) or (total == 0 and last != cursor and taken.size > budget):
                break
            total += taken.size
            last = taken.serial
            if not taken.ephemeral and not (skip_origin and taken.origin == skip_origin):
                found.append(taken.entry)
        return last, found

    def frames_after(self, count: int, skip_origin: int, quiet_until: int) -> list[bytes] | None:
        """For a reader that has had the first ``count`` entries: the frames it gets up to the head."""
        if count < self.gone:
            return None
        return [
            taken.frame
            for number, taken in enumerate(self.taken[count:], count)
            if not (skip_origin and taken.origin == skip_origin) and not (number < quiet_until and taken.ephemeral)
        ]
