"""Rounds in which everything goes wrong that may go wrong, and after each the question whether anything was lost.

    publishers   two, who send again what was not answered
    subscribers  quick ones and slow ones, each through a proxy that cuts all connections again and again,
                 in the middle of a frame (or a record), at any moment
    the server   is killed, and started again

All of them resume; then the logs of the round are held against each other (tests/checker.py). A round has a channel of
its own, so rounds may go on for longer than anything is held."""

from __future__ import annotations

import random
import ssl
import time
from typing import Any

from tests.checker import Report
from tests.harness import Server, history
from tests.proxy import ChaosProxy
from tests.returning import Publisher, Subscriber, marks_of, settle_and_check

QUICK, SLOW = 2, 3
RATE = 400  # messages a second of one publisher, at most
PADDING = "." * 1500  # a backlog of a second is several batches of a replay
CUT_SECONDS = (0.05, 0.4)  # between two cuts
SLOW_SECONDS = 0.004  # for each message: half of what comes
SLOW_BUFFER = 16 * 1024


def upheaval(
    server: Server, channel: str, *, seconds: float, kills: int, seed: int, tls: ssl.SSLContext | None = None
) -> Report:
    """One round of so many seconds and a little more. Raises: AssertionError, somebody could not go on."""
    random_ = random.Random(seed)
    options: dict[str, Any] = {} if tls is None else {"tls": tls}
    proxy = ChaosProxy(server.address)
    try:
        count = int(RATE * seconds / 2)
        publishers = [
            Publisher(
                f"p{n}",
                proxy.address,
                channel,
                count=count,
                ids=True,
                padding=PADDING,
                pace_seconds=1 / RATE,
                **options,
            )
            for n in range(2)
        ]
        subscribers = [
            Subscriber(f"quick{n}", proxy.address, channel, format=("json", "msgpack")[n % 2], **options)
            for n in range(QUICK)
        ] + [
            Subscriber(
                f"slow{n}",
                proxy.address,
                channel,
                format=("json", "msgpack")[n % 2],
                pace_seconds=SLOW_SECONDS,
                receive_buffer=SLOW_BUFFER,
                **options,
            )
            for n in range(SLOW)
        ]
        for subscriber in subscribers:
            subscriber.start()
        for subscriber in subscribers:
            assert subscriber.attached.wait(20), f"{subscriber.name} could not attach: {subscriber.failure!r}"
        for publisher in publishers:
            publisher.start()
        begin = time.monotonic()
        dues = [begin + seconds * (n + 1) / (kills + 1) for n in range(kills)]
        while any(publisher.is_alive() for publisher in publishers) and time.monotonic() < begin + 4 * seconds:
            if dues and time.monotonic() >= dues[0]:
                del dues[0]
                server.restart()
            if random_.random() < 0.5:
                proxy.cut()
            else:
                proxy.cut_after(downstream=random_.randrange(1, 300_000))
            time.sleep(random_.uniform(*CUT_SECONDS))
        proxy.cut_after()
        for subscriber in subscribers:
            subscriber.pace_seconds = 0.0
        return settle_and_check(
            server.address,
            channel,
            publishers,
            subscribers,
            stored=lambda: marks_of(history(server.address, channel, tls=tls)),
        )
    finally:
        proxy.close()
