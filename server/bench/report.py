"""The report of a run: for the terminal, as JSON, as CSV."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import server
from ext.load.histogram import Histogram
from server.bench.load import Load, Second
from server.bench.options import Options
from server.bench.scenarios import Figures
from server.bench.verdict import Verdict

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0)
BUSY = 0.9  # of a core: from here on this side may have been the limit
LATE_MS = 50.0  # publishes that left so much after they were due: the schedule was not kept


def progress(second: Second) -> str:
    return (
        f"{second.at:7.1f} s   {second.published:>9,} published/s   {second.acknowledged:>9,} acknowledged/s   "
        f"{second.delivered:>11,} delivered/s   p50 {_ms(second.p50)}   p99 {_ms(second.p99)}"
    ) + (f"   {second.problems:,} problems" if second.problems else "")


def limits(load: Load, figures: Figures) -> list[str]:
    """Notes about limits of the load tester itself."""
    found = []
    if max(figures.own_cpu, figures.own_demand) >= BUSY:
        waited = max(figures.own_demand - figures.own_cpu, 0.0)
        found.append(
            f"the load tester was the limit, or near it: it used {figures.own_cpu:.0%} of a core"
            + (f", and waited for one during {waited:.0%} of the time" if waited > 0.05 else "")
            + ". Give it a core of its own, or run several"
        )
    if load.scheduled is not None:
        late, held = load.scheduled.late_ns / 1e6, load.scheduled.held_ns / 1e6
        if late > LATE_MS:
            found.append(
                f"the schedule was not kept: publishes left up to {late:,.0f} ms after they were due "
                "(their latency still counts from then)"
            )
        if held > LATE_MS:
            found.append(
                f"publishes waited up to {held:,.0f} ms because their connection was away or blocked "
                "(included in their latency)"
            )
        if load.unsent:
            found.append(f"{load.unsent:,} messages were due and had not left at the end; no percentile includes them")
    if load.options.secure:
        found.append("a separate thread handled TLS; its CPU and hand-over are part of these figures")
    return found


def table(load: Load, figures: Figures, verdict: Verdict) -> str:
    options = load.options
    lines = [f"{options.scenario}: {_setting(options)}", ""]
    if load.interrupted:
        lines.insert(0, "interrupted early; the results cover the time until then")
    lines += [f"  {name:<52}{_number(value):>16}" for name, value in figures.values.items()]
    rows = [("publish to delivery, ms", load.latency), ("publish to ACK, ms", load.ack_latency)]
    if figures.connecting is not None:
        rows.append(("dialling to attached, ms", figures.connecting))
    rows = [(name, histogram) for name, histogram in rows if histogram.count]
    if rows:
        lines += ["", "  " + " " * 26 + "".join(f"{_percent(p):>10}" for p in PERCENTILES)]
        lines += [
            f"  {name:<26}" + "".join(f"{histogram.percentile(p) / 1000:>10,.2f}" for p in PERCENTILES)
            for name, histogram in rows
        ]
    lines += ["", verdict.sentence()]
    lines += [f"  {example}" for example in verdict.examples]
    lines += [f"note: {text}" + (f" ({count} times)" if count > 1 else "") for text, count in load.notes.items()]
    lines += [f"note: {text}" for text in limits(load, figures)]
    return "\n".join(lines)


def document(load: Load, figures: Figures, verdict: Verdict) -> dict[str, Any]:
    """All results, for programs. Times in microseconds; without secrets."""
    options = asdict(load.options)
    options.pop("key")
    return {
        "unbroken": server.VERSION,
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        "interrupted": load.interrupted,
        "seconds": figures.seconds,
        # JSON has no infinity: what never happened has no number.
        "figures": {name: value if math.isfinite(value) else None for name, value in figures.values.items()},
        "own_cpu": figures.own_cpu,
        "own_demand": figures.own_demand,
        "unsent": load.unsent,
        "latency_us": _summary(load.latency),
        "ack_latency_us": _summary(load.ack_latency),
        "connecting_us": _summary(figures.connecting) if figures.connecting is not None else None,
        "verdict": asdict(verdict) | {"correct": verdict.correct, "clean": verdict.clean, "text": verdict.sentence()},
        "notes": load.notes,
        "limits": limits(load, figures),
        "series": [asdict(second) for second in load.seconds],
    }


def write_json(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, load: Load, figures: Figures) -> None:
    """Two tables, one under the other: percentiles, then one row for each second."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["percentile", "delivery_us", "ack_us", "connecting_us"])
        connecting = figures.connecting or Histogram()
        for percent in PERCENTILES:
            rows.writerow([percent, *(_at(h, percent) for h in (load.latency, load.ack_latency, connecting))])
        rows.writerow([])
        rows.writerow(["second", "published", "acknowledged", "delivered", "p50_us", "p99_us", "problems"])
        for second in load.seconds:
            rows.writerow(astuple(second))


def _summary(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "mean": round(histogram.mean, 1) if histogram.count else None,
        "percentiles": {_percent(percent): _at(histogram, percent) for percent in PERCENTILES},
        "steps": histogram.steps(),
    }


def _at(histogram: Histogram, percent: float) -> int | None:
    """None if there are no values. A 0 would look like a very good one."""
    return histogram.percentile(percent) if histogram.count else None


def _setting(options: Options) -> str:
    parts = [f"{options.subscribers} subscribers"]
    if options.publishers:
        parts.insert(0, f"{options.publishers} publishers")
        parts += [f"{options.channels} channels", f"{options.size} bytes", "msgpack" if options.binary else "JSON"]
        ramp = options.ramp
        if ramp is None:
            parts.append(f"{options.window} in flight each")
        elif ramp.seconds:
            parts.append(f"{ramp.begin:g} to {ramp.end:g} messages/s")
        else:
            parts.append(f"{ramp.end:g} messages/s on schedule")
        if options.per_frame > 1:
            parts.append(f"{options.per_frame} messages in each publish")
    return ", ".join(parts)


def _percent(percent: float) -> str:
    return "max" if percent == 100 else f"p{percent:g}"


def _ms(microseconds: int | None) -> str:
    return f"{'-':>8}   " if microseconds is None else f"{microseconds / 1000:8,.2f} ms"


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3f}"
