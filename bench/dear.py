"""What little requests can cost: python -m bench.dear [--scale 0.1] [--only NAME ...] [--tls] [--tree DIRECTORY]

For each kind of dear request: how long the loop was held at a time, what a canary met meanwhile (bench/canary.py), how
long all of them took, and the server's memory before, at its height, and after. Servers are of this tree, or of another
one, to compare."""

from __future__ import annotations

import argparse
import base64
import http.client
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.canary import Canary, Delays, unverified
from tests.certificates import authority
from tests.harness import KEY, Server, rss
from tests.wsclient import WsClient

AUTHORIZATION = "Basic " + base64.b64encode(KEY.encode()).decode()
LIMITS = "ring_entries_per_channel = 4096\nchannels_per_connection = 100000"
DEEP, WIDE = "kept:deep", "wide"
PATIENCE = 300.0
TLS_PIECE = 500  # ATTACHes with one send, whose answers fit into what sockets hold


@dataclass(frozen=True)
class Found:
    """Of one kind."""

    seconds: float
    holds: list[tuple[float, float, str]]  # ms of CPU, ms by the clock, and task; the longest first
    canary: Delays
    memory: tuple[int, int, int]

    def __str__(self) -> str:
        longest = ", ".join(f"{cpu:.1f} ({ms:.1f}) {task.rpartition('.')[2]}" for cpu, ms, task in self.holds[:3])
        before, height, after = (round(size / 1e6) for size in self.memory)
        return (
            f"{self.seconds:6.1f} s   holds [ms CPU (ms)]: {longest or 'none'}\n         canary: {self.canary}\n"
            f"         memory [MB]: {before} before, {height} at the height, {after} after"
        )


class Bench:
    """A server, and those who ask it."""

    def __init__(self, directory: Path, tree: Path, scale: float, *, tls: bool) -> None:
        self.scale = scale
        self.holds_file = directory / "holds"
        self.context = unverified() if tls else None
        starter = directory / "unbroken"
        starter.write_text(
            f"#!{sys.executable}\nimport runpy, sys\nsys.path.insert(0, {str(tree)!r})\n"
            "sys.meta_path[:] = [each for each in sys.meta_path if 'Editable' not in getattr(each, '__name__', '')]\n"
            f"sys.argv[1:1] = [{str(self.holds_file)!r}]\n"
            f"runpy.run_path({str(Path(__file__).with_name('held.py'))!r}, run_name='__main__')\n"
        )
        starter.chmod(0o755)
        arguments = authority().arguments if tls else ()
        spaces = '[namespaces.kept]\npersisted_hours = 24\n[namespaces.quick]\ndurability = "memory"\n'
        config = f"[limits]\n{LIMITS}\n{spaces}"
        self.server = Server(directory, config=config, arguments=arguments, executable=starter)

    def count(self, number: int) -> int:
        return max(1, round(number * self.scale))

    def client(self) -> WsClient:
        return WsClient(self.server.address, tls=self.context, patience=PATIENCE)

    def fill(self, channel: str, publishes: int, *, messages: int = 1, size: int = 100) -> None:
        """So many publishes of so many messages each."""
        batch = max(1, min(500, 200_000 // (messages * size)))
        with self.client() as client:
            members = [{"data": "x" * size}] * messages
            for at in range(0, publishes, batch):
                some = min(batch, publishes - at)
                client.send(
                    *(
                        {"action": 15, "channel": channel, "msgSerial": client.next_serial + n, "messages": members}
                        for n in range(some)
                    )
                )
                client.next_serial += some
                while some:
                    answer = client.skip_to(1, 2)
                    assert answer["action"] == 1, answer
                    some -= answer["count"]

    def touch(self, channels: list[str]) -> None:
        """One message to each."""
        with self.client() as client:
            for at in range(0, len(channels), 500):
                some = channels[at : at + 500]
                client.send(
                    *(
                        {
                            "action": 15,
                            "channel": name,
                            "msgSerial": client.next_serial + n,
                            "messages": [{"data": "x"}],
                        }
                        for n, name in enumerate(some)
                    )
                )
                client.next_serial += len(some)
                missing = len(some)
                while missing:
                    missing -= client.skip_to(1, 2)["count"]

    def get(self, path: str) -> bytes:
        """The body of an answer with 200."""
        address = self.server.address
        connection = (
            http.client.HTTPConnection(*address, timeout=PATIENCE)
            if self.context is None
            else http.client.HTTPSConnection(*address, timeout=PATIENCE, context=self.context)
        )
        try:
            connection.request("GET", path, headers={"Authorization": AUTHORIZATION})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, (response.status, body[:500])
            return body
        finally:
            connection.close()

    @contextmanager
    def connected(self, count: int) -> Iterator[list[WsClient]]:
        with ExitStack() as stack:
            yield [stack.enter_context(self.client()) for _ in range(count)]

    def measure(self, ask: Callable[[], object]) -> Found:
        before = height = rss(self.server.pid)
        over = threading.Event()

        def watch() -> None:
            nonlocal height
            while not over.wait(0.02):
                height = max(height, rss(self.server.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        with Canary(self.server.address, tls=self.context is not None) as canary:
            time.sleep(0.3)
            self.holds_file.write_text("")
            begun = time.monotonic()
            ask()
            seconds = time.monotonic() - begun
            delays = canary.stop()
        over.set()
        watcher.join()
        lines = [line.split(" ", 2) for line in self.holds_file.read_text().splitlines()]
        holds = sorted(((float(cpu), float(ms), task) for ms, cpu, task in lines), reverse=True)
        return Found(seconds, holds, delays, (before, height, rss(self.server.pid)))


def at_once(works: list[Callable[[], object]]) -> None:
    """Each in a thread of its own. Raises: what the first of them raised."""
    failures: list[BaseException] = []

    def one(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def attach(client: WsClient, names: list[str], **fields: object) -> None:
    """All of them with one send; until each is answered.

    Over TLS in pieces: a TLS socket of Python is not for two threads; now and then its ``recv`` says that it has ended.
    """
    attaches = [{"action": 10, "channel": name, **fields} for name in names]
    if isinstance(client.socket, ssl.SSLSocket):
        for at in range(0, len(attaches), TLS_PIECE):
            client.send(*attaches[at : at + TLS_PIECE])
            _answered(client, len(attaches[at : at + TLS_PIECE]))
        return
    burst = threading.Thread(target=client.send, args=attaches, daemon=True)
    burst.start()
    _answered(client, len(attaches))
    burst.join()


def _answered(client: WsClient, count: int) -> None:
    for _ in range(count):
        answer = client.skip_to(11, 9)
        assert answer["action"] == 11, answer


def giant_rewinds(bench: Bench) -> Callable[[], None]:
    """Of one deep channel, from a hundred connections that don't read what follows."""
    bench.fill(DEEP, bench.count(200_000))
    clients = [bench.client() for _ in range(100)]

    def ask() -> None:
        for client in clients:
            client.send({"action": 10, "channel": DEEP, "params": {"rewind": "999999999"}})
        for client in clients:
            assert client.skip_to(11, 9)["action"] == 11
        for client in clients:
            client.socket.close()

    return ask


def many_rewinds(bench: Bench) -> Callable[[], None]:
    """Each of a channel of its own, beyond its ring."""
    names = [f"kept:deep-{n}" for n in range(40)]
    for name in names:
        bench.fill(name, bench.count(20_000))
    clients = [bench.client() for _ in names]

    def ask() -> None:
        for client, name in zip(clients, names, strict=True):
            client.send({"action": 10, "channel": name, "params": {"rewind": "999999999"}})
        for client in clients:
            assert client.skip_to(11, 9)["action"] == 11
        for client in clients:
            client.socket.close()

    return ask


def rewinds_in_a_burst(bench: Bench) -> Callable[[], None]:
    """400 ATTACHes of one connection, each of a channel with some thousand messages in memory."""
    names = [f"quick:ring-{n}" for n in range(400)]
    for name in names:
        bench.fill(name, bench.count(4000), size=30)
    client = bench.client()
    return lambda: attach(client, names, params={"rewind": "3000"})


def attaches_in_a_burst(bench: Bench) -> Callable[[], None]:
    """10,000 of one connection."""
    client = bench.client()
    return lambda: attach(client, [f"burst-{n}" for n in range(bench.count(10_000))])


def attaches_of_many(bench: Bench) -> Callable[[], None]:
    """A thousand of each of forty connections, on channels that are awake."""
    names = [f"shared-{n}" for n in range(1000)]
    bench.touch(names)
    clients = [bench.client() for _ in range(bench.count(40))]
    return lambda: at_once([lambda client=client: attach(client, names) for client in clients])  # type: ignore[misc]


def waking(bench: Bench) -> Callable[[], None]:
    """Twenty connections attach to the same thousands of channels, which are asleep."""
    names = [f"sleeper-{n}" for n in range(bench.count(3000))]
    bench.touch(names)
    bench.server.restart()
    clients = [bench.client() for _ in range(20)]
    return lambda: at_once([lambda client=client: attach(client, names) for client in clients])  # type: ignore[misc]


def resumes(bench: Bench) -> Callable[[], None]:
    """Cursors that the ring no longer has."""
    with bench.client() as client:
        attach(client, ["kept:resumed"])
        client.pour("kept:resumed", "first")
        cursor = client.skip_to(15)["channelSerial"]
    bench.fill("kept:resumed", 10_000)
    clients = [bench.client() for _ in range(bench.count(400))]

    def ask() -> None:
        for client in clients:
            client.send({"action": 10, "channel": "kept:resumed", "channelSerial": cursor})
        for client in clients:
            assert client.skip_to(11, 9)["action"] == 11
        for client in clients:
            client.socket.close()

    return ask


def pages(bench: Bench) -> Callable[[], None]:
    """The longest pages of history, with odd bounds, and pages of the largest messages."""
    bench.fill("kept:long", bench.count(100_000))
    bench.fill("kept:large", 200, size=60_000)
    bench.fill("quick:long", 4000)
    long, large, quick = (f"/channels/{name}/messages" for name in ("kept:long", "kept:large", "quick:long"))
    now = int(time.time() * 1000)
    queries = [f"{long}?limit=1000", f"{long}?limit=1000&direction=forwards", f"{long}?start=0&end=1&limit=1000"]
    queries += [f"{long}?start={now + 10**6}&direction=forwards", f"{large}?limit=1000", f"{quick}?limit=1000"]
    queries += [f"{quick}?limit=1000&direction=forwards", f"{large}?limit=1000&direction=forwards"]
    return lambda: at_once([lambda path=path: bench.get(path) for path in queries * bench.count(20)])  # type: ignore[misc]


def enumerations(bench: Bench) -> Callable[[], None]:
    """Pages of all the channels that are in use."""
    bench.touch([f"quick:{n:07}" for n in range(bench.count(1_000_000))])
    queries = ["/channels?limit=1000", "/channels?limit=1000&by=value", "/channels?prefix=quick:00000&limit=10"]
    queries += ["/channels?limit=1000&cursor=quick:0005000", "/channels?prefix=nothing"]
    return lambda: at_once([lambda path=path: bench.get(path) for path in queries * 10])  # type: ignore[misc]


KINDS = {
    kind.__name__: kind
    for kind in (
        giant_rewinds,
        many_rewinds,
        rewinds_in_a_burst,
        attaches_in_a_burst,
        attaches_of_many,
        waking,
        resumes,
        pages,
        enumerations,
    )
}


def run(kind: Callable[[Bench], Callable[[], None]], tree: Path, scale: float, *, tls: bool) -> Found:
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), tree, scale, tls=tls)
        with bench.server:
            found = bench.measure(kind(bench))
        complaints = bench.server.complaints()
        assert not complaints, complaints
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what dear requests cost everybody else.")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of messages, channels and requests")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[1], help="with the server to be measured")
    parser.add_argument("--json", type=Path, help="where to write what was found")
    arguments = parser.parse_args()
    document = {}
    for name in arguments.only:
        try:
            found = run(KINDS[name], arguments.tree, arguments.scale, tls=arguments.tls)
        except (OSError, AssertionError) as error:  # that too is a result
            print(f"{name}: {error!r:.500}", flush=True)
            continue
        document[name] = found
        print(f"{name}: {(KINDS[name].__doc__ or '').partition(chr(10))[0]}\n{found}", flush=True)
    if arguments.json is not None:
        arguments.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
