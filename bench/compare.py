"""Two measurements of the same rooms: which differences are more than noise.

    passes of pytest-benchmark            one result                      two results
    [JSON] [JSON] [JSON]   -> condense -> Room(compiled, baseline)  -> change -> better | worse | same

A median is worth what its spread lets it be: half of the middle half of the rounds to each side, or the whole distance
of the passes, whichever is more. Two medians differ when these no longer touch, and never within 15 %: repeats of the
same code on a shared machine lie that far apart. The baseline is the control: it did not change, so when compiled room
and baseline move together it was the machine. On another machine only the ratio of the two is compared."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

FORMAT = 1  # of the file of results; another number is not compared with
EQUAL = 0.15  # of the older median: repeats of one build differ by some 13 %
COMPILED = ("ext", "engine", "compiled")  # parameter ids in bench/test_bench_*.py
BASELINE = ("baseline", "plain")
OTHERS = ("wsproto",)  # libraries that are measured beside the two, and not compared


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a call: the median, how wide its noise is (twice what it may be off), and the rounds of all passes."""

    median: float
    iqr: float
    rounds: int

    @property
    def noise(self) -> float:
        """To each side, as part of the median."""
        return self.iqr / 2 / self.median


@dataclass(frozen=True, slots=True)
class Room:
    name: str
    compiled: Timing
    baseline: Timing | None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the baseline."""
        return self.baseline.median / self.compiled.median if self.baseline else None


@dataclass(frozen=True, slots=True)
class Change:
    """``part``: +0.5 takes half as long again; ``band``: below it nothing is said. What is compared: time or ratio."""

    part: float
    band: float
    word: str
    by: str


def condense(passes: Sequence[dict[str, Any]]) -> list[Room]:
    """The rooms that pytest-benchmark measured in one or more passes of the same benchmarks, in their order.

    Raises: ValueError, if a benchmark's name does not say whether it is the compiled room or the baseline, or twice.
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for number, measured in enumerate(passes, 1):
        for benchmark in measured["benchmarks"]:
            room, contender = _place(benchmark)
            stats = found.setdefault(room, {}).setdefault(contender, [])
            stats.append(benchmark["stats"])
            if len(stats) > number:
                raise ValueError(f"two benchmarks are both the {contender} of {room!r}: give one of them another group")
    rooms = []
    for name, by_contender in found.items():
        compiled = [contender for contender in by_contender if contender in COMPILED]
        if len(compiled) != 1:
            raise ValueError(f"{name!r} has {len(compiled)} compiled rooms; it takes one parameter id of {COMPILED}")
        baseline = next((by_contender[contender] for contender in BASELINE if contender in by_contender), None)
        rooms.append(Room(name, _timing(by_contender[compiled[0]]), _timing(baseline) if baseline else None))
    return rooms


def change(old: Room, new: Room, *, same_machine: bool) -> Change | None:
    """What became of a room; None if the machine is another one and there is no baseline to go by."""
    by_ratio = None
    if old.baseline and new.baseline:
        by_ratio = _change(
            new.compiled.median / new.baseline.median / (old.compiled.median / old.baseline.median),
            (old.compiled, new.compiled, old.baseline, new.baseline),
            "ratio",
        )
    if not same_machine:
        return by_ratio
    by_time = _change(new.compiled.median / old.compiled.median, (old.compiled, new.compiled), "time")
    if by_ratio is not None and by_ratio.word != by_time.word:
        return Change(by_time.part, by_time.band, "same", "time")  # the control moved along, or did so alone
    return by_time


def node_ids(passes: Sequence[dict[str, Any]], names: Iterable[str]) -> list[str]:
    """What pytest calls the benchmarks of these rooms."""
    wanted = set(names)
    return sorted(
        {
            benchmark["fullname"]
            for measured in passes
            for benchmark in measured["benchmarks"]
            if _place(benchmark)[0] in wanted
        }
    )


def as_json(rooms: Iterable[Room]) -> list[dict[str, Any]]:
    def timing(measured: Timing) -> dict[str, float]:
        return {
            "median_ns": _short(measured.median * 1e9),
            "iqr_ns": _short(measured.iqr * 1e9),
            "rounds": measured.rounds,
        }

    return [
        {
            "room": room.name,
            "compiled": timing(room.compiled),
            "baseline": timing(room.baseline) if room.baseline else None,
        }
        for room in rooms
    ]


def from_json(held: Iterable[dict[str, Any]]) -> list[Room]:
    def timing(measured: dict[str, float]) -> Timing:
        return Timing(measured["median_ns"] / 1e9, measured["iqr_ns"] / 1e9, int(measured["rounds"]))

    return [
        Room(room["room"], timing(room["compiled"]), timing(room["baseline"]) if room["baseline"] else None)
        for room in held
    ]


def table(rooms: Sequence[Room], before: Sequence[Room], *, same_machine: bool, against: str) -> list[str]:
    """The lines to print: room, compiled, baseline, ratio, and the change against ``before``."""
    held = {room.name: room for room in before}
    lines = [("room", "compiled", "baseline", "ratio", f"against {against or 'nothing'}", "")]
    for room in rooms:
        found = change(held[room.name], room, same_machine=same_machine) if room.name in held else None
        lines.append(
            (
                room.name,
                _time(room.compiled),
                _time(room.baseline) if room.baseline else "-",
                f"{room.ratio:.1f}x" if room.ratio else "-",
                _said(found) if found else ("new" if room.name not in held else "no control"),
                found.word if found else "",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    rows = []
    for name, *figures, word in lines:
        aligned = (text.rjust(width) for text, width in zip(figures, widths[1:], strict=True))
        rows.append("  ".join((name.ljust(widths[0]), *aligned, word)).rstrip())
    gone = held.keys() - {room.name for room in rooms}
    lost = [f"{name}: was measured before, and is not any more" for name in held if name in gone]
    return [rows[0], "-" * max(map(len, rows)), *rows[1:], *lost]


def _place(benchmark: dict[str, Any]) -> tuple[str, str]:
    """The room's name, with the parameters that are no contender, and the contender."""
    parts = (benchmark.get("param") or "").split("-")
    contenders = [part for part in parts if part in (*COMPILED, *BASELINE, *OTHERS)]
    if len(contenders) > 1:
        raise ValueError(f"{benchmark['name']}: more than one of {contenders} in its parameters")
    if contenders:
        parts.remove(contenders[0])
    case = "-".join(part for part in parts if part)
    name = benchmark["group"] or benchmark["name"].partition("[")[0]
    return (f"{name}, {case}" if case else name), (contenders[0] if contenders else COMPILED[0])


def _timing(passes: Sequence[dict[str, Any]]) -> Timing:
    medians = [stats["median"] for stats in passes]
    within = statistics.median(stats["iqr"] for stats in passes)
    apart = max(medians) - min(medians)
    return Timing(statistics.median(medians), max(within, 2 * apart), sum(stats["rounds"] for stats in passes))


def _change(factor: float, noisy: Sequence[Timing], by: str) -> Change:
    band = max(EQUAL, math.hypot(*(timing.noise for timing in noisy)))
    part = factor - 1
    # Symmetric: twice as fast is as far from equal as twice as slow.
    word = "worse" if part > band else "better" if 1 / factor - 1 > band else "same"
    return Change(part, band, word, by)


def _said(found: Change) -> str:
    return f"{found.part:+.0%} ±{found.band:.0%}" + (" of ratio" if found.by == "ratio" else "")


def _short(number: float) -> float:
    """Four digits: no median is known better, and the file stays small."""
    return float(f"{number:.4g}")


def _time(timing: Timing) -> str:
    for unit, seconds in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if timing.median >= seconds:
            return f"{timing.median / seconds:,.3g} {unit}"
    return f"{timing.median / 1e-9:,.3g} ns"
