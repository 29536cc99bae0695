"""The file of results: one line for each run, written after each, so that nothing is measured twice.

{"format": 1, "commit", "machine", "versions": {peer: ...}, "missing": {peer: why},
 "runs": [{row, peer, round, rate, server_us, p50_us, ..., lost, repeats, inversions}]}
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine

FORMAT = 1


class Other(Exception):
    """The results in the file are of another machine or commit, and are not to be mixed with new ones."""


def fresh() -> dict[str, Any]:
    return {
        "format": FORMAT,
        "measured": datetime.now(UTC).date().isoformat(),
        "commit": machine.commit(),
        "machine": machine.facts(),
        "versions": {},
        "missing": {},
        "runs": [],
    }


def load(path: Path) -> dict[str, Any]:
    """What is there. Raises: OSError; ValueError, if it is no file of results."""
    held: dict[str, Any] = json.loads(path.read_text())
    if held.get("format") != FORMAT:
        raise ValueError(f"{path} is no file of results in format {FORMAT}")
    return held


def continued(path: Path) -> dict[str, Any]:
    """The results to go on with, or new ones if there is no file. Raises: Other, ValueError."""
    if not path.exists():
        return fresh()
    held = load(path)
    for what, now in (("commit", machine.commit()), ("machine", machine.facts())):
        if held[what] != now:
            raise Other(
                f"{path.name} has results of another {what} ({held[what]}, now {now}): "
                "--fresh begins anew, --results FILE takes another file"
            )
    return held


def save(path: Path, held: dict[str, Any]) -> None:
    """Whole or not at all: a run that is cut off leaves the file of the run before."""
    head = {key: value for key, value in held.items() if key != "runs"}
    lines = ",\n".join("    " + json.dumps(run) for run in held["runs"])
    runs = f"[\n{lines}\n  ]" if lines else "[]"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(head, indent=2)[:-2] + f',\n  "runs": {runs}\n}}\n')
    part.replace(path)


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Four digits: no figure is known better."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in figures.items()}


def is_done(held: dict[str, Any], row: int, peer: str, number: int) -> bool:
    """A run that failed is to be made again."""
    return any("failed" not in run for run in _runs(held, row, peer) if run["round"] == number)


def put(held: dict[str, Any], run: dict[str, Any]) -> None:
    """In the order of row, peer, round; it takes the place of an earlier one."""
    key = (run["row"], run["peer"], run["round"])
    kept = [old for old in held["runs"] if (old["row"], old["peer"], old["round"]) != key]
    held["runs"] = sorted([*kept, run], key=lambda run: (run["row"], run["peer"], run["round"]))


def median(held: dict[str, Any], row: int, peer: str, figure: str) -> float | None:
    """Of the runs that have it; None if none has."""
    found = _values(held, row, peer, figure)
    return statistics.median(found) if found else None


def spread(held: dict[str, Any], row: int, peer: str, figure: str) -> tuple[float, float] | None:
    """The lowest and the highest of the runs."""
    found = _values(held, row, peer, figure)
    return (min(found), max(found)) if found else None


def total(held: dict[str, Any], row: int, peer: str, figures: Iterable[str]) -> int:
    """Faults are added up: one of three runs that loses a message has lost it."""
    names = tuple(figures)
    return sum(run.get(name) or 0 for run in _runs(held, row, peer) for name in names)


def _runs(held: dict[str, Any], row: int, peer: str) -> list[dict[str, Any]]:
    return [run for run in held["runs"] if (run["row"], run["peer"]) == (row, peer)]


def _values(held: dict[str, Any], row: int, peer: str, figure: str) -> list[float]:
    return [run[figure] for run in _runs(held, row, peer) if run.get(figure) is not None]
