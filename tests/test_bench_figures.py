"""What ``unbroken bench`` has found is the same on the terminal, in JSON, in CSV and in the picture."""

from __future__ import annotations

import csv
import json
import time
from types import SimpleNamespace

import pytest

from engine.auth.keys import Key, parse_key
from server.bench import plot
from server.bench.load import Load
from server.bench.options import Options
from server.bench.report import PERCENTILES
from tests.harness import KEY, Server
from tests.test_bench_command import bench


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("bench")) as server:
        yield server


@pytest.fixture
def found(running, tmp_path, capsys, monkeypatch):
    """A run by its options: lines of the terminal, the JSON document, both tables of the CSV, and the curves drawn."""

    def run(*options):
        curves = []
        curve = plot._curve
        monkeypatch.setattr(plot, "_curve", lambda histogram: curves.append(curve(histogram)) or curves[-1])
        paths = [tmp_path / name for name in ("x.json", "x.csv", "x.png")]
        asked = [part for path in paths for part in (f"--{path.suffix[1:]}".replace("png", "plot"), str(path))]
        assert bench(running.port, *options, *asked) == 0
        tables = [list(csv.DictReader(part.splitlines())) for part in paths[1].read_text().split("\n\n")]
        said = capsys.readouterr()
        return said.out.splitlines(), said.err.splitlines(), json.loads(paths[0].read_text()), tables, curves

    return run


def line(lines, beginning):
    return next(each for each in lines if each.strip().startswith(beginning))


def test_percentiles_are_the_same_everywhere(found):
    lines, _, document, (percentiles, _), curves = found("--rate", "500", "--subscribers", "2", "--duration", "0.5")
    rows = (
        ("publish to delivery, ms", "latency_us", "delivery_us"),
        ("publish to ACK, ms", "ack_latency_us", "ack_us"),
    )
    for (said, name, column), (xs, ys) in zip(rows, curves, strict=True):
        values = list(document[name]["percentiles"].values())
        assert [int(row[column]) for row in percentiles] == values
        assert line(lines, said).split()[-len(values) :] == [f"{value / 1000:,.2f}" for value in values]
        count, steps = document[name]["count"], document[name]["steps"]
        assert steps[-1] == [values[-1], count]
        assert [round(y * 1000) for y in ys] == [value for value, _ in steps]
        assert len(xs) == len(steps) and xs == sorted(xs)
        for percent, value in zip(PERCENTILES, values, strict=True):
            assert value == next(step for step, upto in steps if upto >= percent / 100 * count - 1e-6)
    measured = document["ack_latency_us"]["count"]
    assert document["latency_us"]["count"] == 2 * measured
    assert 200 < measured < document["verdict"]["acknowledged"]  # what was due before it began is none of it


def test_rates_are_the_same_everywhere(found):
    lines, _, document, _, _ = found("--rate", "500", "--subscribers", "2", "--duration", "0.5")
    for name in ("acknowledged", "delivered"):
        rate = document["figures"][f"{name}, messages/s"]
        assert float(line(lines, f"{name}, messages/s").split()[-1].replace(",", "")) == pytest.approx(rate, abs=0.5)
        assert 0 < rate * document["seconds"] <= document["verdict"][name]  # some come when the time is over


def test_what_was_not_measured_is_no_zero(found):
    """The first second is of the warm-up, and nobody subscribes: no delivery took 0 us."""
    options = ("--rate", "200", "--subscribers", "0", "--warmup", "1.3", "--duration", "1")
    lines, progress, document, (percentiles, seconds), curves = found(*options)
    assert not any("publish to delivery" in each for each in lines)
    assert document["latency_us"]["count"] == 0
    assert set(document["latency_us"]["percentiles"].values()) == {None} == {document["latency_us"]["mean"]}
    assert {row["delivery_us"] for row in percentiles} == {""} == {row["connecting_us"] for row in percentiles}
    assert document["connecting_us"] is None
    assert all(int(row["ack_us"]) > 0 for row in percentiles)
    first, second = seconds[0], seconds[1]
    assert (first["p50_us"], document["series"][0]["p50"]) == ("", None)
    assert int(second["p50_us"]) == document["series"][1]["p50"] > 0
    assert line(progress, "1.0 s").split()[-5:] == ["delivered/s", "p50", "-", "p99", "-"]
    assert len(curves) == 1


def test_second_without_deliveries_shows_no_latency_of_acks():
    """A server that acknowledges, and delivers nothing for a while, would look like a fast one."""
    options = Options("127.0.0.1", 1, False, Key(*parse_key(KEY)))
    load = Load(options, SimpleNamespace(secure=False))
    try:
        load.tally.ack_latency.record(7)
        load._note_second(time.monotonic())
        load.add_subscriber()
        load.tally.ack_latency.record(7)
        load._note_second(time.monotonic() + 1)
    finally:
        load.close()
    assert [second.p50 for second in load.seconds] == [7, None]
