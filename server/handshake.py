"""The WebSocket handshake: trio-websocket's, over a stream that gives it the request head and not a byte more.

    peer --head--> HeadStream --> trio-websocket --> 101 --> peer
    peer --more--> kept aside, for whoever takes the connection over (the plane)

So the handshake is checked by a library that is nothing but that, and the frames never pass through it."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from trio_websocket import ConnectionClosed, wrap_server_stream


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request to become a WebSocket, granted."""

    target: str
    headers: dict[str, str]


class HeadStream(trio.abc.Stream):
    """Gives one request head to read; passes on what is written. Closing it closes nothing."""

    def __init__(self, stream: trio.abc.Stream, head: bytes, refused: trio.CancelScope) -> None:
        self._stream = stream
        self._head = head
        self._refused = refused

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._head:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint_if_cancelled()  # it has been waited for already
        most = len(self._head) if max_bytes is None else max_bytes
        data, self._head = self._head[:most], self._head[most:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """The library gives up: the request was none (it has answered with a 4xx by now)."""
        self._refused.cancel()
        await trio.lowlevel.checkpoint()


def wants_upgrade(head: bytes) -> bool:
    """Is it worth asking the WebSocket library? It decides; this only keeps plain HTTP away from it."""
    lowered = head.lower()
    return b"\r\nupgrade:" in lowered and b"websocket" in lowered


async def shake_hands(stream: trio.abc.Stream, head: bytes) -> Upgrade | None:
    """Answer the request with 101, or as the library sees fit; None: it was refused, and the peer has been told.

    None also when the peer goes away meanwhile. If cancelled, it may have got a part of the answer; the stream is of no
    further use.
    """
    upgrade: Upgrade | None = None
    try:
        async with trio.open_nursery() as nursery:
            head_stream = HeadStream(stream, head, nursery.cancel_scope)
            request = await wrap_server_stream(nursery, head_stream, receive_buffer_size=None)
            await request.accept()
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.headers}
            upgrade = Upgrade(request.path, headers)
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
        upgrade = None
    return upgrade
