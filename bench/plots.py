"""The pictures of the results, for a README's width and for every eye.

Colours are those of Okabe and Ito, which people who see fewer colours also tell apart; what matters is also written."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # files only: no display is asked for

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from bench.compare import Room
from bench.peers import results
from bench.peers.scenarios import ROWS
from bench.peers.servers import PEERS

OURS, BLUE, GREY, ORANGE = "#D55E00", "#0072B2", "#999999", "#E69F00"
WIDTH = 9.0  # inches at 110 dots: 990 pixels, a README's column
DPI = 110
TITLE_WIDTH = 42  # characters over half of it

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.constrained_layout.use": True,
        "savefig.dpi": DPI,
    }
)


def plot_rooms(rooms: Sequence[Room], head: dict[str, Any], path: Path) -> None:
    """How many times as fast as plain Python each room is, on a logarithmic axis; the noise as a thin line."""
    compared = sorted((room for room in rooms if room.baseline), key=lambda room: room.ratio or 0)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.22 * len(compared)))
    ratios = [room.ratio or 0 for room in compared]
    noise = [room.compiled.noise + (room.baseline.noise if room.baseline else 0) for room in compared]
    axes.barh(range(len(compared)), [ratio - 1 for ratio in ratios], left=1, height=0.7, color=BLUE)
    for at, (ratio, wide) in enumerate(zip(ratios, noise, strict=True)):
        axes.plot((ratio / (1 + wide), ratio * (1 + wide)), (at, at), color="black", linewidth=0.8)
        axes.annotate(
            f"{ratio:.1f}",
            (max(ratio * (1 + wide), 1), at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
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
    axes.set_title(
        f"Compiled rooms, {head['measured']}, {head['commit']}, Python {head['machine']['python']}",
        loc="left",
        fontsize=9,
    )
    figure.savefig(path)
    plt.close(figure)


# What a peer has done with a message when it acknowledges it, or delivers it where it has no ACK.
KINDS = {
    "ours, synced": OURS,
    "ours, in memory": ORANGE,
    "synced before the ACK": BLUE,
    "stored, synced later": "#56B4E9",
    "nothing on disk": GREY,
}
PERCENTILES = (("p50_us", "o"), ("p90_us", "|"), ("p99_us", "D"), ("p999_us", "x"))


def _kind(name: str) -> str:
    peer = PEERS[name]
    if peer.ours:
        return "ours, synced" if peer.synced else "ours, in memory"
    if peer.synced:
        return "synced before the ACK"
    return "stored, synced later" if peer.stores.startswith("disk") else "nothing on disk"


def plot_peers(held: dict[str, Any], directory: Path) -> None:
    """throughput.png, cpu.png and latency.png in the directory, of what was measured."""
    rates = "Messages a second, more is better (line: lowest and highest run)"
    costs = "Microseconds of the server for each message, less is better (line: lowest and highest run; logarithmic)"
    _bars(held, (1, 2, 3, 4, 5, 8), "rate", rates, directory / "throughput.png")
    _bars(held, (1, 2, 3, 4, 5, 7), "server_us", costs, directory / "cpu.png", logarithmic=True)
    _latencies(held, (2, 5, 6, 7), directory / "latency.png")


def _panels(rows: Sequence[int], title: str) -> tuple[Any, list[Any]]:
    columns = 2
    most = max(len(ROWS[number].peers) for number in rows)
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(WIDTH, lines * (0.9 + 0.22 * most) + 0.5), squeeze=False)
    figure.suptitle(title, fontsize=10)
    for axis, number in zip(axes.flat, rows, strict=True):
        axis.set_title(textwrap.fill(f"{number}. {ROWS[number].title}", TITLE_WIDTH), loc="left", fontsize=9)
        axis.grid(axis="x", color="#dddddd")
    return figure, list(axes.flat)


def _legend(figure: Any, extra: Sequence[Any] = ()) -> None:
    handles = [Patch(color=colour, label=kind) for kind, colour in KINDS.items()]
    figure.legend(handles=[*handles, *extra], loc="outside lower center", ncols=5, frameon=False, fontsize=8)


def _measured(held: dict[str, Any], row: int, figure: str) -> list[str]:
    """The peers that have this figure, ours on top."""
    return [name for name in reversed(ROWS[row].peers) if results.median(held, row, name, figure) is not None]


def _bars(
    held: dict[str, Any], rows: Sequence[int], figure: str, title: str, path: Path, *, logarithmic: bool = False
) -> None:
    canvas, axes = _panels(rows, title)
    for axis, number in zip(axes, rows, strict=True):
        names = _measured(held, number, figure)
        values = [results.median(held, number, name, figure) or 0 for name in names]
        colours = [KINDS[_kind(name)] for name in names]
        if logarithmic:  # a bar has no honest beginning there
            axis.scatter(values, range(len(names)), s=70, color=colours)
            axis.grid(axis="y", color="#eeeeee")
        else:
            axis.barh(range(len(names)), values, height=0.7, color=colours)
        for at, (name, value) in enumerate(zip(names, values, strict=True)):
            low, high = results.spread(held, number, name, figure) or (value, value)
            axis.plot((low, high), (at, at), color="black", linewidth=0.9)
            axis.annotate(
                _short(value),
                (max(value, high), at),
                xytext=(8 if logarithmic else 4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axis.set_yticks(range(len(names)), [PEERS[name].title for name in names], fontsize=8)
        ends = [end for name in names for end in results.spread(held, number, name, figure) or ()] or [1.0]
        if logarithmic:
            axis.set_xscale("log")
            axis.set_xlim(min(ends) / 2, max(ends) * 3)
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.set_xlim(0, 1.22 * max(ends))
            axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(lambda value, _: _short(value))
    _legend(canvas)
    canvas.savefig(path)
    plt.close(canvas)


def _latencies(held: dict[str, Any], rows: Sequence[int], path: Path) -> None:
    canvas, axes = _panels(rows, "Milliseconds from publish to delivery (2, 7) or to ACK (5, 6); logarithmic")
    for axis, number in zip(axes, rows, strict=True):
        names = _measured(held, number, "p50_us")
        for at, name in enumerate(names):
            points = [(results.median(held, number, name, figure) or 0) / 1000 for figure, _ in PERCENTILES]
            colour = KINDS[_kind(name)]
            axis.plot(points, [at] * len(points), color=colour, linewidth=2, alpha=0.5)
            for point, (_, marker) in zip(points, PERCENTILES, strict=True):
                axis.plot(point, at, marker, color=colour, markersize=6, markeredgewidth=1.8)
        axis.set_xscale("log")
        ends = [results.median(held, number, name, figure) or 1.0 for name in names for figure in ("p50_us", "p999_us")]
        axis.set_xlim(10 ** math.floor(math.log10(min([*ends, 1e3]) / 1000)), 2 * max([*ends, 1e4]) / 1000)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_yticks(range(len(names)), [PEERS[name].title for name in names], fontsize=8)
        axis.set_ylim(-0.6, len(names) - 0.4)
    marks = [
        Line2D([], [], color="black", marker=marker, linestyle="", label=label)
        for (_, marker), label in zip(PERCENTILES, ("median", "90 %", "99 %", "99.9 %"), strict=True)
    ]
    _legend(canvas, marks)
    canvas.savefig(path)
    plt.close(canvas)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"
