"""``unbroken bench`` against this server, and against one that breaks its promises."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from server.bench import load as bench_load
from server.cli import main
from tests.faulty_server import FaultyServer
from tests.harness import KEY, Server


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("bench")) as server:
        yield server


def bench(port, *options, key=KEY):
    """Without a warm-up, where there would be one."""
    scenario = options[options.index("--scenario") + 1] if "--scenario" in options else "throughput"
    warmup = ("--warmup", "0") if scenario in ("throughput", "idle") else ()
    return main(["bench", "--url", f"ws://127.0.0.1:{port}", "--key", key, *warmup, *options])


SHORT = ("--duration", "0.4")


@pytest.mark.parametrize("wire", ["json", "msgpack"])
@pytest.mark.parametrize(
    "options",
    [
        ("--publishers", "3", "--subscribers", "5", "--channels", "2", "--window", "8", *SHORT),
        ("--publishers", "2", "--rate", "500", "--per-frame", "3", *SHORT),
        ("--ramp", "100:2000:0.3", *SHORT),
        ("--scenario", "storm", "--subscribers", "50"),
        ("--scenario", "reconnect", "--rate", "300", "--publishers", "2", "--duration", "0.6"),
        ("--scenario", "replay", "--count", "2000", "--subscribers", "2"),
    ],
    ids=["window", "rate", "ramp", "storm", "reconnect", "replay"],
)
def test_this_server_is_found_correct(running, options, wire, capsys, tmp_path):
    found = tmp_path / "found.json"
    assert bench(running.port, *options, "--format", wire, "--json", str(found)) == 0
    said = capsys.readouterr()
    document = json.loads(found.read_text())
    verdict = document["verdict"]
    assert verdict["correct"] and verdict["clean"]
    assert verdict["text"] in said.out
    if "storm" in options:  # there was no message of which it could be said
        assert verdict["text"] == "correct: no connection failed or was lost; nothing was published"
    else:
        assert verdict["text"].startswith("correct: every acknowledged message")
        assert verdict["sent"] == verdict["acknowledged"] > 0
        assert verdict["delivered"] >= verdict["sent"]
    assert KEY.split(":")[1] not in said.out + said.err + found.read_text()


def test_idle_connections_are_measured_by_the_server_s_memory(running, capsys):
    options = ("--scenario", "idle", "--subscribers", "20", "--server-pid", str(running.pid), *SHORT)
    assert bench(running.port, *options) == 0
    assert "bytes for each connection" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("lose", "acknowledged but never delivered"),
        ("repeat", "delivered twice"),
        ("swap", "delivered out of order"),
        ("refuse", "refused"),
        ("late-refusal", "refused, yet delivered"),
        ("silent", "never answered"),
        ("stray", "answers that belong to no publish"),
        ("drop", "connections lost"),
        ("garbage", "the server sent something other than a protocol message"),
        ("damage", "damaged or on the wrong channel"),
        ("lose-and-drop", "acknowledged but never delivered"),
    ],
)
def test_a_broken_promise_is_found_and_named(fault, named, capsys, monkeypatch):
    monkeypatch.setattr(bench_load, "STUCK_SECONDS", 0.3)
    with FaultyServer(fault) as server:
        assert bench(server.port, "--subscribers", "3", "--window", "1", *SHORT) == 1
    said = capsys.readouterr().out
    assert named in said
    assert ("NOT CORRECT" in said) == (fault not in ("refuse", "silent", "drop", "garbage"))


def test_a_server_of_another_make_is_found_correct_too(capsys):
    with FaultyServer("none") as server:
        assert bench(server.port, "--subscribers", "3", "--window", "4", *SHORT) == 0
    assert "correct: every acknowledged message" in capsys.readouterr().out


def test_who_is_not_let_in_is_told_why(running, capsys):
    assert bench(running.port, key=KEY + "x") == 3
    assert "40101" in capsys.readouterr().err
    with FaultyServer("unwelcome") as server:
        assert bench(server.port) == 3
    assert "go away" in capsys.readouterr().err


def test_what_can_not_be_reached_is_told_apart(capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert bench(closed.getsockname()[1]) == 3
    assert "refuses connections" in capsys.readouterr().err
    for name in ("no-such-host.invalid", "a..b", "a" * 64 + ".invalid"):
        assert main(["bench", "--url", f"ws://{name}", "--key", KEY]) == 3
        assert f"unknown host '{name}'" in capsys.readouterr().err


def answering(data, times):
    """A listener that says this to whatever it is asked, so many times."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        for _ in range(times):
            connection, _ = listener.accept()
            with connection:
                if connection.recv(4096):
                    connection.sendall(data)
        listener.close()

    threading.Thread(target=answer, daemon=True).start()
    return listener.getsockname()[1]


def test_a_server_that_is_none_for_websockets_is_told(capsys):
    port = answering(b"HTTP/1.1 404 Not Found\r\n\r\nnothing here", 2)  # the first time it is only looked for
    assert bench(port, "--subscribers", "1") == 3
    assert "HTTP status 404 nothing here" in capsys.readouterr().err
    port = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n", 1)
    assert main(["bench", "--url", f"wss://127.0.0.1:{port}", "--key", KEY]) == 3
    assert "no TLS there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--size", "10"), "--size"),
        (("--channels", "0"), "--channels"),
        (("--scenario", "idle"), "--server-pid"),
        (("--scenario", "reconnect"), "--rate"),
        (("--ramp", "1:2"), "--ramp"),
        (
            ("--scenario", "replay", "--rate", "100"),
            "--rate: scenario replay does not use it (only throughput, reconnect",
        ),
        (("--scenario", "storm", "--ramp", "1:2:3"), "--ramp: scenario storm does not use it"),
        (("--scenario", "storm", "--publishers", "3"), "--publishers: scenario storm does not use it"),
        (("--scenario", "storm", "--duration", "3"), "--duration: scenario storm does not use it"),
        (("--scenario", "idle", "--size", "128"), "--size: scenario idle does not use it"),
        (("--scenario", "idle", "--window", "64"), "--window: scenario idle does not use it"),
        (("--scenario", "replay", "--warmup", "1"), "--warmup: scenario replay does not use it"),
        (("--scenario", "reconnect", "--window", "1"), "--window: scenario reconnect does not use it"),
        (("--scenario", "reconnect", "--per-frame", "1", "--count", "5"), "--count: scenario reconnect does not use"),
        (("--count", "5"), "--count: scenario throughput does not use it (only replay"),
        (("--insecure",), "--insecure: there is no certificate"),
        (("--rate", "0"), "--rate: must be from 0.001 to 1,000,000,000, got 0"),
        (("--rate", "nan"), "--rate: must be from 0.001 to 1,000,000,000, got nan"),
        (("--publishers", "0"), "--publishers"),
        (("--publishers", "-1"), "--publishers: must be from 0 to 1,048,576, got -1"),
        (("--subscribers", "1000001"), "--subscribers: must be from 0 to 1,000,000, got 1,000,001"),
        (("--size", "44"), "--size: must be from 45 to 1,048,576, got 44"),
        (("--window", "0"), "--window: must be from 1 to 1,048,576, got 0"),
        (("--per-frame", "1001"), "--per-frame: must be from 1 to 1,000, got 1,001"),
        (("--duration", "0"), "--duration: must be from 0.1 to 1,000,000, got 0"),
        (("--at-once", "0"), "--at-once: must be from 1 to 10,000, got 0"),
        (("--scenario", "replay", "--count", "-1"), "--count: must be from 1 to 4,294,967,296, got -1"),
        (("--server-pid", "-1"), "--server-pid: must be from 1 to 4,194,304, got -1"),
        (("--ramp", "1:0:1"), "--ramp: rates must be from 0 to 1,000,000,000"),
        (("--plot", "x.pdf"), "--plot"),
        (("--prefix", "a]b"), "--prefix"),
        (("--json", "/no/such/directory/x.json"), "directory"),
        (("--csv", "/"), "/ is a directory"),
        (("--url", "ws://127.0.0.1:0"), "--url"),
        (("--url", "ws://127.0.0.1:1/#there"), "--url"),
    ],
)
def test_a_wrong_option_is_named(options, named, capsys):
    assert bench(1, *options) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--publishers", "many"), ("--rate", "fast"), ("--count", "1.5")])
def test_what_is_no_number_is_named(options, capsys):
    with pytest.raises(SystemExit) as ended:
        bench(1, *options)
    assert ended.value.code == 2
    assert f"argument {options[0]}: must be a" in capsys.readouterr().err


def test_the_address_of_the_rest_side_will_do(running, capsys):
    assert bench(1, "--url", f"http://127.0.0.1:{running.port}", *SHORT) == 0
    port = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n", 1)
    assert bench(1, "--url", f"https://127.0.0.1:{port}") == 3
    assert "no TLS there" in capsys.readouterr().err


def test_what_stands_before_a_host_is_refused_and_not_shown(capsys):
    assert bench(1, "--url", f"ws://{KEY}@127.0.0.1:1") == 2
    said = capsys.readouterr().err
    assert "--url" in said
    assert KEY.split(":")[1] not in said


def test_without_a_key_it_says_what_to_do(capsys, monkeypatch):
    monkeypatch.delenv("UNBROKEN_KEY", raising=False)
    assert main(["bench"]) == 2
    assert "UNBROKEN_KEY" in capsys.readouterr().err


def test_the_help_has_an_example_for_each_scenario(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    said = capsys.readouterr().out
    assert all(f"--scenario {name}" in said for name in ("storm", "reconnect", "idle", "replay"))


def test_the_series_of_seconds_goes_to_a_table(running, tmp_path):
    path = tmp_path / "series.csv"
    assert bench(running.port, "--duration", "1.3", "--rate", "200", "--csv", str(path), "--quiet") == 0
    percentiles, seconds = path.read_text().replace("\r\n", "\n").split("\n\n")
    assert len(percentiles.split("\n")) == 9
    assert seconds.startswith("second,published")
    assert len(seconds.strip().split("\n")) >= 2
