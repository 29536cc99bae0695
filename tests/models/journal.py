"""The plain twin of the journal: a dict of lists, and the rules of retention written out one by one."""

from __future__ import annotations

from engine.journal.port import Block, Stored


class JournalModel:
    def __init__(self) -> None:
        self.channels: dict[str, list[Stored]] = {}
        self.given: dict[str, list[int]] = {}  # every serial a channel ever had, dropped or not
        self.classes: dict[int, str] = {}  # of each serial: that of its channel when it was written
        self.erased = False
        self.head = 0

    def append(self, blocks: list[Block]) -> None:
        for block in blocks:
            for serial, previous, record in block.entries:
                self.channels.setdefault(block.channel, []).append(Stored(serial, previous, block.series, record))
                self.given.setdefault(block.channel, []).append(serial)
                self.classes[serial] = block.retention
                self.head = max(self.head, serial)

    def after(self, channel: str, cursor: int) -> list[Stored]:
        return [entry for entry in self.channels.get(channel, []) if entry.serial > cursor]

    def before(self, channel: str, cursor: int) -> list[Stored]:
        return [entry for entry in reversed(self.channels.get(channel, [])) if entry.serial < cursor]

    def drop_up_to(self, retention: str, floor: int) -> None:
        for channel, entries in self.channels.items():
            self.channels[channel] = [
                entry for entry in entries if entry.serial > floor or self.classes[entry.serial] != retention
            ]

    def erase(self, channel: str, serials: list[int]) -> None:
        self.erased = True
        self.channels[channel] = [entry for entry in self.channels.get(channel, []) if entry.serial not in serials]
        self.given[channel] = [serial for serial in self.given[channel] if serial not in serials]

    def last_serial(self, channel: str) -> int:
        """Of all that it ever had, whether dropped or not, except what was taken back."""
        return max(self.given.get(channel, []), default=0)

    def lost_after(self, channel: str, cursor: int) -> bool:
        """Has an entry after the cursor been dropped?"""
        held = {entry.serial for entry in self.channels.get(channel, [])}
        return any(serial > cursor and serial not in held for serial in self.given.get(channel, []))


def page(entries: list[Stored], limit: int, budget: int) -> list[Stored]:
    taken: list[Stored] = []
    for entry in entries:
        if taken and (len(taken) == limit or sum(len(each.record) for each in taken) + len(entry.record) > budget):
            break
        taken.append(entry)
    return taken
