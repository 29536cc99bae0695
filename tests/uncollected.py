"""The server without a collector of cycles: python -m tests.uncollected serve ...

SIGUSR1 has it count what only a collector could have freed, and say so in a line on stderr:

    uncollected 123 frame=10 SSLObject=5 ..."""

from __future__ import annotations

import gc
import signal
import sys
from collections import Counter

from server.cli import main

SHOWN = 12  # kinds of objects, the most frequent first


def _count(number: int, frame: object) -> None:
    gc.set_debug(gc.DEBUG_SAVEALL)
    found = gc.collect()
    kinds = Counter(type(each).__name__ for each in gc.garbage).most_common(SHOWN)
    gc.set_debug(0)
    gc.garbage.clear()
    gc.collect()
    print("uncollected", found, *(f"{kind}={count}" for kind, count in kinds), file=sys.stderr, flush=True)


if __name__ == "__main__":
    gc.disable()
    signal.signal(signal.SIGUSR1, _count)
    sys.exit(main())
