"""The WebSocket handshake for unusual requests, by trio-websocket, over an in-memory stream.

    head --HeadStream--> trio-websocket --101--> HeadStream: the answer, for the connection's new owner
                                        --else-> nothing: the caller refuses it, with a body

So a dedicated library checks the handshake, but frames never pass through it. Errors with a clear explanation have been
reported before (server/http/heads.py)."""

from __future__ import annotations

from dataclasses import dataclass

import trio
from trio_websocket import ConnectionClosed, wrap_server_stream


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An accepted WebSocket request."""

    target: str
    headers: dict[str, str]


class HeadStream(trio.abc.Stream):
    """Provides one request head for reading, and keeps the bytes written. Closing it closes nothing."""

    def __init__(self, head: bytes, refused: trio.CancelScope) -> None:
        self.answer = b""
        self._head = head
        self._refused = refused

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._head:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint_if_cancelled()  # nothing to wait for
        most = len(self._head) if max_bytes is None else max_bytes
        data, self._head = self._head[:most], self._head[most:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.answer += data
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """The library gives up: the request is not valid."""
        self._refused.cancel()
        await trio.lowlevel.checkpoint()


async def shake_hands(head: bytes) -> tuple[Upgrade, bytes] | None:
    """The request, and the answer to send, with 101; None if the library refuses it."""
    granted: tuple[Upgrade, bytes] | None = None
    try:
        async with trio.open_nursery() as nursery:
            head_stream = HeadStream(head, nursery.cancel_scope)
            request = await wrap_server_stream(nursery, head_stream, receive_buffer_size=None)
            await request.accept()
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.headers}
            granted = Upgrade(request.path, headers), head_stream.answer
            nursery.cancel_scope.cancel()
    except* ConnectionClosed:
        granted = None
    return granted
