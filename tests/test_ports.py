"""What server.transport.ports promises: the address that is asked for, and at the end addresses that can be used."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from engine.errors import StartupFailed
from engine.settings import parse_listen
from server.transport import ports
from tests.harness import KEY, NO_PROXY, READY_SECONDS, Server


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def told(text: str) -> tuple[list[tuple[str, int]], dict[str, bool]]:
    """What is told of the address that this stands for; and whether one gets in by loopback, in IPv4 and IPv6."""

    async def run() -> tuple[list[tuple[str, int]], dict[str, bool]]:
        bound = ports.bind(*parse_listen(text))
        ports.listen(bound)
        addresses = ports.reachable(bound)
        found = {}
        for name, loopback in (("IPv4", "127.0.0.1"), ("IPv6", "::1")):
            try:
                async with await trio.open_tcp_stream(loopback, addresses[0][1]):
                    found[name] = True
            except OSError:
                found[name] = False
        ports.close(bound)
        return addresses, found

    return trio.run(run)


@pytest.mark.parametrize(
    ("text", "ipv4", "ipv6"),
    [
        ("127.0.0.1:0", True, False),
        ("0.0.0.0:0", True, False),
        pytest.param("[::1]:0", False, True, marks=needs_ipv6),
        pytest.param("[::]:0", True, True, marks=needs_ipv6),
        pytest.param("[0:0::0]:0", True, True, marks=needs_ipv6),
    ],
)
def test_an_address_is_listened_on_as_users_expect(text: str, ipv4: bool, ipv6: bool) -> None:
    addresses, found = told(text)
    assert found == {"IPv4": ipv4, "IPv6": ipv6}
    hosts = [host for host, _ in addresses]
    assert hosts[0] == ("127.0.0.1" if ipv4 else "::1")
    assert ("::1" in hosts) == ipv6
    assert not {"0.0.0.0", "::"} & set(hosts), "these are no addresses that a client could use"
    assert all(port == addresses[0][1] > 0 for _, port in addresses)


@pytest.mark.parametrize("text", ["0.0.0.0:0", pytest.param("[::]:0", marks=needs_ipv6)])
def test_every_address_that_is_told_lets_clients_in(text: str) -> None:
    async def run() -> None:
        bound = ports.bind(*parse_listen(text))
        ports.listen(bound)
        for address in ports.reachable(bound):
            async with await trio.open_tcp_stream(*address):
                pass
        ports.close(bound)

    trio.run(run)


def test_an_address_that_cannot_be_had_is_named_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupFailed, match=rf"^cannot listen on 127\.0\.0\.1:{port}: .*in use"):
            told(f"127.0.0.1:{port}")
    with pytest.raises(StartupFailed, match=r"^cannot listen on 192\.0\.2\.1:1: "):
        told("192.0.2.1:1")


@needs_ipv6
def test_an_address_of_ipv6_that_is_in_use_is_named_in_brackets() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupFailed, match=rf"^cannot listen on \[::\]:{port}: .*in use"):
            told(f"[::]:{port}")


def test_a_machine_without_ipv6_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: object, **named: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", missing)
    with pytest.raises(StartupFailed, match=r"no IPv6; use 0\.0\.0\.0 for all IPv4 addresses"):
        ports.bind("::", 8080)


@pytest.mark.parametrize(
    ("address", "expected"),
    [(("127.0.0.1", 80), "https://127.0.0.1:80"), (("::1", 80), "https://[::1]:80")],
)
def test_a_url_is_one_that_can_be_pasted(address: tuple[str, int], expected: str) -> None:
    assert ports.url("https", address) == expected


@pytest.mark.parametrize("text", ["0.0.0.0:0", pytest.param("[::]:0", marks=needs_ipv6)])
def test_the_line_at_start_has_addresses_that_can_be_used(tmp_path: Path, text: str) -> None:
    command = [str(Server(tmp_path).executable), "serve", "--listen", text, "--data", str(tmp_path / "data")]
    process = subprocess.Popen(
        [*command, "--key", KEY, "--durability", "memory"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **NO_PROXY, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.findall(r"http://(\[[0-9a-f:]+\]|[0-9.]+):(\d+)", line)
        assert "ready on " in line and found[0][0] == "127.0.0.1", line
        for host, port in found:
            socket.create_connection((host.strip("[]"), int(port)), timeout=READY_SECONDS).close()
    finally:
        process.terminate()
        process.wait(READY_SECONDS)
        assert process.stdout is not None
        process.stdout.close()
