"""Hundreds of clients lose the server at once and come back to its next life: everybody gets everything, once."""

from __future__ import annotations

import pytest

from bench.storm import PROBE_SECONDS, Found, _probe, report, storm, summary

CLIENTS = 500


def test_kill_9_brings_all_clients_back_with_each_message_once(make_server):
    """Connections are resumed and cursors hold: some messages were lost with the sockets, some published meanwhile."""
    server = make_server()
    said = []
    found = storm(
        server,
        clients=CLIENTS,
        channels=10,
        missed=10,
        at_once=200,
        say=said.append,
        quiet_seconds=0.1,
        return_seconds=20,
    )
    assert found.verdict.clean, found.verdict.sentence()
    assert found.notes == {}, "no resume has failed, and no cursor was too old"
    assert found.verdict.delivered == CLIENTS * 20
    assert found.verdict.acknowledged == 10 * 20
    assert found.good
    assert found.connected_seconds > 0
    assert {what.split(",")[0] for what in found.others} >= {"GET /time", "publish to delivery"}
    assert said[0].startswith("500 clients attached to 10 channels")
    assert "correct: every acknowledged message" in report(found)


def test_what_was_missed_or_had_to_begin_anew_is_no_good_storm():
    found = Found(clients=1, missed=1)
    assert found.good
    found.notes["attached, but ATTACHED 90003 no longer held"] = 1
    assert not found.good
    found.notes.clear()
    found.verdict.lost = 1
    assert not found.good


class Over:
    """So many probes, then it is over."""

    def __init__(self, probes):
        self._left = probes

    def is_set(self):
        self._left -= 1
        return self._left < 0


def test_long_probe_stands_for_all_that_were_due_meanwhile(monkeypatch):
    clock = iter([0.0, 5 * PROBE_SECONDS + 0.001, 5 * PROBE_SECONDS + 0.001])
    monkeypatch.setattr("bench.storm.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("bench.storm.time.sleep", lambda seconds: None)
    samples: list[tuple[float, float]] = []
    _probe(lambda: None, samples, Over(1))
    assert [round(delay) for _, delay in samples] == [101, 81, 61, 41, 21, 1]


def test_delays_are_summed_up_for_the_time_in_question():
    samples = [(float(n), float(n % 100)) for n in range(300)]
    assert summary(samples, 100, 199) == (50, 99, 99)
    with pytest.raises(ValueError, match="nothing was due"):
        summary(samples, 1000, 1001)
