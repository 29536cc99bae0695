"""The proxy that stands in for bad networks has to be bad in exactly the way that it was told."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy import ChaosProxy

PATIENCE = 5.0


class Echo:
    """Sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.got = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", int(self._listener.getsockname()[1]))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                self.got += data
                one.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[ChaosProxy]:
    made = ChaosProxy(echo.address)
    yield made
    made.close()


@contextlib.contextmanager
def connected(proxy: ChaosProxy) -> Iterator[socket.socket]:
    with socket.create_connection(proxy.address, timeout=PATIENCE) as one:
        yield one


def receive(one: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer if the connection ends."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while len(got) < size and (data := one.recv(size - len(got))):
            got += data
    return got


def ended(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def refused(proxy: ChaosProxy) -> bool:
    try:
        with connected(proxy) as one:
            return ended(one)
    except ConnectionResetError:  # so fast that it came while connecting
        return True


def test_it_passes_everything_on(proxy):
    sent = bytes(range(256)) * 8192
    with connected(proxy) as one:
        sender = threading.Thread(target=one.sendall, args=(sent,))
        sender.start()
        assert receive(one, len(sent)) == sent
        sender.join()
    assert proxy.connections == 1


def test_it_passes_on_the_end(proxy):
    with connected(proxy) as one:
        one.sendall(b"last words")
        one.shutdown(socket.SHUT_WR)
        assert receive(one, 100) == b"last words"


def test_a_cut_ends_every_connection_and_lets_new_ones_in(proxy):
    with connected(proxy) as one, connected(proxy) as other:
        for each in (one, other):
            each.sendall(b"x")
            assert receive(each, 1) == b"x"
        proxy.cut()
        assert ended(one) and ended(other)
    with connected(proxy) as again:
        again.sendall(b"y")
        assert receive(again, 1) == b"y"


@pytest.mark.parametrize("count", [1, 7, 100_000])
def test_a_cut_downstream_comes_after_exactly_so_many_bytes(proxy, count):
    proxy.cut_after(downstream=count)
    with connected(proxy) as one:
        sender = threading.Thread(target=_send_until_cut, args=(one, bytes(200_000)))
        sender.start()
        assert len(receive(one, 200_000)) == count
        sender.join()


def _send_until_cut(one: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        one.sendall(data)


@pytest.mark.parametrize("count", [1, 7])
def test_a_cut_upstream_comes_after_exactly_so_many_bytes(proxy, echo, count):
    proxy.cut_after(upstream=count)
    with connected(proxy) as one:
        one.sendall(b"0123456789")
        while not ended(one):
            pass
    assert len(echo.got) <= count  # the reset may overtake it, but no byte more has come


def test_cut_can_be_set_and_cleared_on_a_live_connection(proxy):
    with connected(proxy) as one:
        one.sendall(b"x")
        assert receive(one, 1) == b"x"
        proxy.cut_after(downstream=3)
        one.sendall(b"abcdef")
        assert receive(one, 6) == b"abc"
    proxy.cut_after()
    with connected(proxy) as again:
        again.sendall(b"abcdef")
        assert receive(again, 6) == b"abcdef"


def test_nothing_passes_during_a_stall_and_everything_after(proxy):
    with connected(proxy) as one:
        one.sendall(b"x")
        assert receive(one, 1) == b"x"
        proxy.stall()
        one.sendall(b"later")
        one.settimeout(0.05)
        with pytest.raises(TimeoutError):
            one.recv(1)
        one.settimeout(PATIENCE)
        proxy.flow()
        assert receive(one, 5) == b"later"


def test_it_refuses_new_connections_and_keeps_old_ones(proxy):
    with connected(proxy) as old:
        old.sendall(b"x")
        assert receive(old, 1) == b"x"
        proxy.refuse()
        assert refused(proxy)
        old.sendall(b"y")
        assert receive(old, 1) == b"y"
        proxy.accept()
        with connected(proxy) as new:
            new.sendall(b"z")
            assert receive(new, 1) == b"z"


def test_a_delay_holds_what_comes_through(proxy):
    proxy.delay(0.05)
    with connected(proxy) as one:
        begin = time.monotonic()
        one.sendall(b"x")
        assert receive(one, 1) == b"x"
        assert time.monotonic() - begin >= 0.1  # there and back


def test_a_target_that_is_not_there_is_an_end_at_once():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = ("127.0.0.1", int(unused.getsockname()[1]))
    proxy = ChaosProxy(address)
    assert refused(proxy)
    proxy.close()
