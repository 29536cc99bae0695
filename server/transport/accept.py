"""Accepts plain connections: a batch at a time, the usual WebSocket without a task.

Entrance.poll -> (descriptor, head) -> parse_upgrade --Request--> on_websocket: into the plane
                                             +------ None ------> a task: HTTP, and anything unusual
              -> (descriptor, first bytes of TLS) --------------> a task; a newcomer until its head has arrived"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from ext.net.accept import Entrance
from ext.net.ws_upgrade import Request, parse_upgrade
from server.transport.newcomers import Newcomers

LOGGER = logging.getLogger("unbroken.entrance")

END_OF_HEAD = b"\r\n\r\n"
TOLD_SECONDS = 10.0  # between log lines about missing descriptors
STARVED_SECONDS = 0.1  # pause after running out of descriptors, until some may be free


@dataclass(frozen=True, slots=True)
class Handlers:
    """The handlers of incoming connections.

    Args:
        on_websocket: the usual upgrade: the descriptor, and the bytes after the head.
        on_other: serves a connection in a task, with all bytes received so far.
        on_post: an HTTP publisher's connection, or any connection with TLS; False: not taken.
        on_starved: called when there was no descriptor for a newcomer.
    """

    on_websocket: Callable[[Request, int, bytes], None]
    on_other: Callable[[trio.SocketStream, bytes], Awaitable[None]]
    on_post: Callable[[int, bytes], bool]
    on_starved: Callable[[], object]


async def run_entrance(
    entrance: Entrance,
    handlers: Handlers,
    connections: trio.Nursery,
    clock_ms: Callable[[], int],
    end_of_turn: Callable[[], object],
    head_bytes: int,
) -> None:
    """Accept connections until cancelled; then close those that have not sent their head yet.

    Args:
        connections: the nursery of connections served in tasks.
        end_of_turn: called after each batch.
        head_bytes: the limit of a head; ``on_other`` refuses longer ones.
    """
    told = -math.inf
    try:
        while True:
            await trio.lowlevel.wait_readable(entrance.fd)
            for descriptor, received in entrance.poll(clock_ms()):
                if not handlers.on_post(descriptor, received):
                    _pass_on(descriptor, received, head_bytes, handlers, connections)
            end_of_turn()
            if entrance.starved:
                told = _tell_starved(told)
                handlers.on_starved()
                entrance.pause()
                await trio.sleep(STARVED_SECONDS)
                entrance.resume()
    finally:
        entrance.stop()


def _tell_starved(told: float) -> float:
    """Log it, unless that was done a moment ago; returns the time of the latest log line."""
    now = trio.current_time()
    if now - told < TOLD_SECONDS:
        return told
    LOGGER.error("no descriptor is left for a new connection: raise the limit on open files (ulimit -n)")
    return now


async def run_patience(entrance: Entrance, newcomers: Newcomers, clock_ms: Callable[[], int]) -> None:
    """Drop connections that take too long to send their head. Runs until cancelled."""
    while True:
        await trio.sleep(1)
        newcomers.expire()
        entrance.expire(clock_ms())


def _pass_on(
    descriptor: int,
    received: bytes,
    head_bytes: int,
    handlers: Handlers,
    connections: trio.Nursery,
) -> None:
    end = received.find(END_OF_HEAD) + len(END_OF_HEAD)
    request = parse_upgrade(received[:end]) if len(END_OF_HEAD) <= end <= head_bytes else None
    if request is not None:
        try:
            handlers.on_websocket(request, descriptor, received[end:])
        except Exception:
            LOGGER.exception("a connection failed")
        return
    stream = stream_of(descriptor)
    if stream is not None:
        connections.start_soon(handlers.on_other, stream, received)


def stream_of(descriptor: int) -> trio.SocketStream | None:
    """The connected socket as a stream; None if the peer is gone and the socket was closed."""
    try:
        return trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))
    except OSError as gone:  # it was reset meanwhile
        LOGGER.debug("peer gone: %r", gone)
        if gone.errno != errno.EBADF:
            os.close(descriptor)
        return None
