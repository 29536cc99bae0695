"""``unbroken bench``: how it ends early, over TLS, at its own limits, and after connections were cut."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading

import pytest
import trustme

from server.bench import load as bench_load
from server.bench import plot, report, scenarios
from server.bench.load import Load
from server.bench.target import Target
from tests.faulty_server import FaultyServer
from tests.harness import KEY, Server
from tests.peer import Peer, upgrade
from tests.test_bench_command import SHORT, bench


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("bench")) as server:
        yield server


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C as soon as ``when(load)`` is true; and then in each of so many further turns of the loop."""

    def arrange(when, *, more=0):
        turn, left = Load.turn, [1 + more]

        def interrupted(load, wait_us=0):
            turn(load, wait_us)
            if left[0] and (left[0] <= more or when(load)):
                left[0] -= 1
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Load, "turn", interrupted)

    # A shell that starts the tests in the background has SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield arrange
    signal.signal(signal.SIGINT, before)


def sitting(load):
    """All are attached, and some turns of the loop have gone by since."""
    load.turns_of_sitting = getattr(load, "turns_of_sitting", 0) + (load._ready == load.options.subscribers)
    return load.turns_of_sitting > 2


LONG = ("--duration", "60", "--quiet")


@pytest.mark.parametrize(
    ("options", "when"),
    [
        (("--rate", "200"), lambda load: load.tally.delivered > 20),
        (("--window", "4"), lambda load: load.tally.delivered > 20),
        (("--scenario", "reconnect", "--rate", "200"), lambda load: load.tally.delivered > 20),
        (("--scenario", "replay", "--count", "10000"), lambda load: load.tally.delivered > 0),
        (("--scenario", "storm", "--subscribers", "300"), lambda load: load._ready > 20),
        (("--scenario", "idle", "--server-pid"), sitting),
    ],
    ids=["rate", "window", "reconnect", "replay", "storm", "idle"],
)
def test_ctrl_c_ends_it_with_a_report_that_says_so(running, options, when, interrupt, capsys):
    if options[-1] == "--server-pid":
        options = (*options, str(running.pid))
    interrupt(when)
    duration = ("--quiet",) if "storm" in options or "replay" in options else LONG
    assert bench(running.port, *options, *duration) == 0
    said = capsys.readouterr()
    assert said.out.startswith("interrupted early")
    published = "storm" not in options and "idle" not in options
    assert ("correct: every acknowledged message" if published else "correct: no connection failed") in said.out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_early_or_double_ctrl_c_gives_no_verdict(running, interrupt, capsys):
    interrupt(lambda load: True)
    assert bench(running.port, *LONG) == 1
    assert "before anything was measured" in capsys.readouterr().err
    interrupt(lambda load: load.tally.delivered > 20, more=1)
    assert bench(running.port, "--rate", "200", *LONG) == 1
    said = capsys.readouterr()
    assert "no verdict" in said.err
    assert "correct" not in said.out.lower()


def test_ctrl_c_before_the_run_and_behind_it_is_told_in_a_line(running, monkeypatch, capsys, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Target, "_find", interrupted)
        assert bench(running.port) == 1
    with monkeypatch.context() as patched:
        patched.setattr(report, "write_json", interrupted)
        assert bench(running.port, "--rate", "100", "--json", str(tmp_path / "x.json"), *SHORT) == 1
    assert capsys.readouterr().err.count("interrupted\n") == 2


def test_unwritable_file_is_told_and_the_rest_is_written(running, capsys, tmp_path):
    """Who asks for a file in vain learns it, and has the other figures all the same."""
    written = tmp_path / "x.csv"
    options = ("--rate", "200", "--json", "/dev/full", "--csv", str(written), *SHORT)
    assert bench(running.port, *options) == 2
    said = capsys.readouterr()
    assert "/dev/full could not be written: No space left on device" in said.err
    assert "correct: every acknowledged message" in said.out
    assert written.read_text().startswith("percentile,")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_written_is_told_before_the_run(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert bench(1, "--json", str(tmp_path / "x.json")) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("reads", [True, False], ids=["full", "gone"])
def test_a_report_that_nobody_can_read_is_told(running, reads):
    command = [sys.executable, "-m", "server.cli", "bench", "--url", f"ws://127.0.0.1:{running.port}", "--key", KEY]
    command += ["--rate", "100", "--warmup", "0", "--quiet", *SHORT]
    if reads:
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    try:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(out)
    assert done.returncode == 2
    reason = "No space left on device" if reads else "Broken pipe"
    assert done.stderr == f"unbroken bench: the report could not be printed: {reason}\n"


def test_over_tls_it_measures_the_same_and_says_what_that_costs(tmp_path, capsys, monkeypatch):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pem = ["--tls-cert", str(tmp_path / "both.pem"), "--tls-key", str(tmp_path / "key.pem")]
    with Server(tmp_path, arguments=pem) as server:
        options = ("--url", f"wss://127.0.0.1:{server.port}", "--subscribers", "3", "--publishers", "2", *SHORT)
        assert bench(server.port, *options) == 3
        assert "not trusted" in capsys.readouterr().err
        assert bench(server.port, *options, "--insecure") == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert bench(server.port, *options, "--format", "msgpack") == 0
    said = capsys.readouterr().out
    assert said.count("correct: every acknowledged message") == 2
    assert "a separate thread handled TLS" in said


def test_publish_above_the_server_limit_is_wrong_usage(capsys):
    with FaultyServer("small") as server:
        assert bench(server.port, "--size", "96") == 2
        assert "at most 100 bytes (maxMessageSize), but these have 101" in capsys.readouterr().err
        assert bench(server.port, "--size", "95", *SHORT) == 0


def test_fields_of_the_wrong_type_are_named_as_what_they_are(capsys):
    with FaultyServer("senseless") as server:
        assert bench(server.port) == 3
    assert "other than a protocol message" in capsys.readouterr().err


def test_faulty_server_survives_resets_during_its_greeting():
    """As the load tester does with one of many connections that are told nonsense."""
    with FaultyServer("senseless") as server:
        for _ in range(50):
            peer = Peer(("127.0.0.1", server.port))
            peer.send(upgrade())
            peer.read()  # of the answer; the greeting is still to come, or on its way
            peer.reset()


@pytest.mark.parametrize(
    ("fault", "named"),
    [("forgetful", "a connection was not resumed"), ("publishes-again", "delivered twice")],
)
def test_a_server_that_fails_those_who_come_back_is_found(fault, named, capsys, monkeypatch):
    monkeypatch.setattr(bench_load, "STUCK_SECONDS", 0.3)
    with FaultyServer(fault) as server:
        options = ("--scenario", "reconnect", "--rate", "200", "--subscribers", "3", "--duration", "0.6")
        assert bench(server.port, *options) == 1
    assert named in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--rate", "100"), ("--scenario", "idle")], ids=["throughput", "idle"])
def test_process_that_ends_midway_has_no_figures_but_a_reason(running, options, capsys):
    """As when the server dies: what it has used can't be asked for any more."""
    watched = subprocess.Popen(["sleep", "1.5"])
    waiting = threading.Thread(target=watched.wait)  # else it would stay in the list of processes
    waiting.start()
    duration = ("--duration", "2", "--quiet")
    assert bench(running.port, *options, "--server-pid", str(watched.pid), *duration) == 0
    waiting.join()
    said = capsys.readouterr().out
    assert "CPU" not in said.partition("correct:")[0] and "memory" not in said.partition("correct:")[0]
    assert f"note: process {watched.pid} has ended: nothing is known of what it used" in said


def test_who_never_comes_back_is_no_success(tmp_path, capsys, monkeypatch):
    """Neither connected nor refused: what they have missed is not known, and no verdict may leave them out."""
    monkeypatch.setattr(bench_load, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(scenarios, "CATCH_UP_SECONDS", 0.3)
    found = tmp_path / "found.json"
    with FaultyServer("mute") as server:
        options = ("--scenario", "reconnect", "--rate", "200", "--subscribers", "3", "--duration", "0.6")
        assert bench(server.port, *options, "--json", str(found)) == 1
    assert "4 connections not made" in capsys.readouterr().out

    def no_json(text):
        raise AssertionError(f"{text} is no JSON")

    document = json.loads(found.read_text(), parse_constant=no_json)
    assert document["figures"]["until all had caught up with what they missed, s"] is None


def test_a_run_that_is_ended_says_of_whom_it_knows_nothing(capsys, interrupt):
    interrupt(lambda load: len([c for c in load.subscribers if not c.ready]) == 3 and load.tally.delivered > 0)
    with FaultyServer("mute") as server:
        bench(server.port, "--scenario", "reconnect", "--rate", "200", "--subscribers", "3", "--duration", "0.6")
    assert "4 connections were still being opened; it is unknown what they missed" in capsys.readouterr().out


def test_answers_owed_at_the_end_count_in_the_percentiles(tmp_path, monkeypatch):
    """It stalls until after the end: so all but four messages are late, and a median that is small would be a lie."""
    settle, found = Load.settle, tmp_path / "found.json"
    with FaultyServer("stall") as server:

        def late(load):
            server.release()
            settle(load)

        monkeypatch.setattr(Load, "settle", late)
        assert bench(server.port, "--rate", "100", "--duration", "0.5", "--json", str(found)) == 0
    document = json.loads(found.read_text())
    assert document["latency_us"]["count"] >= 400
    assert document["latency_us"]["percentiles"]["p50"] > 100_000


def test_open_files_limit_is_raised_or_named_at_the_start(running, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
        assert bench(running.port, "--subscribers", "100", *SHORT) == 0
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 60
        assert bench(running.port, "--subscribers", "1000000") == (2 if hard < 1_000_000 else 3)
        if hard < 1_000_000:
            assert "ulimit -n 1000065" in capsys.readouterr().err
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_picture_is_drawn_or_it_says_what_is_missing(running, tmp_path, capsys, monkeypatch):
    path = tmp_path / "run.png"
    assert bench(running.port, "--rate", "300", "--plot", str(path), *SHORT) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench(running.port, "--plot", str(path)) == 2
    assert "unbroken[bench]" in capsys.readouterr().err
    assert plot.NINES[-1] == 99.999


def test_the_key_is_never_shown(running, tmp_path, capsys):
    found = tmp_path / "found.json"
    bench(running.port, "--json", str(found), *SHORT)
    assert KEY.split(":")[1] not in capsys.readouterr().out + found.read_text()
    for wrong, status in ((KEY + "x" * 20, 3), ("no-colon-" + "x" * 20, 2)):
        assert bench(running.port, key=wrong) == status
    said = capsys.readouterr()
    assert "x" * 20 not in said.out + said.err
