"""The sequencer, plainly: one list of what is stored for each channel, and one outcome for each id."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ModelLog:
    """One channel. ``under_way`` holds what has been staged and is neither stored nor refused."""

    stored: list[tuple[str, ...]] = field(default_factory=list)
    under_way: list[tuple[str, ...]] = field(default_factory=list)

    def stage(self, ids: tuple[str, ...]) -> str:
        """Its fate: ``new``, ``repeat`` (of something stored), ``follows`` (of something under way) or ``refused``."""
        known = [i for i in ids if any(i in entry for entry in self.stored + self.under_way)]
        if not known:
            self.under_way.append(ids)
            return "new"
        if len(known) < len(ids):
            return "refused"
        return "repeat" if any(known[0] in entry for entry in self.stored) else "follows"

    def commit(self, entries: list[tuple[str, ...]]) -> None:
        for entry in entries:
            self.under_way.remove(entry)
            self.stored.append(entry)

    def undo(self, entries: list[tuple[str, ...]]) -> None:
        for entry in entries:
            self.under_way.remove(entry)
