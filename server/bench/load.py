"""The loop: what is due is sent, what arrives is counted, once a second a line is noted.

    turn    dialer.step; plane.poll (sinks count deliveries and ACKs); publish what is due or allowed; plane.flush

One thread, no tasks: so the only clock that waits is the server's."""

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

from ext.histogram import Histogram
from ext.load import MARK_BYTES, Publisher, Receiver, Tally, Template, now_ns
from ext.plane import BINARY, FAILED, GONE, TEXT, VIOLATION, Plane
from server.actions import Action
from server.bench.client import Client
from server.bench.dialer import Dialer
from server.bench.options import Options, Ramp
from server.bench.schedule import Schedule
from server.bench.target import Target, Unreachable

LARGEST_MESSAGE = 16 << 20
QUEUED_BYTES = 1 << 20  # of one connection: more is not handed to it before it has sent some; what is due stays due
IDLE_WAIT_US = 500
STUCK_SECONDS = 5.0  # without any progress at the end: what has not come by then has not come
SETUP_SECONDS = 60.0
SPARE_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class Second:
    """What happened in one second of a run; latencies in microseconds."""

    at: float
    published: int
    acknowledged: int
    delivered: int
    p50: int
    p99: int


class Load:
    """The connections of a run, and what they have seen. For one thread."""

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
        self.late_ns = 0  # the most by which a publish left after it was due
        self.interrupted = False
        self.on_second: Callable[[Second], None] | None = None
        self.on_ready: Callable[[Client], None] | None = None
        self.on_turn: Callable[[], None] | None = None
        self._dialer = Dialer(target, options.at_once)
        self._touched: list[Publisher] = []
        self._templates: dict[int, Template] = {}
        self._began = time.monotonic()
        self._noted = (self._began, 0, 0, 0)
        self._ready = 0

    # who takes part

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
        number, options = len(self.publishers), self.options
        client = Client(self, None, None, None)  # type: ignore[arg-type]  # both belong to the publisher, which names it
        publisher = Publisher(self.tally, number, options.per_frame, client, self._touched)
        client.publisher = publisher
        client.receiver = Receiver(self.tally, number, 0, 1, 0, publisher)
        self._templates[number] = self._template(number)
        self.publishers.append(client)
        return client

    def _template(self, publisher: int) -> Template:
        options = self.options
        data = "~" * MARK_BYTES + "x" * (options.size - MARK_BYTES)
        message = {
            "action": Action.MESSAGE,
            "channel": self.channel_name(publisher % options.channels),
            "messages": [{"name": "bench", "data": data}] * options.per_frame,
        }
        if self.binary:
            whole = msgpack.packb(message)
            return Template(b"\x84" + b"\xa9msgSerial", whole[1:], True, self.run_id.encode(), publisher)
        text = orjson.dumps(message)
        return Template(b'{"msgSerial":', b"," + text[1:], False, self.run_id.encode(), publisher)

    def connect(self, clients: list[Client]) -> None:
        """Have these dialled; they are ready, or have failed, when ``connecting`` ends."""
        for client in clients:
            client.dialled_ns = now_ns()
            self._dialer.dial(client)

    def wait_ready(self, clients: list[Client], seconds: float = SETUP_SECONDS) -> None:
        """Until all of these are ready. Raises: Unreachable, some did not get in."""
        until = time.monotonic() + seconds
        wanted = self._ready + sum(not client.ready for client in clients)
        while self._ready < wanted:
            self.turn(IDLE_WAIT_US)
            if self.failures or time.monotonic() > until:
                missing = sum(not client.ready for client in clients)
                why = next(iter(self.notes), f"no answer within {seconds:g} s")
                raise Unreachable(f"{missing} of {len(clients)} connections were not let in: {why}")

    # client.Run

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def ready(self, client: Client) -> None:
        self._ready += 1
        if self.on_ready is not None:
            self.on_ready(client)

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
                client.gone(f"the server broke the WebSocket protocol (close code {data})")
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
        measured = tally.latency if tally.latency.count else tally.ack_latency
        second = Second(
            round(now - self._began, 3),
            round((sent - published) / seconds),
            round((tally.acknowledged - acknowledged) / seconds),
            round((tally.delivered - delivered) / seconds),
            measured.percentile(50),
            measured.percentile(99),
        )
        self.seconds.append(second)
        self.take_times()
        self._noted = (now, sent, tally.acknowledged, tally.delivered)
        self.plane.tick(self.now_ms())
        if self.on_second is not None:
            self.on_second(second)

    def take_times(self) -> None:
        """What was measured in this second goes to the whole."""
        for whole, part in ((self.latency, self.tally.latency), (self.ack_latency, self.tally.ack_latency)):
            whole.merge(part)
            part.clear()

    # publishing

    def publish_for(self, seconds: float, warmup: float = 0.0) -> float:
        """Publish as the options say, at a rate or as ACKs come. Returns: how many seconds were measured."""
        begun = time.monotonic()
        ramp = self.options.ramp
        pace = self._on_schedule(ramp) if ramp is not None else self._in_windows()
        measured_from = None
        while (now := time.monotonic()) - begun < warmup + seconds and not self._all_lost():
            if measured_from is None and now - begun >= warmup:
                measured_from = now
                self.tally.measure(True)
            self.turn(0 if pace() else IDLE_WAIT_US)
        return time.monotonic() - (measured_from or begun)

    def publish_count(self, count: int) -> None:
        """Publish so many messages of each publisher, as ACKs come."""
        pace = self._in_windows(-(-count // self.options.per_frame))
        while not self._all_lost() and self._unfinished(-(-count // self.options.per_frame)):
            self.turn(0 if pace() else IDLE_WAIT_US)

    def _unfinished(self, publishes: int) -> bool:
        return any(client.publisher.answered < publishes for client in self.publishers if client.publisher)

    def _all_lost(self) -> bool:
        return not any(client.ready for client in self.publishers)

    def _in_windows(self, most: int = 1 << 62) -> Callable[[], bool]:
        """As many unanswered publishes of each as the window allows; True: there was something to send."""
        window = self.options.window
        held: list[Publisher] = [client.publisher for client in self.publishers if client.publisher]
        self._touched.clear()

        def pace() -> bool:
            nonlocal held
            due, held = held + self._touched, []
            self._touched.clear()
            for publisher in due:
                publisher.taken()
                socket = publisher.owner.socket
                while publisher.sent - publisher.answered < window and publisher.sent < most and socket is not None:
                    if socket.queued > QUEUED_BYTES:
                        held.append(publisher)
                        break
                    self._send(publisher, now_ns())
            return bool(due)

        return pace

    def _on_schedule(self, ramp: Ramp) -> Callable[[], bool]:
        """What is due by now, publishers in turn."""
        per_frame = self.options.per_frame
        schedule = Schedule(Ramp(ramp.begin / per_frame, ramp.end / per_frame, ramp.seconds))
        origin = now_ns()
        number = 0

        def pace() -> bool:
            nonlocal number
            now = now_ns()
            wanted = schedule.count((now - origin) / 1e9)
            sent = False
            while number < wanted:
                client = self.publishers[number % len(self.publishers)]
                if client.publisher is not None and client.socket is not None:
                    if client.socket.queued > QUEUED_BYTES:
                        break  # it stays due
                    due = origin + int(schedule.due(number) * 1e9)
                    self.late_ns = max(self.late_ns, now - due)
                    self._send(client.publisher, due)
                    sent = True
                number += 1
            return sent

        return pace

    def _send(self, publisher: Publisher, due_ns: int) -> None:
        payload = self._templates[publisher.number].make(publisher.sent, publisher.sent * publisher.per_publish, due_ns)
        publisher.note_sent(due_ns)
        publisher.owner.socket.send(payload)

    # the end

    def settle(self) -> None:
        """Wait for what is on its way: until all has come, or nothing comes any more."""
        seen, since = (-1, -1), time.monotonic()
        while True:
            self.turn(IDLE_WAIT_US)
            progress = (self.tally.delivered, sum(c.publisher.answered for c in self.publishers if c.publisher))
            if progress != seen:
                seen, since = progress, time.monotonic()
            if self._all_arrived() or time.monotonic() - since > STUCK_SECONDS:
                break
        self.take_times()

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
    """Raise the limit on open files as far as it may go. Raises: Unreachable, it is too low for so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_DESCRIPTORS
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise Unreachable(
                f"{wanted} connections need {needed} descriptors, the limit is {hard}: raise it (ulimit -n {needed})"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def cpu_seconds(pid: int | None = None) -> float:
    """CPU time that a process has used; this one, without a pid."""
    if pid is None:
        return time.process_time()
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
