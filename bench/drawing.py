"""A picture, if matplotlib is there: it is in the extra ``bench``, and nothing else needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def plotting(path: Path, rows: int = 1) -> Iterator[Any]:
    """Axes to draw on (a list of them, if there are several rows), written to ``path`` at the end; None without it."""
    try:
        import matplotlib
    except ImportError:
        print(f"no {path.name}: pip install 'unbroken[bench]' for pictures")
        yield None
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, 1, figsize=(9, 3.2 * rows), sharex=rows > 1, layout="constrained")
    try:
        yield axes
        figure.savefig(path, dpi=110)
        print(f"written: bench/results/{path.name}")
    finally:
        pyplot.close(figure)
