"""The loop of a run: sends due messages, counts received ones, records a line once a second.

    turn    dialer.step; plane.poll (sinks count deliveries and ACKs); publish what is due or allowed; plane.flush

It is one thread without tasks, so only the server causes waiting."""

from __future__ import annotations

import os
import resource
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgpack
import orjson

from ext.load.histogram import Histogram
from ext.load.publisher import MARK_BYTES, Publisher, Tally, Template, now_ns
from ext.load.receiver import Receiver
from ext.net.plane import BINARY, FAILED, GONE, TEXT, VIOLATION, Plane
from server.bench.client import Client
from server.bench.dialer import Dialer
from server.bench.options import Options, UsageError
from server.bench.pacing import Pacing, Scheduled, Windows
from server.bench.target import Target, Unreachable
from server.realtime.actions import Action

LARGEST_MESSAGE = 16 << 20
IDLE_WAIT_US = 500
STUCK_SECONDS = 5.0  # without any progress at the end: messages missing by then are lost
SETUP_SECONDS = 60.0
SPARE_DESCRIPTORS = 64
NAME = "bench"  # of each message


class Interrupted(Exception):
    """Ctrl-C before there was anything to report."""


@dataclass(frozen=True, slots=True)
class Second:
    """The figures of one second of a run. Latencies are in microseconds, of deliveries, or of ACKs if nobody
    subscribes; None: none was measured."""

    at: float
    published: int
    acknowledged: int
    delivered: int
    p50: int | None
    p99: int | None
    problems: int  # since the beginning


class Load:
    """The connections of a run, and their counters. For one thread."""

    def __init__(self, options: Options, target: Target) -> None:
        self.options = options
        self.binary = options.binary
        self.run_id = secrets.token_hex(4)
        self.plane = Plane(
            max_message=LARGEST_MESSAGE, heartbeat_ms=20_000, ping_ms=40_000, lost_ms=120_000, linger_ms=1_000
        )
        self.tally = Tally(self.run_id.encode())
        self.latency, self.ack_latency = Histogram(), Histogram()  # of all seconds that were measured
        self.seconds: list[Second] = []
        self.publishers: list[Client] = []
        self.subscribers: list[Client] = []
        self.notes: dict[str, int] = {}  # text: how often
        self.failures = 0  # connections that were not made
        self.lost_connections = 0
        self.interrupted = False  # set it (from a signal handler, say), and the run ends early
        self.scheduled: Scheduled | None = None
        self.unsent = 0  # messages that were due, and had not left at the end
        self.on_second: Callable[[Second], None] | None = None
        self.on_ready: Callable[[Client], None] | None = None
        self.on_turn: Callable[[], None] | None = None
        self._dialer = Dialer(target, options.at_once)
        self._touched: list[Publisher] = []
        self._frame_bytes = 0
        self._began = time.monotonic()
        self._noted = (self._began, 0, 0, 0)
        self._ready = 0

    # the connections

    def channel_name(self, number: int) -> str:
        prefix = self.options.prefix
        return f"{prefix}{'' if prefix.endswith(':') else '-'}{self.run_id}-{number}"

    def add_subscriber(self, *, keep_serial: bool = False) -> Client:
        number, options = len(self.subscribers), self.options
        channel = number % options.channels
        receiver = Receiver(
            self.tally, number, channel, options.channels, options.publishers, None, keep_serial=keep_serial
        )
        client = Client(self, receiver, None, self.channel_name(channel))
        self.subscribers.append(client)
        return client

    def add_publisher(self) -> Client:
        number = len(self.publishers)
        client = Client(self, None, None, None)  # type: ignore[arg-type]  # both belong to the publisher, which names it
        template = self._template(number)
        publisher = Publisher(self.tally, number, template, client, self._touched)
        client.publisher = publisher
        client.receiver = Receiver(self.tally, number, 0, 1, 0, publisher)
        self._frame_bytes = len(template.make(0, 0, 0))
        self.publishers.append(client)
        return client

    def _template(self, publisher: int) -> Template:
        options = self.options
        data = "~" * MARK_BYTES + "x" * (options.size - MARK_BYTES)
        message = {
            "action": Action.MESSAGE,
            "channel": self.channel_name(publisher % options.channels),
            "messages": [{"name": NAME, "data": data}] * options.per_frame,
        }
        if self.binary:
            whole = msgpack.packb(message)
            return Template(b"\x84" + b"\xa9msgSerial", whole[1:], True, self.run_id.encode(), publisher)
        text = orjson.dumps(message)
        return Template(b'{"msgSerial":', b"," + text[1:], False, self.run_id.encode(), publisher)

    def connect(self, clients: list[Client]) -> None:
        """Dial these; they are ready, or have failed, when ``connecting`` ends."""
        for client in clients:
            client.dialled_ns, client.lost = now_ns(), False
            self._dialer.dial(client)

    def wait_ready(self, clients: list[Client], seconds: float = SETUP_SECONDS) -> None:
        """Wait until all of these are ready. Raises: Unreachable, if some are refused; Interrupted."""
        until = time.monotonic() + seconds
        wanted = self._ready + sum(not client.ready for client in clients)
        while self._ready < wanted:
            self.turn(IDLE_WAIT_US)
            if self.interrupted:
                raise Interrupted
            if self.failures or time.monotonic() > until:
                missing = sum(not client.ready for client in clients)
                why = next(iter(self.notes), f"no answer within {seconds:g} s")
                raise Unreachable(f"{missing} of {len(clients)} connections were not accepted: {why}")

    # client.Run

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def ready(self, client: Client) -> None:
        self._ready += 1
        if self.on_ready is not None:
            self.on_ready(client)

    def allowed(self, largest: int) -> None:
        wanted = self.options.per_frame * (self.options.size + len(NAME))
        if 0 < largest < wanted:
            raise UsageError(
                f"the server accepts publishes of at most {largest:,} bytes (maxMessageSize), but "
                f"these have {wanted:,}; use a smaller --size or --per-frame"
            )

    def failed(self, client: Client, why: str) -> None:
        self.failures += 1
        self.noted(why)

    def lost(self, client: Client, why: str) -> None:
        self.lost_connections += 1
        self.noted(f"a connection was lost: {why}")

    def noted(self, text: str) -> None:
        if text in self.notes or len(self.notes) < 100:
            self.notes[text] = self.notes.get(text, 0) + 1

    # the loop

    def turn(self, wait_us: int = 0) -> None:
        """One round of everything but publishing."""
        dialling = self._dialer.busy
        if dialling:
            self._dialer.step()
        for client, kind, data in self.plane.poll(self.now_ms(), wait_us=0 if dialling else wait_us):
            if client is None or client.socket is None:
                continue
            if kind in (TEXT, BINARY):
                client.receive(data, kind == BINARY)
            elif kind == GONE:
                client.gone(data)
            elif kind == VIOLATION:
                client.gone(f"the server violated the WebSocket protocol (close code {data})")
            elif kind == FAILED:
                raise data
        self.plane.flush()
        if self.on_turn is not None:
            self.on_turn()
        now = time.monotonic()
        if now - self._noted[0] >= 1:
            self._note_second(now)

    def _note_second(self, now: float) -> None:
        began, published, acknowledged, delivered = self._noted
        sent = sum(client.publisher.sent for client in self.publishers if client.publisher) * self.options.per_frame
        seconds, tally = now - began, self.tally
        measured = tally.latency if self.subscribers else tally.ack_latency
        second = Second(
            round(now - self._began, 3),
            round((sent - published) / seconds),
            round((tally.acknowledged - acknowledged) / seconds),
            round((tally.delivered - delivered) / seconds),
            measured.percentile(50) if measured.count else None,
            measured.percentile(99) if measured.count else None,
            self._problems(),
        )
        self.seconds.append(second)
        self.take_times()
        self._noted = (now, sent, tally.acknowledged, tally.delivered)
        self.plane.tick(self.now_ms())
        for client in self.subscribers:
            client.receiver.forgive()
        if self.on_second is not None:
            self.on_second(second)

    def _problems(self) -> int:
        tally = self.tally
        refused = sum(client.publisher.refused for client in self.publishers if client.publisher)
        odd = tally.repeats + tally.inversions + tally.misplaced + tally.stray_acks + tally.refused_deliveries
        return odd + refused + self.lost_connections + self.failures

    def take_times(self) -> None:
        """Add the measurements of this second to the total."""
        for whole, part in ((self.latency, self.tally.latency), (self.ack_latency, self.tally.ack_latency)):
            whole.merge(part)
            part.clear()

    # publishing

    def publish_for(self, seconds: float) -> float:
        """Publish as the options say, at a rate or as ACKs come; a schedule goes on where the last call left it.

        Returns: how many seconds that took."""
        begun = time.monotonic()
        pace = self._pace()
        while time.monotonic() - begun < seconds and not self._hopeless():
            self.turn(0 if pace.step() else IDLE_WAIT_US)
        pace.step()
        self.plane.flush()
        if self.scheduled is not None:
            self.unsent = self.scheduled.unsent()
        return time.monotonic() - begun

    def publish_count(self, count: int) -> None:
        """Publish this number of messages of each publisher, as ACKs come."""
        publishes = -(-count // self.options.per_frame)
        pace = Windows(self._senders(), self._touched, self.options.window, self._frame_bytes, publishes)
        held = [publisher for publisher in self._senders() if publisher.answered < publishes]
        while held and not self._hopeless():
            self.turn(0 if pace.step() else IDLE_WAIT_US)
            held = [publisher for publisher in held if publisher.answered < publishes]

    def restart_schedule(self) -> None:
        """A ramp begins anew with the next ``publish_for``."""
        self.scheduled = None

    def _pace(self) -> Pacing:
        ramp = self.options.ramp
        if ramp is None:
            return Windows(self._senders(), self._touched, self.options.window, self._frame_bytes)
        if self.scheduled is None:
            self.scheduled = Scheduled(self._senders(), ramp, self._frame_bytes)
        return self.scheduled

    def _senders(self) -> list[Publisher]:
        return [client.publisher for client in self.publishers if client.publisher]

    def _hopeless(self) -> bool:
        """No publisher is left, or the run was interrupted."""
        return self.interrupted or all(client.lost for client in self.publishers)

    # the end

    def settle(self) -> None:
        """Wait for messages on their way: until all have arrived, or nothing arrives any more."""
        seen, since = (-1, -1), time.monotonic()
        while True:
            self.turn(IDLE_WAIT_US)
            progress = (self.tally.delivered, sum(c.publisher.answered for c in self.publishers if c.publisher))
            if progress != seen:
                seen, since = progress, time.monotonic()
            if self._all_arrived() or time.monotonic() - since > STUCK_SECONDS:
                break
        self.take_times()
        for client in self.subscribers:
            client.receiver.forgive()

    def _all_arrived(self) -> bool:
        expected = [0] * self.options.channels
        for client in self.publishers:
            publisher = client.publisher
            assert publisher is not None
            if publisher.answered < publisher.sent:
                return False
            expected[publisher.number % self.options.channels] += (
                publisher.sent - publisher.refused
            ) * publisher.per_publish
        return all(client.receiver.received >= expected[client.receiver.channel] for client in self.subscribers)

    def close(self) -> None:
        self._dialer.close()
        self.plane.close()


def allow_descriptors(wanted: int) -> None:
    """Raise the limit on open files as far as it may go. Raises: UsageError, if it is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_DESCRIPTORS
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise UsageError(
                f"{wanted} sockets need {needed} descriptors, the limit is {hard}: raise it (ulimit -n {needed})"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else hard, hard))


def cpu_seconds(pid: int | None = None) -> float:
    """CPU time that a process has used; this one, without a pid. Raises: OSError, if it has ended."""
    if pid is None:
        return time.process_time()
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wanted_cpu_seconds() -> float:
    """How long this thread has been running or has waited for a core that others had; 0: the kernel does not tell."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            running, waiting, _ = file.read().split()
    except (OSError, ValueError):
        return 0.0
    return (int(running) + int(waiting)) / 1e9


def resident_bytes(pid: int) -> int:
    """Raises: OSError, if it has ended."""
    with open(f"/proc/{pid}/statm") as file:
        pages = int(file.read().split()[1])
    if not pages:  # it has, though nobody has asked for its status yet
        raise ProcessLookupError(f"process {pid} has ended")
    return pages * os.sysconf("SC_PAGE_SIZE")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
