"""TLS for the load tester: a thread relays bytes between each TLS connection and one end of a local socket pair.

    plane <--plain--> socketpair <--relay, a trio task each--> TLS <--> server

So the rest of the load tester is the same for wss:// and ws://. The thread costs CPU on this side, and the report says
so."""

from __future__ import annotations

import socket
import ssl
import threading
from queue import SimpleQueue

import trio

from server.bench.target import Target

CHUNK = 64 * 1024


class Relay:
    """A thread for all TLS connections of a run."""

    def __init__(self, target: Target) -> None:
        assert target.context is not None
        self._target, self._context = target, target.context
        self.failures: SimpleQueue[str] = SimpleQueue()  # why connections could not be made
        started: SimpleQueue[trio.lowlevel.TrioToken] = SimpleQueue()
        self._thread = threading.Thread(target=trio.run, args=(self._run, started), name="tls", daemon=True)
        self._thread.start()
        self._token = started.get()

    def connect(self) -> socket.socket:
        """The near end of a new connection; it does not block. Sent bytes wait for TLS."""
        near, far = socket.socketpair()
        near.setblocking(False)
        self._token.run_sync_soon(self._nursery.start_soon, self._carry, far)
        return near

    def close(self) -> None:
        self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        self._thread.join()

    async def _run(self, started: SimpleQueue[trio.lowlevel.TrioToken]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            started.put(trio.lowlevel.current_trio_token())
            await trio.sleep_forever()

    async def _carry(self, far: socket.socket) -> None:
        local = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        async with local:
            try:
                raw = await trio.open_tcp_stream(str(self._target.address[0]), self._target.port)
                secure = trio.SSLStream(raw, self._context, server_hostname=self._target.host, https_compatible=True)
                async with secure, trio.open_nursery() as pair:
                    pair.start_soon(_copy, local, secure, pair)
                    pair.start_soon(_copy, secure, local, pair)
            except* (OSError, ssl.SSLError, trio.BrokenResourceError, trio.ClosedResourceError) as gone:
                self.failures.put(str(gone.exceptions[0]))


async def _copy(source: trio.abc.ReceiveStream, to: trio.abc.SendStream, pair: trio.Nursery) -> None:
    while data := await source.receive_some(CHUNK):
        await to.send_all(data)
    pair.cancel_scope.cancel()
