"""The server's side of a TLS connection, over OpenSSL's memory buffers.

    peer --records--> raw --> incoming | SSLObject | read  --> receive_some
    peer <--records-- raw <-- outgoing | SSLObject | write <-- send_all

Two tasks may use it, one that receives and one that sends. A WebSocket goes on to the plane, with its cipher. It
replaces trio's ``SSLStream``, which is a reference cycle (it holds a bound method of its own) and stays in memory, with
everything that OpenSSL allocates, until a full collection. This one is freed when its connection ends. And a crowd of
handshakes leaves other tasks their turn."""

from __future__ import annotations

import socket
import ssl
from contextlib import AbstractContextManager, suppress

import trio

from ext.net.cipher import Cipher

RECORD_BYTES = 16 * 1024  # the most that one record carries; a memory buffer keeps its largest size
RECEIVE_BYTES = RECORD_BYTES + 512  # a whole record, with what TLS adds to it


class TlsStream(trio.abc.HalfCloseableStream):
    """One connection; ``handshake`` comes first.

    Raises (each method): trio.BrokenResourceError, if the peer is gone or violates the protocol.
    """

    def __init__(self, raw: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.transport_stream = raw
        self._context = context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None  # from the first step of the handshake on
        self._records = bytearray()  # to be sent, in the order in which they were made
        self._lock = trio.StrictFIFOLock()  # held by the task that sends them
        self._half_sent = False  # of one that was cancelled: the peer understands nothing after that
        self._said_end = False

    async def handshake(
        self, received: bytes, turns: trio.CapacityLimiter, asking: AbstractContextManager[object]
    ) -> None:
        """Complete the handshake with the peer, which has sent ``received`` so far.

        Args:
            turns: held for each step: signing takes up to a millisecond, and few may do so in one pass of the loop.
            asking: entered while waiting for the peer.
        Raises: ssl.SSLError, if it fails; the peer has been told why.
        """
        while True:
            try:
                async with turns:
                    if not received:  # in its turn, too: thousands may leave at the same moment
                        raise trio.BrokenResourceError("the peer left in the middle of the handshake")
                    self._incoming.write(received)
                    done = self._step()
            except ssl.SSLError:
                await self._send_records()
                raise
            # Only session tickets are left to send then. They leave with the first answer, because they would harm a
            # client that does not read before it has sent everything, or reads while it sends (OpenSSL minds).
            if done and self._tls is not None and self._tls.version() == "TLSv1.3":
                # So nothing of ours acknowledges the end of its handshake, and a client that gathers small writes
                # (Nagle) would hold back its request until the kernel does, which waits for 40 ms.
                with suppress(OSError):  # the peer is gone already
                    self.transport_stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                return
            await self._send_records()
            if done:
                return
            with asking:
                try:
                    received = bytes(await self.transport_stream.receive_some(RECEIVE_BYTES))
                except trio.BrokenResourceError:
                    received = b""

    def _step(self) -> bool:
        """One step with the received bytes; True: the handshake is complete."""
        if self._tls is None:
            self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._collect()
        return True

    def take_over(self) -> tuple[int, Cipher]:
        """Give the connection to a new owner: its descriptor, and its cipher, which may hold further records.

        No task may use it then, or later."""
        assert self._tls is not None, "the handshake comes first"
        cipher = Cipher(self._tls, self._incoming, self._outgoing, bytes(self._records))
        return self.transport_stream.socket.detach(), cipher

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Received bytes; empty: the peer has announced the end."""
        assert self._tls is not None, "the handshake comes first"
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                data = self._tls.read(max_bytes or RECORD_BYTES)
            except ssl.SSLWantReadError:
                data = None
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(str(error)) from None
            if self._collect():  # an answer to what only TLS itself has to know
                await self._send_records()
            if data is not None:
                return data
            received = await self.transport_stream.receive_some(RECEIVE_BYTES)
            if received:
                self._incoming.write(received)
            else:
                self._incoming.write_eof()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """If cancelled, a part may have been sent; nothing more can be."""
        assert self._tls is not None, "the handshake comes first"
        with memoryview(data) as view:
            for at in range(0, len(view), RECORD_BYTES):
                try:
                    self._tls.write(view[at : at + RECORD_BYTES])  # whole, for nothing bounds the buffer behind it
                except ssl.SSLError as error:
                    raise trio.BrokenResourceError(str(error)) from None
                self._collect()
        await self._send_records()

    async def wait_send_all_might_not_block(self) -> None:
        await self.transport_stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Announce the end of sending, in TLS and TCP; the peer's data can still be received."""
        self._say_end()
        if not self._half_sent:
            await self._send_records()
        await self.transport_stream.send_eof()

    async def aclose(self) -> None:
        """Announce the end, if that is possible at once, and close."""
        try:
            self._say_end()
            if not self._half_sent:
                await self._send_records()
        except trio.BrokenResourceError:
            pass  # the peer is gone already
        finally:
            await self.transport_stream.aclose()

    def _say_end(self) -> None:
        if self._tls is None or self._said_end:
            return
        self._said_end = True
        with suppress(ssl.SSLError):  # the peer has not said so yet, as always; or there was no understanding with it
            self._tls.unwrap()
        self._collect()

    def _collect(self) -> bool:
        """Append new records to the earlier ones; False: there were none."""
        if not self._outgoing.pending:
            return False
        self._records += self._outgoing.read()
        return True

    async def _send_records(self) -> None:
        async with self._lock:
            while self._records:
                records, self._records = self._records, bytearray()
                self._half_sent = True
                await self.transport_stream.send_all(records)
                self._half_sent = False
