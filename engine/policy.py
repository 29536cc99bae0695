"""The promises of a namespace for its channels, together with the log that stores them."""

from __future__ import annotations

from dataclasses import dataclass

from engine.journal.lives import Lives
from ext.text.serial import serial_text


@dataclass(frozen=True, slots=True)
class Policy:
    """The promises of a namespace for its channels."""

    durability: str  # "synced", "written" or "memory": see engine.settings
    retention: str  # the journal's retention class
    retained_ms: int  # how far back history and rewind may reach
    series: str  # of the present life of the log for this durability class
    lives: Lives | None = None  # of that log, including the present one; None if there is no other

    def series_of(self, serial: int) -> str:
        """The series of the life that issued this serial, or will."""
        return self.series if self.lives is None else self.lives.series_of(serial)

    def position(self, serial: int) -> str:
        """The text of a position in the log."""
        return serial_text(serial, self.series_of(serial))
