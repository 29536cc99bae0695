"""Plots a run: latency by percentile, in the style of HdrHistogram, and rates over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ext.load.histogram import Histogram
from server.bench.load import Load
from server.bench.options import UsageError
from server.bench.scenarios import Figures

NINES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # told apart without red and green


def load_pyplot() -> Any:
    """Raises: UsageError, if matplotlib is not installed. Call it before a long run."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("--plot needs matplotlib: pip install 'unbroken[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw(path: Path, load: Load, figures: Figures, title: str) -> None:
    pyplot = load_pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), constrained_layout=True)
    figure.suptitle(title)
    curves = [("publish to delivery", load.latency), ("publish to ACK", load.ack_latency)]
    if figures.connecting is not None:
        curves.append(("dialling to attached", figures.connecting))
    for (name, histogram), colour in zip(curves, COLOURS, strict=False):
        if histogram.count:
            xs, ys = _curve(histogram)
            left.plot(xs, ys, label=name, color=colour)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks([1 / (1 - nine / 100) for nine in NINES], [f"{nine:g}" for nine in NINES])
    left.set_xlabel("percentile")
    left.set_ylabel("ms")
    left.grid(visible=True, which="both", alpha=0.2)
    if left.get_legend_handles_labels()[0]:
        left.legend()
    seconds = [second.at for second in load.seconds]
    for name, values, colour in (
        ("delivered/s", [second.delivered for second in load.seconds], COLOURS[0]),
        ("acknowledged/s", [second.acknowledged for second in load.seconds], COLOURS[1]),
    ):
        right.plot(seconds, values, label=name, color=colour)
    right.set_xlabel("seconds")
    right.set_ylabel("messages/s")
    right.set_ylim(bottom=0)
    right.grid(visible=True, alpha=0.2)
    right.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _curve(histogram: Histogram) -> tuple[list[float], list[float]]:
    """1 / (1 - p) and milliseconds, for each step."""
    xs, ys = [], []
    for value, count in histogram.steps():
        share = min(count / histogram.count, 1 - 0.5 / histogram.count)
        xs.append(1 / (1 - share))
        ys.append(max(value, 1) / 1000)
    return xs, ys
