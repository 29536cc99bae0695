"""The face of pump.c: compiled on first use, called with sockets that are open and subscribed already.

A thread in C and not a library: what is compared moves millions of deliveries a second, and the load must not be the
limit. ``Outcome.load_share`` says when it was: near 1 the peer could have done more (spinning runs aside)."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int32, c_uint8, c_uint32, c_uint64, c_void_p, cast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent / "pump.c"
MARK = b"~un~" + b"0" * 28  # what stands in a template where the mark goes
BUCKETS, SUB_BUCKETS = 4096, 64  # as in pump.c


@dataclass(frozen=True, slots=True)
class Template:
    """One publish of one publisher: the mark stands in it once, and a counter where the dialect numbers publishes."""

    message: bytes
    counter: str = ""  # "": none; "decimal": the run of blanks and 0 at counter_at; "byte": one, 1 to 255
    counter_at: int = 0
    counter_width: int = 0

    def __post_init__(self) -> None:
        if self.message.count(MARK) != 1:
            raise ValueError("a template holds one mark")


@dataclass(frozen=True, slots=True)
class End:
    """A connection's end at the client: a subscriber's, or with a template a publisher's."""

    socket: socket.socket
    channel: int
    template: Template | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """``window`` messages in flight for each publisher, or ``rate`` a second in all; ``count`` ends it by number."""

    window: int = 0
    rate: float = 0
    seconds: float = 2.0
    warmup_seconds: float = 0.5
    count: int = 0
    spin: bool = False  # never sleep: then a server's send pays for no wake-up of the load's core
    quiet_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rates are of the measured span, latencies of its messages; correctness is of the whole run."""

    sent: int
    acked: int
    delivered: int
    expected: int
    lost: int
    repeats: int
    inversions: int
    closed: int
    stalled: bool
    seconds: float
    span_acked: int
    span_delivered: int
    server_seconds: float
    load_share: float  # of one core, by the load itself
    late_ms: float  # a schedule's longest delay before a message was handed over
    latency: tuple[int, ...]  # counts by bucket, see ``percentile``
    ack_latency: tuple[int, ...]


class _Conn(Structure):
    _fields_ = (
        ("fd", c_int32),
        ("role", c_int32),
        ("channel", c_int32),
        ("counter", c_int32),
        ("size", c_uint32),
        ("mark_at", c_uint32),
        ("counter_at", c_uint32),
        ("counter_width", c_uint32),
        ("message", c_void_p),
    )


class _Plan(Structure):
    _fields_ = (
        ("conns", POINTER(_Conn)),
        ("ack", c_void_p),
        ("pids", POINTER(c_int32)),
        ("conn_count", c_uint32),
        ("channels", c_uint32),
        ("ack_size", c_uint32),
        ("window", c_uint32),
        ("pid_count", c_uint32),
        ("spin", c_uint32),
        ("warmup_ns", c_uint64),
        ("duration_ns", c_uint64),
        ("count", c_uint64),
        ("quiet_ns", c_uint64),
        ("rate", c_double),
    )


_NUMBERS = (
    "sent",
    "acked",
    "delivered",
    "expected",
    "lost",
    "repeats",
    "inversions",
    "closed",
    "stalled",
    "span_ns",
    "span_sent",
    "span_acked",
    "span_delivered",
    "server_cpu_ns",
    "load_cpu_ns",
    "late_ns",
    "latency_max",
    "ack_max",
)


class _Result(Structure):
    _fields_ = (
        *((name, c_uint64) for name in _NUMBERS),
        ("latency", c_uint64 * BUCKETS),
        ("ack_latency", c_uint64 * BUCKETS),
    )


def run(ends: Sequence[End], load: Load, *, ack: bytes, pids: Sequence[int] = ()) -> Outcome:
    """Publish and read until the load is through or nothing moves any more. ``ack``: the pattern; b'': there are none.

    Raises: ValueError, for a window of 0 without a rate; MemoryError.
    """
    if not load.rate and not 0 < load.window <= 4096:
        raise ValueError("a load has a rate, or a window of 1 to 4,096")
    conns = (_Conn * len(ends))()
    kept = []  # what C points to lives as long as the call
    for conn, end in zip(conns, ends, strict=True):
        conn.fd, conn.channel, conn.role = end.socket.fileno(), end.channel, int(end.template is not None)
        if end.template is not None:
            template = end.template
            message = (c_uint8 * len(template.message)).from_buffer_copy(template.message)
            kept.append(message)
            conn.message, conn.size = cast(message, c_void_p), len(template.message)
            conn.mark_at = template.message.index(MARK)
            conn.counter = {"": 0, "decimal": 1, "byte": 2}[template.counter]
            conn.counter_at, conn.counter_width = template.counter_at, template.counter_width
    pattern = (c_uint8 * max(1, len(ack)))(*ack)
    watched = (c_int32 * max(1, len(pids)))(*pids)
    plan = _Plan(
        conns,
        cast(pattern, c_void_p),
        watched,
        len(ends),
        max(end.channel for end in ends) + 1,
        len(ack),
        load.window,
        len(pids),
        load.spin,
        int(load.warmup_seconds * 1e9),
        int(load.seconds * 1e9),
        load.count,
        int(load.quiet_seconds * 1e9),
        load.rate,
    )
    result = _Result()
    if _library().pump_run(byref(plan), byref(result)):
        raise MemoryError("the load has no memory or no descriptors for its connections")
    numbers = {name: int(getattr(result, name)) for name in _NUMBERS}
    return Outcome(
        **{name: numbers[name] for name in _NUMBERS[:8]},
        stalled=bool(numbers["stalled"]),
        seconds=numbers["span_ns"] / 1e9,
        span_acked=numbers["span_acked"],
        span_delivered=numbers["span_delivered"],
        server_seconds=numbers["server_cpu_ns"] / 1e9,
        load_share=numbers["load_cpu_ns"] / max(1, numbers["span_ns"]),
        late_ms=numbers["late_ns"] / 1e6,
        latency=tuple(result.latency),
        ack_latency=tuple(result.ack_latency),
    )


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many different messages came, in how many seconds, for how many of the server's CPU."""

    got: int
    seconds: float
    server_seconds: float
    repeats: int
    inversions: int


def replay(
    reader: socket.socket, request: bytes, count: int, *, pids: Sequence[int] = (), quiet_seconds: float = 5.0
) -> Replayed:
    """Ask for stored messages, numbered from 0, and count them until ``count`` have come or nothing comes any more."""
    span, cpu, repeats, inversions = c_uint64(), c_uint64(), c_uint64(), c_uint64()
    watched = (c_int32 * max(1, len(pids)))(*pids)
    got = _library().pump_replay(
        c_int32(reader.fileno()),
        request,
        c_uint32(len(request)),
        c_uint64(count),
        c_uint64(int(quiet_seconds * 1e9)),
        watched,
        c_uint32(len(pids)),
        byref(span),
        byref(cpu),
        byref(repeats),
        byref(inversions),
    )
    return Replayed(int(got), span.value / 1e9, cpu.value / 1e9, repeats.value, inversions.value)


def bucket(nanoseconds: int) -> int:
    """Where a latency is counted."""
    return int(_library().pump_bucket(c_uint64(nanoseconds)))


def percentile(buckets: Sequence[int], part: float) -> float:
    """The latency in microseconds that ``part`` of the messages stayed within; 0 without any. Exact to 1.6 %."""
    wanted, seen = part * sum(buckets), 0
    for at, count in enumerate(buckets):
        seen += count
        if count and seen >= wanted:
            if at < SUB_BUCKETS:
                return at / 1000
            octave, place = divmod(at, SUB_BUCKETS)
            return (((SUB_BUCKETS + place + 1) << (octave - 1)) - 1) / 1000
    return 0.0


@cache
def _library() -> ctypes.CDLL:
    """pump.c, compiled again when it has changed. Raises: FileNotFoundError, without a C compiler."""
    built = SOURCE.parent / "build" / "pump.so"
    if not built.exists() or built.stat().st_mtime < SOURCE.stat().st_mtime:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise FileNotFoundError("no C compiler: install gcc, or name one in the environment's CC")
        built.parent.mkdir(exist_ok=True)
        fresh = built.with_suffix(f".{os.getpid()}")  # two at once do not read each other's half
        subprocess.run((compiler, "-O2", "-shared", "-fPIC", "-o", fresh, SOURCE), check=True)
        fresh.replace(built)
    library = ctypes.CDLL(str(built))
    library.pump_run.argtypes = (POINTER(_Plan), POINTER(_Result))
    library.pump_replay.restype = c_uint64
    library.pump_bucket.restype = c_uint32
    return library
