"""The scenarios, one function each: they drive the load and return the figures.

throughput   attach, publish, settle            idle     attach, do nothing, look at the server
storm        connect and attach, all at once    replay   attach, leave, publish, come back, read
reconnect    publish, cut all, come back, settle"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ext.load.histogram import Histogram
from ext.load.publisher import now_ns
from server.bench.client import Client
from server.bench.load import (
    IDLE_WAIT_US,
    STUCK_SECONDS,
    Interrupted,
    Load,
    cpu_seconds,
    resident_bytes,
    say,
    wanted_cpu_seconds,
)

CATCH_UP_SECONDS = 120.0
FOR_EVER = 1 << 62


@dataclass(slots=True)
class Figures:
    """``values``: name and number, in the order of the report. ``connecting``: microseconds from dialling to ready."""

    seconds: float
    values: dict[str, float] = field(default_factory=dict)
    connecting: Histogram | None = None
    own_cpu: float = 0.0  # share of one core, while it was measured
    own_demand: float = 0.0  # the same, with the time in which the loop wanted a core that others had


def run(load: Load) -> Figures:
    """Run the scenario of the options; ``load.interrupted`` ends it early, with the results so far.

    Raises: Unreachable, Interrupted (without results), UsageError (the server refuses such messages)."""
    scenario: Callable[[Load], Figures] = {
        "throughput": throughput,
        "storm": storm,
        "reconnect": reconnect,
        "idle": idle,
        "replay": replay,
    }[load.options.scenario]
    return scenario(load)


def _of_server(load: Load, look: Callable[[int], float]) -> float | None:
    """The state of the server's process. None: it was not named, or has ended, which the report then says."""
    pid = load.options.server_pid
    if pid is None:
        return None
    try:
        return look(pid)
    except OSError:
        load.noted(f"process {pid} has ended: nothing is known of what it used")
        return None


class CpuMeter:
    """CPU of both sides over a span of time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._began = time.monotonic()
        self._own, self._demand = cpu_seconds(), wanted_cpu_seconds()
        self._server = _of_server(load, cpu_seconds)

    def figures(self) -> Figures:
        seconds = max(time.monotonic() - self._began, 1e-9)
        own = (cpu_seconds() - self._own) / seconds
        figures = Figures(seconds, own_cpu=own, own_demand=(wanted_cpu_seconds() - self._demand) / seconds)
        server = _of_server(self._load, cpu_seconds)
        if server is not None and self._server is not None:
            figures.values["server CPU, share of a core"] = (server - self._server) / seconds
        return figures


def _connect_all(load: Load) -> None:
    options = load.options
    clients = [load.add_subscriber(keep_serial=options.scenario == "reconnect") for _ in range(options.subscribers)]
    load.connect(clients)
    load.wait_ready(clients)
    publishers = [load.add_publisher() for _ in range(options.publishers)]
    load.connect(publishers)
    load.wait_ready(publishers)
    if not options.quiet:
        say(f"{len(clients)} subscribers and {len(publishers)} publishers are connected")


def throughput(load: Load) -> Figures:
    _connect_all(load)
    options = load.options
    load.publish_for(options.warmup)
    if options.ramp is not None and options.ramp.seconds:
        load.restart_schedule()
    acknowledged, delivered, meter = load.tally.acknowledged, load.tally.delivered, CpuMeter(load)
    measured_from = now_ns()
    load.tally.measure(measured_from, FOR_EVER)
    seconds = load.publish_for(options.duration)
    load.tally.measure(measured_from, now_ns())  # messages due by now count, however late they arrive
    figures = meter.figures()
    figures.seconds = seconds
    figures.values |= {
        "acknowledged, messages/s": (load.tally.acknowledged - acknowledged) / seconds,
        "delivered, messages/s": (load.tally.delivered - delivered) / seconds,
    }
    _per_message(load, figures, acknowledged, delivered)
    load.settle()
    return figures


def _per_message(load: Load, figures: Figures, acknowledged: int, delivered: int) -> None:
    share = figures.values.get("server CPU, share of a core")
    if share is None:
        return
    for name, count in (
        ("server CPU, us for each delivery", load.tally.delivered - delivered),
        ("server CPU, us for each publish", load.tally.acknowledged - acknowledged),
    ):
        if count:
            figures.values[name] = share * figures.seconds * 1e6 / count


def storm(load: Load) -> Figures:
    clients = [load.add_subscriber() for _ in range(load.options.subscribers)]
    connecting = _time_ready(load)
    meter = CpuMeter(load)
    load.connect(clients)
    with suppress(Interrupted):
        load.wait_ready(clients, seconds=CATCH_UP_SECONDS)
    figures = meter.figures()
    figures.connecting = connecting
    figures.values["connected and attached, clients/s"] = connecting.count / figures.seconds
    return figures


def _time_ready(load: Load) -> Histogram:
    """From dialling (which waits its turn) to ready, in microseconds."""
    times = Histogram()
    load.on_ready = lambda client: times.record((now_ns() - client.dialled_ns) // 1000)
    return times


def reconnect(load: Load) -> Figures:
    """Half the duration, the cut, and as long again while all come back; then until they have caught up."""
    _connect_all(load)
    options = load.options
    load.tally.measure(now_ns(), FOR_EVER)
    load.publish_for(options.duration / 2)
    published = _published(load)
    connecting = _time_ready(load)
    meter = CpuMeter(load)
    clients = load.subscribers + load.publishers
    for client in clients:
        client.cut()
    load.connect(clients)
    behind = [(client, client.receiver.channel) for client in load.subscribers]
    caught_up: list[float] = []
    began = time.monotonic()

    def watch() -> None:
        nonlocal behind
        before = len(behind)
        behind = [(client, channel) for client, channel in behind if client.receiver.received < published[channel]]
        if before and not behind:
            caught_up.append(time.monotonic() - began)

    load.on_turn = watch
    load.publish_for(options.duration / 2)
    until = time.monotonic() + CATCH_UP_SECONDS
    while (behind or not all(client.ready or client.lost for client in clients)) and time.monotonic() < until:
        load.turn(IDLE_WAIT_US)
        if load.failures or load.lost_connections or load.interrupted:
            break
    figures = meter.figures()
    load.on_turn = None
    load.settle()
    figures.connecting = connecting
    figures.values["until all had caught up with what they missed, s"] = caught_up[0] if caught_up else float("inf")
    return figures


def _published(load: Load) -> list[int]:
    """Messages for each channel, so far."""
    counts = [0] * load.options.channels
    for client in load.publishers:
        assert client.publisher is not None
        counts[client.publisher.number % load.options.channels] += client.publisher.sent * client.publisher.per_publish
    return counts


def idle(load: Load) -> Figures:
    options = load.options
    before = _of_server(load, resident_bytes)
    clients = [load.add_subscriber() for _ in range(options.subscribers)]
    load.connect(clients)
    load.wait_ready(clients, seconds=CATCH_UP_SECONDS)
    _sit(load, options.warmup)
    meter = CpuMeter(load)
    _sit(load, options.duration)
    figures = meter.figures()
    after = _of_server(load, resident_bytes)
    if before is not None and after is not None:
        figures.values["server memory, bytes for each connection"] = (after - before) / len(clients)
    return figures


def _sit(load: Load, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not load.interrupted:
        load.turn(100_000)


def replay(load: Load) -> Figures:
    _connect_all(load)
    options = load.options
    for client in load.subscribers:
        client.cut()
    load.publish_count(-(-options.count // len(load.publishers)))
    wanted = _published(load)
    readers: list[Client] = load.subscribers
    meter = CpuMeter(load)
    load.connect(readers)
    with suppress(Interrupted):
        load.wait_ready(readers)
    since, seen = time.monotonic(), -1
    while any(client.receiver.received < wanted[client.receiver.channel] for client in readers):
        load.turn(IDLE_WAIT_US)
        if load.tally.delivered != seen:
            since, seen = time.monotonic(), load.tally.delivered
        elif time.monotonic() - since > STUCK_SECONDS or load.interrupted:
            break  # messages received by now are in the figures; settling waits for the rest
    figures = meter.figures()
    figures.values["replayed, messages/s"] = load.tally.delivered / figures.seconds
    load.settle()
    return figures
