"""Connections that come, and go without having said who they are: python -m bench.newcomers

    kinds     aborted    a ClientHello, the server's answer, a reset          150,000 (--count) of them, none left open
              https      GET /time and an orderly end, over TLS
              refused    a WebSocket with a key that does not exist, over TLS
              silent     5,000 (--silent) connections over which nothing comes, TLS

    memory    of the server, before, at the height, and 5 s after
    delay     publish to delivery of one client who is there meanwhile, complete and in order

The attackers are processes of their own. Results go to bench/results/newcomers.json."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests import certificates
from tests.canary import Canary
from tests.harness import Address, Server, rss
from tests.peer import Peer, upgrade

RESULTS = Path(__file__).parent / "results" / "newcomers.json"
ATTACKERS = 2
TOGETHER = 100  # that one attacker has open at the same time
SETTLE_SECONDS = 5.0
CLOSING = b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def client_hello(context: ssl.SSLContext) -> bytes:
    """What a client says first; the same bytes serve any number of times."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def abort_handshakes(address: Address, count: int, hello: bytes) -> None:
    """So many, some at a time."""
    while count > 0:
        some = []
        with contextlib.suppress(OSError):
            for _ in range(min(TOGETHER, count)):
                some.append(Peer(address))
                some[-1].send(hello)
            for one in some:
                one.read()
        for one in some:
            one.reset()
        count -= len(some)


def _ask(address: Address, count: int, authority: bytes, request: bytes) -> None:
    context = ssl.create_default_context(cadata=authority.decode())
    for _ in range(count):
        with contextlib.suppress(OSError), Peer(address, context) as one:
            one.send(request)
            one.rest()


@contextlib.contextmanager
def attackers(work: Callable[..., None], address: Address, count: int, *arguments: object):  # type: ignore[no-untyped-def]
    """Processes that do this; what is yielded waits for their end. Left early, they are ended."""
    context = multiprocessing.get_context("spawn")
    shares = [count // ATTACKERS] * ATTACKERS
    processes = [context.Process(target=work, args=(address, share, *arguments), daemon=True) for share in shares]
    for process in processes:
        process.start()
    try:
        yield lambda: [process.join() for process in processes]
    finally:
        for process in processes:
            process.terminate()
            process.join()


@dataclass(frozen=True, slots=True)
class Found:
    kind: str
    count: int
    seconds: float
    before_mb: float
    height_mb: float
    after_mb: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    heard: int  # messages of the one who is there meanwhile


def measured(kind: str, count: int) -> Found:
    authority = certificates.authority()
    with tempfile.TemporaryDirectory() as directory, Server(Path(directory), arguments=authority.arguments) as server:
        before = height = rss(server.pid)
        begin = time.monotonic()
        with Canary(server.address, tls=authority.client) as canary:
            if kind == "silent":
                crowd = []
                for _ in range(count):
                    crowd.append(Peer(server.address))
                height = rss(server.pid)
                time.sleep(SETTLE_SECONDS)
                for one in crowd:
                    one.close()
            else:
                with attackers(*_work(kind, server.address, count, authority)):
                    while multiprocessing.active_children():
                        height = max(height, rss(server.pid))
                        time.sleep(0.1)
        seconds = time.monotonic() - begin
        time.sleep(SETTLE_SECONDS)
        after = rss(server.pid)
        assert not server.complaints(), server.complaints()
    delays = [1e3 * delay for delay in sorted(canary.delays)]
    return Found(
        kind,
        count,
        round(seconds, 1),
        *(round(each / 1e6, 1) for each in (before, max(height, after), after)),
        *(round(each, 2) for each in (delays[len(delays) // 2], 1e3 * canary.p99(), delays[-1])),
        len(delays),
    )


def _work(kind: str, address: Address, count: int, authority: certificates.Authority):  # type: ignore[no-untyped-def]
    if kind == "aborted":
        return abort_handshakes, address, count, client_hello(authority.client)
    request = CLOSING if kind == "https" else upgrade(key="no.such:key")
    return _ask, address, count, authority.root, request


def main() -> int:
    parser = argparse.ArgumentParser(description="Newcomers by the thousand, what they leave, and what others notice.")
    parser.add_argument("--count", type=int, default=150_000, help="aborted handshakes; of the others a tenth of that")
    parser.add_argument("--silent", type=int, default=5_000)
    arguments = parser.parse_args()
    found = []
    sizes = {"aborted": arguments.count, "https": arguments.count // 10, "refused": arguments.count // 10}
    for kind, count in (sizes | {"silent": arguments.silent}).items():
        found.append(measured(kind, count))
        print(found[-1], flush=True)
    RESULTS.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
