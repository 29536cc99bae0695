"""The report: each aim is judged as it was measured, and what people have written stays."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import report
from bench.peers import results
from bench.peers.scenarios import ROWS
from bench.peers.servers import PEERS

AIMS = tomllib.loads((report.BENCH / "aims.toml").read_text())
REACHED = {1: 5e6, 2: 3e5, 3: 5e5, 4: 4e5, 5: 7e4, 8: 2e6}


def run(row: int, peer: str, number: int = 1, **figures: Any) -> dict[str, Any]:
    """One in which every aim is reached, but for what is given."""
    return {
        "row": row,
        "peer": peer,
        "round": number,
        "rate": REACHED.get(row, 1e4),
        "server_us": 0.15,
        "p50_us": 300.0,
        "p99_us": 900.0,
        "p999_us": 1100.0,
        "ack_p50_us": 250.0,
        "rss_mib": 50.0,
        "sent": 1000,
        "lost": 0,
        "repeats": 0,
        "inversions": 0,
        "unacknowledged": 0,
        "cut_off": 0,
        "load_share": 0.4,
    } | figures


def measured(*runs: dict[str, Any]) -> dict[str, Any]:
    """What is given, and a run of all else."""
    given = {(found["row"], found["peer"]) for found in runs}
    rest = [run(row.number, name) for row in ROWS.values() for name in row.peers if (row.number, name) not in given]
    return results.fresh() | {"versions": {"nats": "nats-server 2.10"}, "runs": [*runs, *rest]}


def page(held: dict[str, Any], notes: dict[str, Any] | None = None) -> str:
    return report.report(held, AIMS, notes or {}, None, pictures=False)


def line(text: str, *words: str) -> str:
    (found,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (300_001, "reached"),
        (299_999, "within 15% of it"),
        (250_000, "**missed**; first release: reached"),
        (79_000, "**missed**"),
        (None, "not measured"),
    ],
)
def test_more_is_better_for_rates(value, text):
    assert report.judge({"figure": "rate", "first": 80_000, "aim": 300_000}, value).text == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(440, "reached"), (500, "within 15% of it"), (800, "**missed**; first release: reached"), (901, "**missed**")],
)
def test_less_is_better_for_latencies(value, text):
    assert report.judge({"figure": "p50_us", "first": 900, "aim": 450}, value).text == text


def test_every_aim_names_a_row_and_a_peer_of_it():
    for entry in AIMS["row"]:
        for aim in entry.get("aims", ()):
            assert aim["of"] in ROWS[entry["number"]].peers
            assert PEERS[aim["of"]].ours
    assert sorted(entry["number"] for entry in AIMS["row"]) == list(range(1, 12))


def test_aims_all_reached_ask_for_no_reason():
    text = page(measured())
    assert "missed" not in text
    assert "no reason" not in text


def test_missed_aim_shows_its_reason_or_asks_for_one():
    held = measured(run(5, "unbroken", rate=30_000.0), run(4, "unbroken", rate=1000.0))
    text = page(held, {"reasons": {"5": "the interpreter"}})
    assert line(text, "| 5 |", "missed").endswith("first release: reached | the interpreter |")
    assert line(text, "| 4 |", "missed").endswith("| **missed** | no reason is given yet |")


def test_a_remark_stands_before_the_figures():
    before, _, _ = page(measured(), {"remark": "on a busy machine"}).partition("## Our aims")
    assert "on a busy machine" in before


def test_medians_stand_with_their_range():
    held = measured(*(run(4, "unbroken", n, rate=rate) for n, rate in enumerate((310e3, 500e3, 290e3), 1)))
    assert "310 k (290 k to 500 k)" in line(page(held), "| 4 |", "300 k/s")


def test_each_peer_says_what_it_has_done_before_it_acknowledges():
    text = page(measured())
    assert "| **Unbroken** | disk, synced |" in text
    assert "| NATS | no ACK; nothing stored |" in text
    assert "| JetStream | disk, synced within 2 min |" in text


def test_faults_of_any_round_and_a_limiting_load_are_shown():
    lossy = [run(1, "nchan", 1, lost=3), run(1, "nchan", 2), run(1, "nchan", 3, lost=1, cut_off=2)]
    held = measured(*lossy, run(1, "redis", load_share=1.0))
    text = page(held)
    assert "4 lost, 2 cut off" in line(text, "nchan", "lost")
    assert "The load was at its own limit, or near it, with Redis pub/sub." in text


def test_what_could_not_be_measured_is_said_and_not_left_out():
    failed = {"row": 6, "peer": "socketio", "round": 1, "failed": "no answer"}
    held = measured(failed) | {"missing": {"nats": "there is no nats-server: apt install nats-server"}}
    text = page(held)
    assert "Left out: NATS: there is no nats-server: apt install nats-server." in text
    assert "| Socket.IO | failed: no answer |" in text


def test_results_of_nothing_are_a_page_too():
    text = page(results.fresh())
    assert text.count("not measured") >= 13


@given(st.floats(0.01, 1e9))
def test_figures_are_told_to_three_digits(value):
    for figure in ("rate", "server_us", "p99_us"):
        told = report._figure(figure, value)
        unit = {"M/s": 1e6, "k/s": 1e3, "ms": 1e3}.get(told.rpartition(" ")[2], 1.0)
        number = float(told.split()[0].removesuffix("/s").replace(",", "")) * unit
        assert number == pytest.approx(value, rel=0.006, abs=0.51)


def test_command_writes_page_and_pictures_but_no_notes(tmp_path, capsys):
    notes = '# by hand\n[reasons]\n4 = "a slow disk"\n'
    (tmp_path / "notes.toml").write_text(notes)
    results.save(tmp_path / "peers.json", measured(run(4, "unbroken", rate=1000.0)))
    assert report.main(["--results", str(tmp_path)]) == 0
    assert "a slow disk" in (tmp_path / "REPORT.md").read_text()
    assert (tmp_path / "notes.toml").read_text() == notes
    for name in ("throughput", "cpu", "latency"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_without_results_the_command_says_what_makes_them(tmp_path, capsys):
    assert report.main(["--results", str(tmp_path)]) == 2
    (tmp_path / "peers.json").write_text(json.dumps({"format": 99}))
    assert report.main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("python -m bench.peers measures") == 2
