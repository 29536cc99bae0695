"""What the server's memory goes to: python -m bench.memory

    connection     idle, attached to one channel that all share
    attachment     each beyond a connection's first, to channels that are there already
    channel        each had one message, and then its window passed: at its peak, and what has stayed
    message        128 bytes, in the ring (durability memory, so that no memtable is in the way)
    id             of a message that the ring has let go, still known as a repeat

For each a server process of its own; what counts is the growth of its resident memory, after a first helping that
brings in what is needed once. Sockets' memory in the kernel is not in it. Results go to bench/results/memory.json, and
with matplotlib (the extra ``bench``) to memory.png. What crowds can make it hold: bench.pressure."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.drawing import plotting
from tests.harness import Server, rss
from tests.peer import PING, frame
from tests.wsclient import WsClient

RESULTS = Path(__file__).parent / "results"
WINDOW_SECONDS = 20
WINDOWS = ("window_seconds", "connection_state_seconds")
BATCH = 500  # publishes sent before their ACKs are waited for


@contextmanager
def served(*limits: str, durability: str = "memory") -> Iterator[Server]:
    config = "\n".join(["[limits]", *(f"{name} = {WINDOW_SECONDS}" for name in WINDOWS), *limits]) + "\n"
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(Path(directory), config=config, arguments=["--durability", durability]) as server,
    ):
        yield server


def settled(server: Server) -> int:
    """Its resident bytes, once they have stopped falling."""
    before = rss(server.pid)
    while True:
        time.sleep(0.5)
        now = rss(server.pid)
        if now >= before - 64 * 1024:
            return now
        before = now


def publish(client: WsClient, channels: list[str]) -> None:
    """One message of 128 bytes to each."""
    for at in range(0, len(channels), BATCH):
        some = channels[at : at + BATCH]
        client.send(
            *(
                {"action": 15, "channel": name, "msgSerial": client.next_serial + n, "messages": [{"data": "x" * 128}]}
                for n, name in enumerate(some)
            )
        )
        client.next_serial += len(some)
        missing = len(some)
        while missing:
            answer = client.skip_to(1, 2)
            assert answer["action"] == 1, answer
            missing -= answer["count"]


def attach(client: WsClient, names: list[str]) -> None:
    for at in range(0, len(names), BATCH):
        client.send(*({"action": 10, "channel": name} for name in names[at : at + BATCH]))
        for _ in names[at : at + BATCH]:
            client.skip_to(11)


def per_connection(count: int) -> float:
    with served() as server, ExitStack() as stack:

        def connect(more: int) -> None:
            for _ in range(more):
                attach(stack.enter_context(WsClient(server.address)), ["room"])

        connect(200)
        before = settled(server)
        connect(count)
        return (settled(server) - before) / count


def per_attachment(connections: int, channels: int) -> float:
    names = [f"room-{n}" for n in range(channels)]
    with served() as server, ExitStack() as stack:
        clients = [stack.enter_context(WsClient(server.address)) for _ in range(connections + 1)]
        attach(clients[0], names)
        before = settled(server)
        for client in clients[1:]:
            attach(client, names)
        return (settled(server) - before) / (connections * channels)


def per_message(count: int) -> tuple[float, float]:
    """In the ring with its id; the id alone, which outlives it there."""
    grown = []
    for ring in ("ring_bytes_per_channel = 1073741824", "ring_bytes_per_channel = 4096"):
        with served(ring, "ring_entries_per_channel = 1048576") as server, WsClient(server.address) as client:
            publish(client, ["room"] * 10_000)
            before = rss(server.pid)  # at once: what is held is held for a window only
            publish(client, ["room"] * count)
            grown.append((rss(server.pid) - before) / count)
    return grown[0], grown[1]


def channels_come_and_go(count: int, durability: str) -> dict[str, object]:
    """Bytes for each channel while all are awake, and when all have gone; the total over time."""
    with served(durability=durability) as server, WsClient(server.address) as client:
        publish(client, [f"warm-{n}" for n in range(1000)])
        start, begin = settled(server), time.monotonic()
        course = [(0.0, start)]

        def note(what: str) -> int:
            course.append((round(time.monotonic() - begin, 1), rss(server.pid)))
            print(f"\r    {course[-1][0]:6.1f} s  {course[-1][1] / 1e6:8.1f} MB  {what:40}", end="", flush=True)
            return course[-1][1]

        for at in range(0, count, 10_000):
            publish(client, [f"room-{n}" for n in range(at, min(at + 10_000, count))])
            note(f"{at:,} channels")
        published, peak = time.monotonic(), note("all")
        lowest, since = peak, time.monotonic()
        while time.monotonic() - since < 3 * WINDOW_SECONDS or time.monotonic() - published < 4 * WINDOW_SECONDS:
            time.sleep(1)
            client.write(frame(PING))  # we are here
            now = note("waiting for them to go")
            if now < lowest - 1e6:
                lowest, since = now, time.monotonic()
        print()
        return {
            "awake": round((max(size for _, size in course) - start) / count),
            "gone": round((course[-1][1] - start) / count, 1),
            "seconds_to_go": round(since - published),
            "course": course,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what the server's memory goes to.")
    parser.add_argument("--connections", type=int, default=5_000)
    parser.add_argument("--channels", type=int, default=1_000_000)
    parser.add_argument("--messages", type=int, default=300_000)
    parser.add_argument("--durability", choices=("synced", "written", "memory"), default="synced", help="of channels")
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = arguments.connections + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        parser.error(f"{needed} descriptors are needed, {hard} are allowed: see ulimit -n, or fewer --connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))

    found: dict[str, object] = {}

    def note(what: str, size: float) -> None:
        found[what] = round(size)
        print(f"{what:32} {size:10,.0f} bytes", flush=True)

    note("connection", per_connection(arguments.connections))
    note("attachment", per_attachment(20, 1000))
    message, message_id = per_message(arguments.messages)
    note("message with its id", message)
    note("id alone", message_id)
    come = channels_come_and_go(arguments.channels, arguments.durability)
    note("channel awake, one message", float(str(come["awake"])))
    note("channel gone", float(str(come["gone"])))
    print(f"{'until they had gone':32} {come['seconds_to_go']:10} s after the last publish, window {WINDOW_SECONDS} s")
    result = {"window_seconds": WINDOW_SECONDS, "channels": arguments.channels, **found, **come}
    (RESULTS / "memory.json").write_text(json.dumps(result) + "\n")
    with plotting(RESULTS / "memory.png") as axes:
        if axes is not None:
            course = come["course"]
            assert isinstance(course, list)
            axes.plot([at for at, _ in course], [size / 1e6 for _, size in course])
            axes.set(
                title=f"{arguments.channels:,} channels with a message each, then silence",
                xlabel="seconds",
                ylabel="resident memory, MB",
                ylim=(0, None),
            )
            axes.axhline(course[0][1] / 1e6, linestyle=":", label="before")
            axes.legend()


if __name__ == "__main__":
    main()
