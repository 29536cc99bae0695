"""How fast one reader catches up, from where: python -m bench.replay

    publisher --COUNT messages--> server          then, with a cursor before the first of them:

    frames kept   somebody follows the channel: its stream's frames are sent as they are
    ring          nobody does: frames are made of the ring's entries
    journal       a ring of 64 KiB: frames are made of the journal's blocks
    8 at once     eight readers of the journal
    another       publish to delivery in another channel, with nobody replaying and with one reader who always does

A process of the server for each; the server on the first core, all else on the last. Results go to
bench/results/replay.json."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import selectors
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import Server
from tests.wsclient import WsClient

RESULTS = Path(__file__).parent / "results" / "replay.json"
MARK = b'"action":15,'  # once in every delivery, and in nothing else
WINDOW = 256  # publishes in flight: blocks of the journal are as large as under load
TICKS = os.sysconf("SC_CLK_TCK")
LARGE_RING = "[limits]\nring_bytes_per_channel = 134217728\nring_entries_per_channel = 262144\n"
SMALL_RING = "[limits]\nring_bytes_per_channel = 65536\n"


@contextmanager
def served(config: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as directory:
        cores = os.sched_getaffinity(0)
        first, last = min(cores), max(cores)
        with Server(Path(directory), config=config, before_exec=lambda: os.sched_setaffinity(0, {first})) as server:
            os.sched_setaffinity(0, {last})
            try:
                yield server
            finally:
                os.sched_setaffinity(0, cores)


def fill(server: Server, channel: str, count: int) -> str:
    """Publish so many; the channelSerial of the first."""
    with WsClient(server.address) as publisher:
        sent = acked = 0
        first = ""
        while acked < count:
            while sent < count and sent - acked < WINDOW:
                batch = min(64, count - sent)
                publisher.pour(channel, *["x" * 128] * batch)
                sent += batch
            message = publisher.skip_to(1, 2)
            assert message["action"] == 1, message
            first = first or message["res"][0]["serials"][0].rpartition(":")[0]
            acked += message["count"]
    return first


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def replay(server: Server, channel: str, cursor: str, count: int, readers: int = 1) -> None:
    """Read everything after the cursor, so many readers at once."""
    clients = [WsClient(server.address) for _ in range(readers)]
    missing = dict.fromkeys(clients, count)
    tails = dict.fromkeys(clients, b"")
    buffer = bytearray(1 << 20)
    with selectors.DefaultSelector() as ready:
        for client in clients:
            client.socket.settimeout(None)
            ready.register(client.socket, selectors.EVENT_READ, client)
            client.send({"action": 10, "channel": channel, "channelSerial": cursor})
        while missing:
            for key, _ in ready.select(30) or timed_out():
                client = key.data
                size = client.socket.recv_into(buffer)
                assert size, "the server has closed the connection"
                piece = tails[client] + buffer[:size]
                missing[client] -= piece.count(MARK)
                tails[client] = piece[1 - len(MARK) :]
                if missing[client] <= 0:
                    assert missing[client] == 0, "more came than was stored"
                    ready.unregister(client.socket)
                    client.socket.close()
                    del missing[client]


def timed_out() -> list[tuple[selectors.SelectorKey, int]]:
    raise TimeoutError("nothing came for 30 s")


def measured(
    server: Server, channel: str, cursor: str, count: int, *, rounds: int, readers: int = 1
) -> dict[str, float]:
    """Medians: messages per second, and the server's time for each in us."""
    rates, costs = [], []
    for _ in range(rounds):
        cpu, begin = cpu_seconds(server.pid), time.perf_counter()
        replay(server, channel, cursor, count, readers)
        took = time.perf_counter() - begin
        rates.append(count * readers / took)
        costs.append((cpu_seconds(server.pid) - cpu) / count / readers * 1e6)
    return {"per_second": round(statistics.median(rates)), "server_us": round(statistics.median(costs), 2)}


def delays(server: Server, count: int) -> dict[str, float]:
    """Publish to delivery in a channel of its own, in ms."""
    found = []
    with WsClient(server.address) as publisher, WsClient(server.address) as subscriber:
        subscriber.attach("another")
        for _ in range(count):
            begin = time.perf_counter()
            publisher.pour("another", "x" * 128)
            subscriber.skip_to(15)
            found.append((time.perf_counter() - begin) * 1e3)
            time.sleep(0.002)
    found.sort()
    return {"p50_ms": round(found[len(found) // 2], 2), "p99_ms": round(found[len(found) * 99 // 100], 2)}


def always(server: Server, channel: str, cursor: str, count: int) -> None:
    while True:
        replay(server, channel, cursor, count)


def run(count: int, rounds: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}

    def note(what: str, result: dict[str, float]) -> None:
        found[what] = result
        print(f"{what:28}", "  ".join(f"{name} {value:,}" for name, value in result.items()), flush=True)

    print(f"{count:,} messages of 128 bytes, medians of {rounds}", flush=True)
    with served(LARGE_RING) as server:
        cursor = fill(server, "room", count)  # a reader's stream begins at the head: what lies before it has no frames
        note("ring", measured(server, "room", cursor, count - 1, rounds=rounds))
        with WsClient(server.address) as follower:
            follower.attach("kept")
            follower.send({"action": 12, "channel": "kept"})
            cursor = fill(server, "kept", count)
            note("frames kept", measured(server, "kept", cursor, count - 1, rounds=rounds))
    with served(SMALL_RING) as server:
        cursor = fill(server, "room", count)
        note("journal", measured(server, "room", cursor, count - 1, rounds=rounds))
        note("journal, 8 at once", measured(server, "room", cursor, count - 1, rounds=rounds, readers=8))
        note("another, nobody replays", delays(server, 500))
        other = multiprocessing.Process(target=always, args=(server, "room", cursor, count - 1), daemon=True)
        other.start()
        try:
            time.sleep(0.5)
            note("another, one replays", delays(server, 500))
        finally:
            other.kill()
            other.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures replays of a real server.")
    parser.add_argument("--count", type=int, default=100_000, help="messages stored, and read by each reader")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found = run(arguments.count, arguments.rounds)
    RESULTS.write_text(json.dumps({"count": arguments.count, "rounds": arguments.rounds, **found}, indent=2) + "\n")
    print(f"written: bench/results/{RESULTS.name}")


if __name__ == "__main__":
    main()
