"""The real server with clocks that a test sets: the wall clock alone, or all of them, as if time passed.

    test --writes--> clocks (a file: wall ms, elapsed ms) --mapped--> what the server adds to the time

    server.set_wall(+4 * DAY_MS)      somebody sets the clock
    server.passes(136_000)            136 s go by, for all clocks. The server runs meanwhile, so it is no stall

What is replaced is in ``server.node.clock``: the two functions that ask the kernel."""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path
from typing import Any

from tests.harness import Server

OFFSETS = struct.Struct("qq")
SCRIPT = """#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.skewed import main
sys.exit(main())
"""


class SkewedServer(Server):
    def __init__(self, directory: Path, **options: Any) -> None:
        script = directory / "skewed-unbroken"
        script.write_text(SCRIPT.format(python=sys.executable, root=str(Path(__file__).parent.parent)))
        script.chmod(0o700)
        self._clocks = directory / "clocks"
        self._wall_ms = self._elapsed_ms = 0
        self._write()
        super().__init__(directory, executable=script, **options)

    def set_wall(self, by_ms: int) -> None:
        self._wall_ms += by_ms
        self._write()
        time.sleep(0.5)  # somebody looks at the clock

    def passes(self, ms: int, *, settles: bool = True) -> None:
        """``settles``: wait until connections, channels and journal have had what is due by then."""
        self._wall_ms += ms
        self._elapsed_ms += ms
        self._write()
        if settles:
            time.sleep(1.2)  # all sockets have had their tick, what comes each second its turn

    def _write(self) -> None:
        with self._clocks.open("r+b" if self._clocks.exists() else "w+b") as file:
            file.write(OFFSETS.pack(self._wall_ms, self._elapsed_ms))


def main() -> int:
    import server.cli
    import server.node.clock

    with Path(sys.argv[0]).with_name("clocks").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), OFFSETS.size)
    wall_ms, boottime_ns = server.node.clock.wall_clock_ms, server.node.clock.boottime_ns
    server.node.clock.wall_clock_ms = lambda: wall_ms() + OFFSETS.unpack(mapped)[0]
    server.node.clock.boottime_ns = lambda: boottime_ns() + OFFSETS.unpack(mapped)[1] * 1_000_000
    server.node.clock.STALL_NS = 10**18  # when a test lets time pass, it does so at once
    return server.cli.main()
