"""An entry with a serial that a test chooses, staged as every other: its clock is set to the serial before."""

from __future__ import annotations

from ext.log.dedup import DedupWindow
from ext.log.home import Home
from ext.log.sequence import Sequence


def stage_at(
    sequence: Sequence, home: Home, serial: int, record: bytes, completion: object, *, origin: int = 0, flags: int = 0
) -> None:
    """Serials ascend; the id of its one message is new."""
    if home.dedup is None:
        home.dedup = DedupWindow(bytes(16))
    sequence.common.now_ms = 0
    sequence.clock.restore(serial - 1)
    decision = sequence.stage(home, f"id{serial}", None, 1, False, flags, origin, lambda: record, completion)
    assert decision == 0 and sequence.clock.last == serial
