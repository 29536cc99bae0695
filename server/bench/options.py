"""What a run is asked to do: the options of the command, checked."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from engine.auth.keys import Key, KeyFormatError, parse_key
from ext.load import MARK_BYTES

SCENARIOS = ("throughput", "storm", "reconnect", "idle", "replay")
MOST_PUBLISHERS = 1 << 20
MOST_CONNECTIONS = 1_000_000
LARGEST_SIZE = 1 << 20

EXAMPLES = """\
scenarios and examples:
  throughput   publishers and subscribers, as fast as acknowledgements come, or at a rate
      unbroken bench --key KEY --publishers 1 --subscribers 1000 --duration 10
      unbroken bench --key KEY --publishers 16 --subscribers 16 --channels 16 --rate 20000
      unbroken bench --key KEY --ramp 1000:50000:30 --plot ramp.png
  storm        clients that all connect and attach at once
      unbroken bench --key KEY --scenario storm --subscribers 5000
  reconnect    all connections are cut off at once while publishing goes on, and resume
      unbroken bench --key KEY --scenario reconnect --subscribers 1000 --rate 500
  idle         what a connection costs that is attached and silent
      unbroken bench --key KEY --scenario idle --subscribers 10000 --server-pid PID
  replay       messages are stored, then read back from a cursor
      unbroken bench --key KEY --scenario replay --count 100000

exit status: 0 every acknowledged message was delivered once and in order; 1 not so, or publishes were refused, or
the connection was lost; 2 wrong usage, or what was found could not be written; 3 the server could not be reached, or
did not let us in
"""


class UsageError(Exception):
    """An option is wrong; the text says which, and what it may be."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """A rate that changes evenly, then stays."""

    begin: float
    end: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Options:
    host: str
    port: int
    secure: bool
    key: Key = field(repr=False)
    scenario: str = "throughput"
    publishers: int = 1
    subscribers: int = 10
    channels: int = 1
    size: int = 128
    per_frame: int = 1
    window: int = 64
    ramp: Ramp | None = None  # None: as fast as acknowledgements come
    duration: float = 10.0
    warmup: float = 1.0
    binary: bool = False
    count: int = 100_000
    at_once: int = 64
    prefix: str = "bench"
    server_pid: int | None = None
    verify: bool = True  # the certificate
    json: Path | None = None
    csv: Path | None = None
    plot: Path | None = None
    quiet: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="ws://127.0.0.1:8080", help="ws:// or wss:// (ws://127.0.0.1:8080)")
    parser.add_argument("--key", metavar="appId.keyId:secret", help="better in the environment: UNBROKEN_KEY")
    parser.add_argument("--scenario", choices=SCENARIOS, default="throughput", help="see below (throughput)")
    parser.add_argument("--publishers", type=int, default=1, metavar="N", help="connections that publish (1)")
    parser.add_argument("--subscribers", type=int, default=10, metavar="N", help="connections that subscribe (10)")
    parser.add_argument("--channels", type=int, default=1, metavar="N", help="they are spread over so many (1)")
    parser.add_argument("--size", type=int, default=128, metavar="BYTES", help="of one message's data (128)")
    parser.add_argument("--per-frame", type=int, default=1, metavar="N", help="messages in one publish (1)")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--window", type=int, default=64, metavar="N", help="unacknowledged publishes each (64)")
    pace.add_argument("--rate", type=float, metavar="R", help="messages a second in all, on a fixed schedule")
    pace.add_argument("--ramp", metavar="FROM:TO:SECONDS", help="the same, changing evenly, then staying")
    parser.add_argument("--duration", type=float, default=10.0, metavar="S", help="seconds measured (10)")
    parser.add_argument("--warmup", type=float, default=1.0, metavar="S", help="seconds before that (1)")
    parser.add_argument("--count", type=int, default=100_000, metavar="N", help="messages of a replay (100000)")
    parser.add_argument("--at-once", type=int, default=64, metavar="N", help="connections being made at a time (64)")
    parser.add_argument("--format", choices=("json", "msgpack"), default="json", help="on the wire (json)")
    parser.add_argument("--prefix", default="bench", help="of the channels' names; a namespace ends with ':' (bench)")
    parser.add_argument("--server-pid", type=int, metavar="PID", help="a server here: its CPU and memory")
    parser.add_argument("--insecure", action="store_true", help="with wss: do not check the certificate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write percentiles, and one row for each second")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="percentiles and time; needs unbroken[bench]")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def options_from(arguments: argparse.Namespace, environment: dict[str, str]) -> Options:
    """Raises: UsageError."""
    text = arguments.key or environment.get("UNBROKEN_KEY")
    if not text:
        raise UsageError("--key, or UNBROKEN_KEY in the environment, is needed; `unbroken serve` prints one")
    try:
        key = Key(*parse_key(text))
    except KeyFormatError as error:
        raise UsageError(f"--key: {error}") from None
    host, port, secure = _address(arguments.url)
    _within("--publishers", arguments.publishers, 0, MOST_PUBLISHERS)
    _within("--subscribers", arguments.subscribers, 0, MOST_CONNECTIONS)
    _within("--channels", arguments.channels, 1, MOST_CONNECTIONS)
    _within("--size", arguments.size, MARK_BYTES, LARGEST_SIZE)
    _within("--per-frame", arguments.per_frame, 1, 1000)
    _within("--window", arguments.window, 1, 1 << 20)
    _within("--duration", arguments.duration, 0.1, 1e6)
    _within("--warmup", arguments.warmup, 0, 1e6)
    _within("--count", arguments.count, 1, 1 << 32)
    _within("--at-once", arguments.at_once, 1, 10_000)
    ramp = None
    if arguments.rate is not None:
        _within("--rate", arguments.rate, 0.001, 1e9)
        ramp = Ramp(arguments.rate, arguments.rate, 0.0)
    elif arguments.ramp is not None:
        ramp = _ramp(arguments.ramp)
    publishing = arguments.scenario in ("throughput", "reconnect", "replay")
    if publishing and arguments.publishers == 0:
        raise UsageError(f"--publishers: scenario {arguments.scenario} needs at least one")
    if arguments.scenario != "throughput" and arguments.subscribers == 0:
        raise UsageError(f"--subscribers: scenario {arguments.scenario} needs at least one")
    if arguments.scenario == "idle" and arguments.server_pid is None:
        raise UsageError("--server-pid: scenario idle measures a server on this machine, and needs its process id")
    if arguments.scenario == "reconnect" and ramp is None:
        raise UsageError("--rate: scenario reconnect publishes on a schedule, and needs one")
    if arguments.scenario not in ("throughput", "reconnect") and ramp is not None:
        raise UsageError(f"--rate, --ramp: scenario {arguments.scenario} publishes nothing on a schedule")
    if arguments.server_pid is not None and not Path(f"/proc/{arguments.server_pid}").is_dir():
        raise UsageError(f"--server-pid: there is no process {arguments.server_pid} on this machine")
    if re.search(r"[\x00-\x1f\x7f\[\]]", arguments.prefix) or not arguments.prefix:
        raise UsageError("--prefix: some text without control characters and brackets")
    if arguments.plot is not None and arguments.plot.suffix != ".png":
        raise UsageError("--plot: a file name that ends with .png")
    return Options(
        host=host,
        port=port,
        secure=secure,
        key=key,
        scenario=arguments.scenario,
        publishers=arguments.publishers if publishing else 0,
        subscribers=arguments.subscribers,
        channels=arguments.channels,
        size=arguments.size,
        per_frame=arguments.per_frame,
        window=arguments.window,
        ramp=ramp,
        duration=arguments.duration,
        warmup=arguments.warmup,
        binary=arguments.format == "msgpack",
        count=arguments.count,
        at_once=arguments.at_once,
        prefix=arguments.prefix,
        server_pid=arguments.server_pid,
        verify=not arguments.insecure,
        json=arguments.json,
        csv=arguments.csv,
        plot=arguments.plot,
        quiet=arguments.quiet,
    )


def _address(url: str) -> tuple[str, int, bool]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None
    beside = parts.username or parts.query or parts.fragment or parts.path not in ("", "/")
    if parts.scheme not in ("ws", "wss") or not parts.hostname or beside or port == 0:
        got = "" if "@" in url else f", got {url!r}"  # what stands before an @ may be a secret
        raise UsageError(f"--url: ws://host:port or wss://host:port, and nothing else{got}")
    secure = parts.scheme == "wss"
    return parts.hostname, port or (443 if secure else 80), secure


def _ramp(text: str) -> Ramp:
    try:
        begin, end, seconds = (float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"--ramp: FROM:TO:SECONDS, three numbers, got {text!r}") from None
    if not (0 <= begin <= 1e9 and 0 < end <= 1e9 and 0 < seconds <= 1e6):
        raise UsageError("--ramp: rates from 0 to 1e9 (the last one above 0), over more than 0 seconds")
    return Ramp(begin, end, seconds)


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(f"{name}: from {least:g} to {most:g}, got {value:g}")
