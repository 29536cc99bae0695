"""`python -m bench.report`: results/REPORT.md and its pictures, from what was measured.

    results/peers.json   bench.peers  \\
    results/rooms.json   make bench    >  REPORT.md, throughput.png, latency.png, cpu.png
    aims.toml, results/notes.toml     /

It can be made again at any time: what people have written is in notes.toml, which this only reads."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import compare
from bench.peers import results
from bench.peers.scenarios import PAYLOAD_BYTES, ROWS, Row
from bench.peers.servers import PEERS, Peer

BENCH = Path(__file__).parent
FAULTS = ("lost", "repeats", "inversions", "unacknowledged", "cut_off")
SMALLER_IS_BETTER = ("server_us", "p50_us", "p99_us")
LIMITED = 0.9  # of a core: from there on the load, not the server, may be what was measured

ROW_NOTES = {
    2: "The load never sleeps here and in 5 to 7, so that a server's send pays for no waking of the other core.",
    3: "JetStream's subscribers are plain NATS subscriptions: messages reach them before they are stored.",
    7: "Latency counts from when a message was due.",
    8: "Redis gives all in one answer to XRANGE, which keeps it from all else meanwhile. JetStream pushes without\n"
    "ACKs. nchan reads back 10,000, as its time grows with their square.",
}

AIMS = """\
## Our aims

Medians, in brackets the lowest and the highest run. Under 15 % is equal: repeats of one build differ as much.

| # | workload | of | first release | aim | measured | | why |
| --- | --- | --- | --- | --- | --- | --- | --- |"""

SIDE_BY_SIDE = f"""\
## Side by side

Every server on one core, the load on another, payloads of {PAYLOAD_BYTES} bytes. *When acknowledged* is what has
happened to a message before its ACK: figures of peers that store nothing, or sync later, are not like for like with
those that say *disk, synced*. Memory is that at the end of a run, with all that has been published in it.
"""

METHOD = """\
## Method, and its limits

    python -m bench.peers        # measures, side by side; --list says what is missing
    make bench                   # the compiled rooms
    python -m bench.report       # writes this page

- Versions: {versions}.
- {where} {rounds} rounds, in each of which every peer takes its turn; each run starts its server anew and lasts for
  2 seconds (row 7: 3) after half a second that is not counted. Figures are medians of the rounds, faults their sums.
- One load generator in C for all (`bench/peers/pump.c`) speaks each peer's own protocol over TCP, with masks of zeros
  where it is WebSocket. Each message carries publisher, number and time; each subscriber's are checked for loss,
  repeats and order.
- *In flight* is a message not yet acknowledged, where the peer does that, or not yet with all its subscribers.
  Latencies of rows 1 to 6 are those at full load, by a closed loop; row 7 keeps a schedule.
- *Server us each* is the time that the server's threads ran, divided by deliveries or ACKs. Loopback runs the receiving
  half of TCP inside the sender's send, so that is in it. It is steadier than rates, which other work on the machine
  disturbs. Time that the kernel's own threads spend on the disk is not in it.
- Configurations are in `bench/peers/config`: persistence as the table says, no logs, one thread or worker where one can
  choose, long queues. Ours is as it comes; row 8 sets the ring, to read from memory or from disk.
- Not compared is what each does beyond this. Ours also remembers each message's id against repeats, and keeps what it
  has stored for readers that come back.
- Shared virtual machines are noisy, and loopback is no network. A difference under 15 %, or within the brackets, says
  nothing.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One aim beside what was measured."""

    text: str
    reached: bool | None  # None: nothing was measured


def judge(aim: dict[str, Any], value: float | None) -> Verdict:
    """Reached, reached within the noise, only what a first release needs, or missed."""
    if value is None:
        return Verdict("not measured", None)
    if _reaches(value, aim["aim"], aim["figure"]):
        return Verdict("reached", True)
    if _reaches(value, aim["aim"], aim["figure"], slack=compare.EQUAL):
        return Verdict(f"within {compare.EQUAL:.0%} of it", True)
    if "first" in aim and _reaches(value, aim["first"], aim["figure"]):
        return Verdict("**missed**; first release: reached", False)
    return Verdict("**missed**", False)


def _reaches(value: float, aim: float, figure: str, *, slack: float = 0.0) -> bool:
    return value <= aim * (1 + slack) if figure in SMALLER_IS_BETTER else value >= aim / (1 + slack)


def report(
    held: dict[str, Any], aims: dict[str, Any], notes: dict[str, Any], rooms: dict[str, Any] | None, *, pictures: bool
) -> str:
    """The whole page, in Markdown."""
    parts = (_head(held, notes), _aims(held, aims, notes), _rows(held, pictures), _rooms(rooms), _method(held))
    return "\n".join(line for part in parts for line in part)


def _head(held: dict[str, Any], notes: dict[str, Any]) -> Iterator[str]:
    facts = held["machine"]
    yield "# Measured\n"
    yield (
        f"{held['measured']}, commit {held['commit']}. {facts['cpu']}, {facts['cores']} cores, {facts['system']}, "
        f"Python {facts['python']}. Made by `python -m bench.report`; not to be edited.\n"
    )
    if notes.get("remark"):
        yield f"{notes['remark']}\n"


def _aims(held: dict[str, Any], aims: dict[str, Any], notes: dict[str, Any]) -> Iterator[str]:
    yield AIMS
    for entry in aims["row"]:
        number = entry["number"]
        reason = str(notes.get("reasons", {}).get(str(number), ""))
        if "elsewhere" in entry:
            needed, found = entry["elsewhere"], notes.get("elsewhere", {}).get(str(number), {})
            cells = [
                entry["title"],
                "Unbroken",
                needed["first"],
                needed["aim"],
                found.get("measured", "not measured"),
                "",
                " ".join((found.get("how", ""), reason)).strip(),
            ]
            yield f"| {number} | {' | '.join(cells)} |"
            continue
        for aim in entry["aims"]:
            value = results.median(held, number, aim["of"], aim["figure"])
            verdict = judge(aim, value)
            why = "" if verdict.reached else (reason or ("no reason is given yet" if verdict.reached is False else ""))
            row = ROWS[number]
            wanted = [_figure(aim["figure"], aim.get(which), named=True) for which in ("first", "aim")]
            cells = [
                row.title,
                PEERS[aim["of"]].title,
                *wanted,
                _with_range(held, number, aim["of"], aim["figure"]),
                verdict.text,
                why,
            ]
            yield f"| {number} | {' | '.join(cells)} |"
    yield ""


def _rows(held: dict[str, Any], pictures: bool) -> Iterator[str]:
    yield SIDE_BY_SIDE
    if pictures:
        for name, said in (("throughput", "Throughput"), ("cpu", "CPU for each message"), ("latency", "Latency")):
            yield f"![{said}]({name}.png)\n"
    for row in ROWS.values():
        yield f"### {row.number}. {row.title[0].upper()}{row.title[1:]}\n"
        if ROW_NOTES.get(row.number):
            yield f"{ROW_NOTES[row.number]}\n"
        yield from _row(held, row)
        yield ""
    for name, reason in held["missing"].items():
        yield f"Left out: {PEERS[name].title}: {reason}.\n"


def _row(held: dict[str, Any], row: Row) -> Iterator[str]:
    replayed, acks = row.number == 8, row.unit == "acks"
    unit = "messages/s" if replayed else "acknowledged/s" if acks else "deliveries/s"
    latencies = [] if replayed else ["ACK p50", "p99", "p99.9"] if acks else ["delivery p50", "p99", "p99.9", "ACK p50"]
    titles = ["", "when acknowledged", unit, "server us each", *latencies, "memory, MiB", "faults"]
    if row.load.rate:
        titles.remove(unit)
    yield f"| {' | '.join(titles)} |"
    yield f"| {' | '.join(['---', '---', *['---:'] * (len(titles) - 3), '---'])} |"
    for name in row.peers:
        if results.median(held, row.number, name, "sent") is None:
            why = next(
                (
                    run["failed"]
                    for run in held["runs"]
                    if (run["row"], run["peer"]) == (row.number, name) and "failed" in run
                ),
                None,
            )
            if why:
                yield f"| {PEERS[name].title} | failed: {why} {'| ' * (len(titles) - 1)}|"
            continue
        figures = ["p50_us", "p99_us", "p999_us", *([] if acks else ["ack_p50_us"])] if not replayed else []
        cells = [
            f"**{PEERS[name].title}**" if PEERS[name].ours else PEERS[name].title,
            _stored(PEERS[name]),
            *([] if row.load.rate else [_with_range(held, row.number, name, "rate")]),
            _figure("server_us", results.median(held, row.number, name, "server_us")),
            *(_figure(figure, results.median(held, row.number, name, figure)) for figure in figures),
            f"{results.median(held, row.number, name, 'rss_mib') or 0:.0f}",
            _faults(held, row.number, name),
        ]
        yield f"| {' | '.join(cells)} |"
    limited = [
        PEERS[name].title
        for name in row.peers
        if not row.load.spin and (results.median(held, row.number, name, "load_share") or 0) >= LIMITED
    ]
    if limited:
        yield f"\nThe load was at its own limit, or near it, with {', '.join(limited)}."


def _stored(peer: Peer) -> str:
    return peer.stores or "no ACK; nothing stored"


def _faults(held: dict[str, Any], row: int, peer: str) -> str:
    found = [(results.total(held, row, peer, (fault,)), fault.replace("_", " ")) for fault in FAULTS]
    return ", ".join(f"{count:,} {fault}" for count, fault in found if count) or "none"


def _rooms(rooms: dict[str, Any] | None) -> Iterator[str]:
    if rooms is None:
        return
    ratios = sorted(room.ratio for room in compare.from_json(rooms["rooms"]) if room.ratio)
    yield "## Compiled rooms against plain Python\n"
    yield (
        f"{len(ratios)} benchmarks by `make bench`, commit {rooms['commit']}: {ratios[0]:.1f} to {ratios[-1]:.0f} "
        f"times as fast, the middle one {ratios[len(ratios) // 2]:.1f} times.\n"
    )
    yield "![Compiled rooms](rooms.png)\n"


def _method(held: dict[str, Any]) -> Iterator[str]:
    cores = held.get("cores")
    yield METHOD.format(
        versions=", ".join(dict.fromkeys(held["versions"].values())),
        where=f"Servers on core {cores['server']}, load on core {cores['load']}." if cores else "All on one core.",
        rounds=max((run["round"] for run in held["runs"]), default=0),
    )


def _figure(figure: str, value: float | None, *, named: bool = False) -> str:
    if value is None:
        return "-"
    if figure == "rate":
        return f"{_count(value)}/s"
    if figure == "server_us":
        return f"{value:.3g}" + (" us of the server each" if named else "")
    return (f"{figure.removesuffix('_us')} " if named else "") + _milliseconds(value)


def _with_range(held: dict[str, Any], row: int, peer: str, figure: str) -> str:
    middle, spread = results.median(held, row, peer, figure), results.spread(held, row, peer, figure)
    if middle is None or spread is None:
        return "-"
    low, high = (_figure(figure, end).removesuffix("/s").removesuffix(" ms") for end in spread)
    return f"{_figure(figure, middle).removesuffix('/s')} ({low} to {high})"


def _count(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value / 1e3:.3g} k" if value >= 1e4 else f"{value:,.0f}"


def _milliseconds(microseconds: float) -> str:
    return f"{microseconds / 1000:.3g} ms" if microseconds < 1e6 else f"{microseconds / 1000:,.0f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.report", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=BENCH / "results", metavar="DIR", help="bench/results")
    directory = parser.parse_args(arguments).results
    try:
        held = results.load(directory / "peers.json")
    except (OSError, ValueError) as reason:
        print(f"no results to report: {reason}; python -m bench.peers measures", file=sys.stderr)
        return 2
    aims = tomllib.loads((BENCH / "aims.toml").read_text())
    notes = tomllib.loads((directory / "notes.toml").read_text()) if (directory / "notes.toml").exists() else {}
    rooms = json.loads((directory / "rooms.json").read_text()) if (directory / "rooms.json").exists() else None
    pictures = True
    try:
        from bench.plots import plot_peers
    except ImportError:
        print("no pictures, as matplotlib is not installed: pip install --editable '.[bench]'", file=sys.stderr)
        pictures = False
    else:
        plot_peers(held, directory)
    (directory / "REPORT.md").write_text(report(held, aims, notes, rooms, pictures=pictures))
    print(f"written: {directory / 'REPORT.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
