"""The options of a run, and their checks."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from engine.auth.keys import Key, KeyFormatError, parse_key
from ext.load.publisher import MARK_BYTES

MAX_PUBLISHERS = 1 << 20
MAX_CONNECTIONS = 1_000_000
LARGEST_SIZE = 1 << 20
BOUNDS: dict[str, tuple[float, float]] = {
    "publishers": (0, MAX_PUBLISHERS),
    "subscribers": (0, MAX_CONNECTIONS),
    "channels": (1, MAX_CONNECTIONS),
    "size": (MARK_BYTES, LARGEST_SIZE),
    "per_frame": (1, 1000),
    "window": (1, 1 << 20),
    "rate": (0.001, 1e9),
    "duration": (0.1, 1e6),
    "warmup": (0, 1e6),
    "count": (1, 1 << 32),
    "at_once": (1, 10_000),
    "server_pid": (1, 1 << 22),  # the most that Linux gives out
}
MESSAGES = ("publishers", "size", "per_frame")
SCHEDULE = ("rate", "ramp")
USES: dict[str, tuple[str, ...]] = {  # of those options that not every scenario has a use for
    "throughput": (*MESSAGES, *SCHEDULE, "window", "duration", "warmup"),
    "storm": (),
    "reconnect": (*MESSAGES, *SCHEDULE, "duration"),
    "idle": ("duration", "warmup"),
    "replay": (*MESSAGES, "window", "count"),
}
SCENARIOS = tuple(USES)

EXAMPLES = """\
scenarios and examples:
  throughput   publishers and subscribers, as fast as acknowledgements come, or at a rate
      unbroken bench --key KEY --publishers 1 --subscribers 1000 --duration 10
      unbroken bench --key KEY --publishers 16 --subscribers 16 --channels 16 --rate 20000
      unbroken bench --key KEY --ramp 1000:50000:30 --plot ramp.png
  storm        clients that all connect and attach at once
      unbroken bench --key KEY --scenario storm --subscribers 5000
  reconnect    all connections are cut off at once and resume, while publishing continues
      unbroken bench --key KEY --scenario reconnect --subscribers 1000 --rate 500
  idle         the cost of an attached, silent connection
      unbroken bench --key KEY --scenario idle --subscribers 10000 --server-pid PID
  replay       messages are stored, then read back from a cursor
      unbroken bench --key KEY --scenario replay --count 100000

exit status: 0 every acknowledged message was delivered once and in order; 1 some were not, or publishes were refused,
or a connection was lost; 2 wrong usage, or the results could not be written; 3 the server could not be reached, or
refused all connections
"""


class UsageError(Exception):
    """An option is wrong; the text names it and the permitted values."""


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
    """The options, without defaults: those are in ``Options``, so that given options can be distinguished."""
    parser.add_argument(
        "--url",
        default="ws://127.0.0.1:8080",
        help="address of the server: ws:// or http://, wss:// or https:// (ws://127.0.0.1:8080)",
    )
    parser.add_argument(
        "--key", metavar="appId.keyId:secret", help="the API key; better set UNBROKEN_KEY in the environment"
    )
    parser.add_argument(
        "--scenario", choices=SCENARIOS, default="throughput", help="the kind of load, see below (throughput)"
    )
    parser.add_argument("--publishers", type=_whole, metavar="N", help="connections that publish (1)")
    parser.add_argument("--subscribers", type=_whole, metavar="N", help="connections that subscribe (10)")
    parser.add_argument("--channels", type=_whole, metavar="N", help="number of channels (1)")
    parser.add_argument("--size", type=_whole, metavar="BYTES", help="size of one message's data (128)")
    parser.add_argument("--per-frame", type=_whole, metavar="N", help="messages in one publish (1)")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--window", type=_whole, metavar="N", help="unacknowledged publishes each (64)")
    pace.add_argument("--rate", type=_number, metavar="R", help="messages a second in all, on a fixed schedule")
    pace.add_argument("--ramp", metavar="FROM:TO:SECONDS", help="a rate that changes evenly, then stays")
    parser.add_argument("--duration", type=_number, metavar="S", help="measured time (10)")
    parser.add_argument("--warmup", type=_number, metavar="S", help="time before that which is not measured (1)")
    parser.add_argument("--count", type=_whole, metavar="N", help="messages of a replay (100000)")
    parser.add_argument("--at-once", type=_whole, metavar="N", help="connections opened at a time (64)")
    parser.add_argument("--format", choices=("json", "msgpack"), default="json", help="wire format (json)")
    parser.add_argument(
        "--prefix", default="bench", help="start of the channel names; a namespace ends with ':' (bench)"
    )
    parser.add_argument(
        "--server-pid",
        type=_whole,
        metavar="PID",
        help="a server process on this machine, to measure its CPU and memory",
    )
    parser.add_argument("--insecure", action="store_true", help="with wss: do not check the certificate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to a file")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write percentiles and one row for each second to a file"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="plot percentiles and rates over time; needs unbroken[bench]"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def options_from(arguments: argparse.Namespace, environment: dict[str, str]) -> Options:
    """Raises: UsageError."""
    key = _key(arguments.key or environment.get("UNBROKEN_KEY"))
    host, port, secure = _address(arguments.url)
    given = {name for name in (*BOUNDS, "ramp") if getattr(arguments, name) is not None}
    _check_used(arguments.scenario, given)
    if arguments.insecure and not secure:
        raise UsageError("--insecure: there is no certificate to check without TLS (wss:// or https://)")
    for name, (least, most) in BOUNDS.items():
        if name in given:
            _within(_option(name), getattr(arguments, name), least, most)
    for known in fields(Options):
        if getattr(arguments, known.name, None) is None:
            setattr(arguments, known.name, known.default)
    ramp = None
    if arguments.rate is not None:
        ramp = Ramp(arguments.rate, arguments.rate, 0.0)
    elif arguments.ramp is not None:
        ramp = _ramp(arguments.ramp)
    _check_needs(arguments, ramp)
    _check_texts(arguments)
    return Options(
        host=host,
        port=port,
        secure=secure,
        key=key,
        scenario=arguments.scenario,
        publishers=arguments.publishers if _publishes(arguments.scenario) else 0,
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


def _key(text: str | None) -> Key:
    if not text:
        raise UsageError(
            "--key, or UNBROKEN_KEY in the environment, is required; a server saves its first key in first-key"
        )
    try:
        return Key(*parse_key(text))
    except KeyFormatError as error:
        raise UsageError(f"--key: {error}") from None


def _publishes(scenario: str) -> bool:
    return "publishers" in USES[scenario]


def _check_needs(arguments: argparse.Namespace, ramp: Ramp | None) -> None:
    """Raises: UsageError, for an option without which this scenario measures nothing."""
    scenario = arguments.scenario
    if _publishes(scenario) and arguments.publishers == 0:
        raise UsageError(f"--publishers: scenario {scenario} needs at least one")
    if scenario != "throughput" and arguments.subscribers == 0:
        raise UsageError(f"--subscribers: scenario {scenario} needs at least one")
    if scenario == "idle" and arguments.server_pid is None:
        raise UsageError("--server-pid: scenario idle measures a server on this machine, and needs its process id")
    if scenario == "reconnect" and ramp is None:
        raise UsageError("--rate: scenario reconnect publishes on a schedule, and needs one")


def _check_texts(arguments: argparse.Namespace) -> None:
    """Raises: UsageError, for one that is of no use in any scenario."""
    if arguments.server_pid is not None and not Path(f"/proc/{arguments.server_pid}").is_dir():
        raise UsageError(f"--server-pid: there is no process {arguments.server_pid} on this machine")
    if re.search(r"[\x00-\x1f\x7f\[\]]", arguments.prefix) or not arguments.prefix:
        raise UsageError("--prefix: must be text without control characters and brackets")
    if arguments.plot is not None and arguments.plot.suffix != ".png":
        raise UsageError("--plot: must be a file name that ends with .png")


def _address(url: str) -> tuple[str, int, bool]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None
    beside = parts.username or parts.query or parts.fragment or parts.path not in ("", "/")
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname or beside or port == 0:
        got = "" if "@" in url else f", got {url!r}"  # what stands before an @ may be a secret
        raise UsageError(f"--url: must be ws://host:port or wss://host:port, and nothing else{got}")
    secure = parts.scheme in ("wss", "https")  # an address is often at hand as that of its REST side
    return parts.hostname, port or (443 if secure else 80), secure


def _ramp(text: str) -> Ramp:
    try:
        begin, end, seconds = (float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"--ramp: must be FROM:TO:SECONDS, three numbers, got {text!r}") from None
    if not (0 <= begin <= 1e9 and 0 < end <= 1e9 and 0 < seconds <= 1e6):
        raise UsageError(
            "--ramp: rates must be from 0 to 1,000,000,000 (the last one above 0), over at most 1,000,000 seconds"
        )
    return Ramp(begin, end, seconds)


def _check_used(scenario: str, given: set[str]) -> None:
    """Raises: UsageError, for an option that this scenario would ignore."""
    for name in sorted(given):
        users = [other for other, uses in USES.items() if name in uses]
        if users and scenario not in users:
            raise UsageError(f"{_option(name)}: scenario {scenario} does not use it (only {', '.join(users)})")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UsageError(f"{name}: must be from {_shown(least)} to {_shown(most)}, got {_shown(value)}")


def _shown(value: float) -> str:
    return f"{int(value):,}" if math.isfinite(value) and value == int(value) else f"{value:,}"


def _whole(text: str) -> int:
    """A type for the parser, whose message names the option."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text[:40]!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text[:40]!r}") from None
