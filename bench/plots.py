"""The pictures of the results, for a README's width and for every eye.

Colours are those of Okabe and Ito, which people who see fewer colours also tell apart; what matters is also written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")           # files only: no display is asked for

from matplotlib import pyplot as plt

from bench.compare import Room

OURS, BLUE, GREY, ORANGE = "#D55E00", "#0072B2", "#999999", "#E69F00"
WIDTH = 9.0                     # inches at 110 dots: 990 pixels, a README's column
DPI = 110

plt.rcParams.update({
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "figure.constrained_layout.use": True, "savefig.dpi": DPI,
})


def plot_rooms(rooms: Sequence[Room], head: dict[str, Any], path: Path) -> None:
    """How many times as fast as plain Python each room is, on a logarithmic axis; the noise as a thin line."""
    compared = sorted((room for room in rooms if room.baseline), key=lambda room: room.ratio or 0)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.22 * len(compared)))
    ratios = [room.ratio or 0 for room in compared]
    noise = [room.compiled.noise + (room.baseline.noise if room.baseline else 0) for room in compared]
    axes.barh(range(len(compared)), [ratio - 1 for ratio in ratios], left=1, height=0.7, color=BLUE)
    for at, (ratio, wide) in enumerate(zip(ratios, noise, strict=True)):
        axes.plot((ratio / (1 + wide), ratio * (1 + wide)), (at, at), color="black", linewidth=0.8)
        axes.annotate(f"{ratio:.1f}", (max(ratio * (1 + wide), 1), at), xytext=(4, 0), textcoords="offset points",
                      va="center", fontsize=8)
    axes.set_xscale("log")
    highest = max([2.0, *(ratio * (1 + wide) for ratio, wide in zip(ratios, noise, strict=True))])
    axes.set_xlim(min([0.7, *ratios]), highest * 1.6)
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", color="#dddddd")
    axes.set_yticks(range(len(compared)), [room.name for room in compared], fontsize=8)
    axes.set_ylim(-0.6, len(compared) - 0.4)
    axes.set_xlabel("times as fast as plain Python (line: noise)")
    axes.set_title(f"Compiled rooms, {head['measured']}, {head['commit']}, Python {head['machine']['python']}",
                   loc="left", fontsize=9)
    figure.savefig(path)
    plt.close(figure)
