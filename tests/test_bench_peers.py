"""The comparison with other servers: the load finds every fault that is planted, and says to each peer what it expects.

What the peers answer was recorded from those of bench/peers; those that are installed here are also asked live."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.peers import __main__ as command
from bench.peers import dialects, pump, results, scenarios, servers
from bench.peers.pump import End, Load, Template
from bench.peers.scenarios import ROWS
from bench.peers.servers import PEERS

ANSWERS = json.loads((Path(__file__).parent / "peer_answers.json").read_text())
RECORD = 33  # bytes of a message of the fake server: a mark and a line's end
QUICK = Load(window=4, seconds=0.1, warmup_seconds=0.02, quiet_seconds=0.3)


def raw(text: str) -> bytes:
    return text.encode("latin-1")


# What is said


@pytest.mark.parametrize("name", ANSWERS)
def test_connection_opens_with_bytes_that_the_peer_answered(name):
    """Each step's answer holds what the step waits for: the recorded peer would let us go on."""
    dialect, recorded = PEERS[name].dialect(), ANSWERS[name]
    said = {
        "prepare": dialect.prepare(["room000"]),
        "subscriber": dialect.subscriber("room000"),
        "publisher": dialect.publisher("room000", 3),
    }
    for role, steps in said.items():
        assert [step.send for step in steps] == [raw(sent) for sent, _ in recorded[role]]
        for step, (_, answer) in zip(steps, recorded[role], strict=True):
            assert step.expect in raw(answer)


@pytest.mark.parametrize("name", ANSWERS)
def test_publish_is_acknowledged_once_where_the_peer_acks(name):
    dialect, recorded = PEERS[name].dialect(), ANSWERS[name]
    assert dialect.template("room000", 3, 128).message == raw(recorded["published"])
    if dialect.ack:
        assert raw(recorded["acked"]).count(dialect.ack) == 1
    else:
        assert recorded["acked"] == ""
    assert raw(recorded["delivered"]).count(pump.MARK) == (0 if name == "redis-stream" else 1)


def test_every_dialect_is_recorded_and_every_row_is_complete():
    assert {type(PEERS[name].dialect()) for name in ANSWERS} == {type(peer.dialect()) for peer in PEERS.values()}
    for row in ROWS.values():
        assert any(PEERS[name].ours for name in row.peers)
        assert any(not PEERS[name].ours for name in row.peers)


def test_a_peer_that_acknowledges_says_what_it_has_done_before():
    for peer in PEERS.values():
        assert bool(peer.stores) == bool(peer.dialect().ack)
        assert peer.synced == (peer.stores == "disk, synced")


@given(st.integers(1, 255), st.integers(1, 64))
def test_mqtt_acknowledgements_in_a_row_are_counted_each_once(first, count):
    ids = [1 + (first + n - 1) % 255 for n in range(count)]
    assert b"".join(b"\x40\x02\0" + bytes((n,)) for n in ids).count(dialects.Mqtt(1).ack) == count


@given(st.integers(0, 300_000))
def test_mqtt_lengths_are_as_its_standard_says(length):
    encoded = dialects._mqtt_length(length)
    assert sum((digit & 127) << 7 * n for n, digit in enumerate(encoded)) == length
    assert [digit >> 7 for digit in encoded] == [1] * (len(encoded) - 1) + [0]


def test_a_payload_too_small_for_a_mark_is_refused():
    with pytest.raises(ValueError, match="32 bytes or more, got 31"):
        dialects.payload(31)


# The load, against a server that does what a test wants


Fault = Callable[[int, bytes], list[bytes]]


@contextmanager
def fake(
    fault: Fault,
    *,
    subscribers: int = 2,
    template: Template | None = None,
    answers: bytes = b"+",
    piece: int = 0,
    heard: list[bytes] | None = None,
) -> Iterator[list[End]]:
    """One publisher and some subscribers, who get what ``fault`` makes of each message, ``piece`` bytes at a time."""
    mine, theirs = zip(*(socket.socketpair() for _ in range(subscribers + 1)), strict=True)

    def serve() -> None:
        count, data = 0, b""
        size = len(template.message) if template else RECORD
        try:
            while got := theirs[0].recv(65536):
                data += got
                while len(data) >= size:
                    message, data = data[:size], data[size:]
                    if heard is not None:
                        heard.append(message)
                    outgoing = b"".join(fault(count, message))
                    count += 1
                    for client, content in [(theirs[0], answers), *((sub, outgoing) for sub in theirs[1:])]:
                        step = piece or len(content) or 1
                        for at in range(0, len(content), step):
                            client.sendall(content[at : at + step])
        except OSError:
            pass  # the test is over
        for end in theirs:
            end.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        publisher = End(mine[0], 0, template or Template(pump.MARK + b"\n"))
        yield [*(End(subscriber, 0) for subscriber in mine[1:]), publisher]
    finally:
        for end in mine:
            end.close()
        thread.join()


def faithful(_: int, message: bytes) -> list[bytes]:
    return [message]


def faults(outcome: pump.Outcome) -> tuple[int, int, int]:
    return outcome.lost, outcome.repeats, outcome.inversions


def test_faithful_server_passes_and_the_load_is_closed():
    with fake(faithful) as ends:
        outcome = pump.run(ends, QUICK, ack=b"+")
    assert faults(outcome) == (0, 0, 0)
    assert outcome.acked == outcome.sent > 4
    assert outcome.delivered == outcome.expected == 2 * outcome.sent
    assert not outcome.stalled
    assert sum(outcome.ack_latency) > 0
    assert sum(outcome.latency) >= outcome.span_delivered - 2 * 4


@pytest.mark.parametrize("piece", [1, 7, 31, 32, 40])
def test_marks_are_found_however_they_are_cut(piece):
    with fake(faithful, subscribers=1, piece=piece) as ends:
        outcome = pump.run(ends, replace(QUICK, count=200, window=64), ack=b"+")
    assert (outcome.delivered, faults(outcome)) == (200, (0, 0, 0))


def test_missing_message_counts_as_lost_and_stops_the_window():
    with fake(lambda n, message: [] if n == 5 else [message]) as ends:
        outcome = pump.run(ends, QUICK, ack=b"+")
    assert faults(outcome) == (2, 0, 0)
    assert outcome.stalled
    assert outcome.sent == 5 + 4


def test_lost_at_the_very_end_is_lost_too():
    with fake(lambda n, message: [message] if n < 30 else []) as ends:
        outcome = pump.run(ends, replace(QUICK, window=8), ack=b"+")
    assert faults(outcome) == (2 * 8, 0, 0)


def test_a_repeat_is_found_and_opens_no_window():
    with fake(lambda n, message: [message, message] if n % 10 == 3 else [message]) as ends:
        outcome = pump.run(ends, replace(QUICK, count=100), ack=b"+")
    assert faults(outcome) == (0, 2 * 10, 0)
    assert outcome.delivered == 200


def test_two_that_changed_places_are_an_inversion_and_no_loss():
    held: list[bytes] = []

    def swap(n: int, message: bytes) -> list[bytes]:
        if n == 4:
            held.append(message)
            return []
        return [message, held.pop()] if held else [message]

    with fake(swap) as ends:
        outcome = pump.run(ends, replace(QUICK, count=50), ack=b"+")
    assert faults(outcome) == (0, 0, 2)
    assert not outcome.stalled


def test_a_server_that_never_acknowledges_stops_the_window():
    with fake(faithful, answers=b"") as ends:
        outcome = pump.run(ends, QUICK, ack=b"+")
    assert (outcome.sent, outcome.acked, outcome.stalled) == (4, 0, True)


def test_without_acknowledgements_deliveries_move_the_window():
    with fake(faithful, answers=b"") as ends:
        outcome = pump.run(ends, QUICK, ack=b"")
    assert outcome.sent > 4
    assert not outcome.stalled


def test_a_connection_that_is_cut_off_ends_the_run_and_is_said():
    def leave(n: int, message: bytes) -> list[bytes]:
        if n == 10:
            raise OSError
        return [message]

    with fake(leave) as ends:
        outcome = pump.run(ends, QUICK, ack=b"+")
    assert outcome.closed >= 1
    assert outcome.stalled


def test_late_messages_carry_the_time_when_they_were_due():
    heard: list[bytes] = []
    with fake(faithful, heard=heard) as ends:
        outcome = pump.run(ends, Load(rate=3000, seconds=0.1, warmup_seconds=0, quiet_seconds=5), ack=b"+")
    due = [int(message[16:32], 16) for message in heard]
    assert len(due) == outcome.acked == outcome.sent > 2
    assert [at - due[0] for at in due] == [int(n * 1e9 / 3000) for n in range(len(due))]
    assert not outcome.stalled


def test_a_schedule_that_cannot_be_kept_is_said():
    """A million messages a millisecond."""
    with fake(faithful, subscribers=1) as ends:
        outcome = pump.run(ends, Load(rate=1e9, seconds=0.03, warmup_seconds=0, quiet_seconds=5), ack=b"+")
    assert faults(outcome) == (0, 0, 0)
    assert outcome.late_ms > 0


def test_decimal_and_byte_counters_number_the_publishes():
    heard: list[bytes] = []
    with fake(faithful, heard=heard, template=Template(b"<   0>" + pump.MARK, "decimal", 1, 4)) as ends:
        pump.run(ends, replace(QUICK, count=120), ack=b"+")
    assert [int(message[1:5]) for message in heard] == list(range(120))
    heard.clear()
    with fake(faithful, heard=heard, template=Template(b"-" + pump.MARK, "byte", 0)) as ends:
        pump.run(ends, replace(QUICK, count=300), ack=b"+")
    assert [message[0] for message in heard] == [1 + n % 255 for n in range(300)]


def test_marks_of_another_channel_or_another_run_are_nobodys():
    stray = b"~un~0001" + bytes(24).replace(b"\0", b"0")  # there is no publisher 1
    with fake(lambda n, message: [message, stray]) as ends:
        outcome = pump.run(ends[::-1], replace(QUICK, count=20), ack=b"+")
    assert (outcome.delivered, faults(outcome)) == (40, (0, 0, 0))
    with fake(faithful) as ends:
        elsewhere = End(ends[1].socket, 1)
        outcome = pump.run([ends[0], elsewhere, ends[2]], replace(QUICK, count=20), ack=b"+")
    assert (outcome.delivered, outcome.expected) == (20, 20)


def test_acknowledgements_are_counted_however_they_are_cut():
    with fake(faithful, subscribers=0, answers=b"<ack>", piece=3) as ends:
        outcome = pump.run(ends, replace(QUICK, count=200), ack=b"ack")
    assert (outcome.acked, outcome.stalled) == (200, False)


def test_peer_that_leaves_before_the_measurement_fails_the_run(monkeypatch):
    """And no division by the span that was not."""

    def gone(ends, load, *, ack, pids):
        ends[0].socket.shutdown(socket.SHUT_RDWR)
        return pump_run(ends, replace(load, warmup_seconds=0.05, quiet_seconds=0.2), ack=ack)

    pump_run = pump.run
    monkeypatch.setattr(pump, "run", gone)
    peer = PEERS["unbroken-memory"]
    row = scenarios.Row(0, "small", (peer.name,), QUICK, 1, 1)
    with pytest.raises(scenarios.Refused, match="over before it was measured: 1 connections cut off"):
        scenarios.measure(row, peer, servers.find(peer, {})[0], core=None)


@pytest.mark.parametrize(
    ("replayed", "expected"),
    [
        ([0, 1, 2, 3, 4], (5, 0, 0)),
        ([0, 1, 3, 4], (4, 0, 0)),
        ([0, 1, 1, 3, 4], (4, 1, 0)),  # a repeat does not make up for what was lost
        ([0, 2, 1, 3, 4], (5, 0, 1)),
        ([0, 2, 3, 1, 2, 4], (5, 1, 1)),
        ([0, 1, 2, 9, 3, 4], (5, 0, 0)),  # nobody had stored it
    ],
)
def test_replay_losses_repeats_and_inversions_are_distinguished(replayed, expected):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for number in replayed:
            theirs.sendall(b"{~un~0000%08x%016x...}" % (number, 0))
        theirs.shutdown(socket.SHUT_WR)
        found = pump.replay(ours, b"all, please", 5)
    assert (found.got, found.repeats, found.inversions) == expected


@given(st.integers(0, (1 << 62) - 1))
def test_a_latency_is_told_to_1_6_percent_and_never_too_low(nanoseconds):
    buckets = [0] * pump.BUCKETS
    buckets[pump.bucket(nanoseconds)] = 1
    told = pump.percentile(buckets, 0.5) * 1000
    assert nanoseconds * (1 - 1e-9) - 1 <= told <= nanoseconds * (1 + 1 / 63) + 1


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=50), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_percentiles_are_those_of_the_sorted_list(values, part):
    buckets = [0] * pump.BUCKETS
    for value in values:
        buckets[pump.bucket(value)] += 1
    rank = max(1, -(-len(values) * round(part * 100) // 100))
    exact = sorted(values)[rank - 1]
    assert exact - 1 <= pump.percentile(buckets, part) * 1000 <= exact * (1 + 1 / 63) + 1


def test_a_load_without_window_and_rate_is_refused():
    with fake(faithful) as ends, pytest.raises(ValueError, match="a window of 1 to 4,096"):
        pump.run(ends, Load(), ack=b"")


# The peers that are here, live; ours always is


def installed() -> list[str]:
    found = []
    for name, peer in PEERS.items():
        try:
            servers.find(peer, {})
        except servers.Missing:
            continue
        found.append(name)
    return found


@pytest.mark.parametrize("name", [name for name in installed() if name not in ("unbroken-ring", "unbroken-journal")])
def test_installed_peer_accepts_and_delivers_its_dialect(name):
    """In small: two pairs where it delivers, then nothing lost, repeated or swapped, and memory and CPU are seen."""
    peer = PEERS[name]
    load = Load(window=4, seconds=0.15, warmup_seconds=0.05)
    row = scenarios.Row(0, "small", (name,), load, 2, 0 if name == "redis-stream" else 2, 2)
    figures = scenarios.measure(row, peer, servers.find(peer, {})[0], core=None)
    assert figures["sent"] > 8
    assert [figures[fault] for fault in ("lost", "repeats", "inversions", "unacknowledged", "cut_off")] == [0] * 5
    assert figures["rss_mib"] > 1
    assert figures["server_share"] > 0


@pytest.mark.parametrize("name", [name for name in ROWS[8].peers if name in installed()])
def test_installed_peer_replays_stored_messages_in_order(name):
    peer = replace(PEERS[name], replayed=2000)
    figures = scenarios.measure(ROWS[8], peer, servers.find(peer, {})[0], core=None)
    assert (figures["lost"], figures["inversions"]) == (0, 0)
    assert figures["rate"] > 0


# The command


def test_missing_peer_is_named_with_its_package_and_skipped(capsys):
    assert command.main(["--list", "--peers", "nats", "--program", "nats-server=/nowhere"]) == 0
    said = capsys.readouterr()
    assert "left out: NATS: there is no nats-server: apt install nats-server" in said.err


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The command with a measurement of its own, and what it was asked for."""
    asked: list[tuple[int, str]] = []

    def measure(row, peer, path, *, core):
        asked.append((row.number, peer.name))
        if len(asked) == 3:
            raise scenarios.Refused("no answer")
        return {
            "rate": 1000.0 * len(asked),
            "server_us": 1.23456,
            "lost": 0,
            "repeats": 0,
            "inversions": 0,
            "unacknowledged": 0,
            "cut_off": 0,
        }

    monkeypatch.setattr(scenarios, "measure", measure)
    monkeypatch.setattr(servers, "find", lambda peer, programs: ("/there", f"{peer.name} 1.0"))
    monkeypatch.setattr(command.os, "sched_setaffinity", lambda *_: None)
    return asked, ["--rows", "4,6", "--peers", "unbroken,unbroken-memory", "--results", str(tmp_path / "peers.json")]


def test_rounds_alternate_and_a_second_call_repeats_failures(measured):
    asked, arguments = measured
    assert command.main([*arguments, "--rounds", "2"]) == 1
    once = [(4, "unbroken"), (4, "unbroken-memory"), (6, "unbroken"), (6, "unbroken-memory")]
    assert asked == once * 2
    asked.clear()
    assert command.main([*arguments, "--rounds", "2"]) == 0
    assert asked == [(6, "unbroken")]
    held = results.load(Path(arguments[-1]))
    assert len(held["runs"]) == 8
    assert results.median(held, 4, "unbroken", "rate") == 3000.0
    assert results.spread(held, 4, "unbroken", "rate") == (1000.0, 5000.0)
    assert held["runs"][0]["server_us"] == 1.235
    assert held["versions"] == {"unbroken": "unbroken 1.0", "unbroken-memory": "unbroken-memory 1.0"}


def test_again_takes_the_place_of_what_was_there(measured):
    asked, arguments = measured
    command.main([*arguments, "--rounds", "1"])
    asked.clear()
    command.main([*arguments, "--rounds", "1", "--again"])
    assert len(asked) == 4
    assert len(results.load(Path(arguments[-1]))["runs"]) == 4


def test_results_of_another_commit_are_not_mixed_with_new_ones(measured, monkeypatch, capsys):
    asked, arguments = measured
    command.main([*arguments, "--rounds", "1"])
    asked.clear()
    monkeypatch.setattr("bench.machine.commit", lambda: "another")
    assert command.main(arguments) == 2
    assert asked == []
    assert "--fresh begins anew" in capsys.readouterr().err
    assert command.main([*arguments, "--rounds", "1", "--fresh"]) == 1
    assert results.load(Path(arguments[-1]))["commit"] == "another"


def test_results_that_can_not_be_written_are_told_and_end_it(measured, capsys):
    asked, arguments = measured
    assert command.main([*arguments, "--results", "/proc/none/peers.json"]) == 2
    assert "results can't be written" in capsys.readouterr().err
    assert asked == []


def test_faults_of_all_rounds_are_added_up():
    held = {"runs": [{"row": 1, "peer": "nats", "round": n, "lost": n} for n in (1, 2, 3)]}
    assert results.total(held, 1, "nats", ("lost", "repeats")) == 6
    assert results.median(held, 1, "nats", "rate") is None
