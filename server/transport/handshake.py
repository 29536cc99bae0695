"""The WebSocket handshake where the request is an unusual one: trio-websocket's, over a stream that is none.

    head --HeadStream--> trio-websocket --101--> HeadStream: the answer, for whoever takes the connection over
                                        --else-> nothing: the caller says that it is refused, with a body

So the handshake is judged by a library that is nothing but that, and the frames never pass through it. What can be said
about a request in plain words has been by then (server/http/heads.py)."""

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
    """Gives one request head to read, and keeps what is written. Closing it closes nothing."""

    def __init__(self, head: bytes, refused: trio.CancelScope) -> None:
        self.answer = b""
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
        self.answer += data
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """The library gives up: the request was none."""
        self._refused.cancel()
        await trio.lowlevel.checkpoint()


async def shake_hands(head: bytes) -> tuple[Upgrade, bytes] | None:
    """What was asked, and the answer to be sent, with 101; None: the library refuses it."""
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
