"""A plane whose sockets have TLS, to be tested by the tests of one whose sockets have not.

A test keeps its plain socket; between it and the plane stands a client of TLS, which moves whenever the plane is polled
or flushed:

    peer <--plain--> Way: ssl <--records--> the plane's socket and its cipher"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any

from ext.net.cipher import Cipher
from ext.net.plane import Plane
from ext.net.socket import Socket
from tests.certificates import authority

RECEIVE_BYTES = 16 * 1024
BUFFERS = (socket.SO_SNDBUF, socket.SO_RCVBUF)


class Client:
    """One end of a session of TLS, in memory; ``cipher`` is the server's, for a plane."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        servers = authority().server().wrap_bio(incoming, outgoing, server_side=True)
        done = [False, False]
        while not all(done):
            for n, tls in enumerate((self.tls, servers)):
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    done[n] = True
                incoming.write(self.outgoing.read())
                if not all(done) or self.tls.version() == "TLSv1.2":
                    self.incoming.write(outgoing.read())
        self.cipher = Cipher(servers, incoming, outgoing, outgoing.read())


class Half:
    """One direction. ``fetch`` raises BlockingIOError when there is nothing now, and EOFError at the end."""

    def __init__(self, fetch: Callable[[], bytes], to: socket.socket) -> None:
        self._fetch = fetch
        self._to = to
        self._left = b""

    def step(self) -> bool:
        """True: something has moved."""
        moved = False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._left = self._left or self._fetch()
                self._left = self._left[self._to.send(self._left) :]
                moved = True
        return moved


class Way:
    """The client's side of one connection: moves bytes as far as that goes without waiting."""

    def __init__(self, plain: socket.socket) -> None:
        self.plain = plain
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.records = socket.create_connection(listener.getsockname())
            self._servers, _ = listener.accept()
        for end in (self.records, self._servers):
            end.setblocking(False)
        client = Client(authority().client)
        self._tls, self._incoming, self._outgoing = client.tls, client.incoming, client.outgoing
        self.cipher = client.cipher
        self.ended = False
        self._halves = (Half(self._deciphered, self.plain), Half(self._sealed, self.records))

    def detach(self) -> int:
        """The plane's descriptor."""
        return self._servers.detach()

    def narrow(self) -> None:
        """Give the inner sockets the buffers of the outer ones: small ones belong to a test of slow readers."""
        sizes = [self.plain.getsockopt(socket.SOL_SOCKET, option) // 2 for option in BUFFERS]
        for end in (self.records, self._servers):
            for option, size in zip(BUFFERS, sizes, strict=True):
                end.setsockopt(socket.SOL_SOCKET, option, size)

    def step(self) -> bool:
        """True: something has moved."""
        try:
            moved = [half.step() for half in self._halves]  # both, whatever the first has done
        except (EOFError, OSError):
            self.close()
            return True
        return any(moved)

    def _deciphered(self) -> bytes:
        """From the plane."""
        while True:
            try:
                plain = self._tls.read(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                records = self.records.recv(RECEIVE_BYTES)
                if not records:
                    raise EOFError from None
                self._incoming.write(records)
                continue
            except ssl.SSLZeroReturnError:
                plain = b""
            if not plain:  # the plane has announced its end, and still reads
                self.plain.shutdown(socket.SHUT_WR)
                raise BlockingIOError
            return plain

    def _sealed(self) -> bytes:
        """From the peer."""
        plain = self.plain.recv(RECEIVE_BYTES)
        if not plain:
            raise EOFError
        self._tls.write(plain)
        return self._outgoing.read()

    def close(self) -> None:
        self.ended = True
        self.plain.close()
        self.records.close()


class SealedPlane:
    """Stands for a ``Plane``, with the same face; ``fd`` is readable when there may be something to do."""

    def __init__(self, **options: Any) -> None:
        self._plane = Plane(**options)
        self._epoll = select.epoll()
        self._epoll.register(self._plane.fd, select.EPOLLIN)
        self._ways: list[Way] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plane, name)

    def __len__(self) -> int:
        return len(self._plane)

    @property
    def fd(self) -> int:
        return self._epoll.fileno()

    def add(self, fd: int, owner: object, **options: Any) -> Socket:
        way = Way(socket.socket(fileno=fd))
        way.narrow()
        for end in (way.plain, way.records):
            self._epoll.register(end.fileno(), select.EPOLLIN)
        self._ways.append(way)
        return self._plane.add(way.detach(), owner, cipher=way.cipher, **options)

    def poll(self, now_ms: int, **options: Any) -> list[tuple[Any, int, Any]]:
        self._step()
        return self._plane.poll(now_ms, **options)

    def flush(self) -> bool:
        more = self._plane.flush()
        return self._step() or more

    def tick(self, now_ms: int, **options: Any) -> bool:
        due = self._plane.tick(now_ms, **options)
        self._step()
        return due

    def close(self) -> None:
        self._plane.close()
        self._step()
        for way in self._ways:
            way.close()
        self._ways.clear()
        self._epoll.close()

    def _step(self) -> bool:
        moved = False
        for way in list(self._ways):
            moved |= way.step()
            if way.ended:
                self._ways.remove(way)
        return moved
