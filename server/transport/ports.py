"""The listening sockets, a supervisor's or our own, and the addresses where clients reach them.

    127.0.0.1:8080     this machine only              0.0.0.0:8080     all its addresses, IPv4
    localhost:8080     all addresses of the name      [::]:8080        the same for IPv6, and for IPv4 if possible

bind      first of all: a port conflict is reported before any directory, app or key is created
listen    just before the first key is created; from then on the kernel queues clients"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket

from engine import limits
from engine.errors import StartupFailed
from server.systemd import inherited_sockets

Bound = list[socket.socket]
BACKLOG = 4096  # connections that the kernel accepts for us; a storm should not meet a refused port
NO_NAME = "it is not a valid host name"
LOCAL_OR_ALL = "127.0.0.1 accepts only local connections, 0.0.0.0 listens on all IPv4 addresses"
ADVICE = {
    errno.EADDRINUSE: "another program uses this address; stop it, or choose another with --listen (port 0 picks a "
    "free one)",
    errno.EACCES: "ports below 1024 require privileges (root or CAP_NET_BIND_SERVICE); choose another with --listen",
    socket.EAI_NONAME: f"use an address of this machine: {LOCAL_OR_ALL}",
    errno.EADDRNOTAVAIL: f"this machine has no such address; {LOCAL_OR_ALL}",
}


FAR = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # reserved for documentation; see _outward
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def bind(host: str, port: int) -> Bound:
    """The supervisor's sockets, if it passes some; otherwise one for each address of the host, all with the same port.

    Raises: StartupFailed, with what to do.
    """
    bound = inherited_sockets(os.environ) or _own(host, port)
    for each in bound:  # accepted connections inherit this option
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.UNSENT_BYTES)
    return bound


def _own(host: str, port: int) -> Bound:
    bound: Bound = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                made = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:  # a machine without IPv6 may still resolve names to it
                    raise
                continue
            bound.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with contextlib.suppress(OSError):  # otherwise it is IPv6 only, and the reported addresses say so
                    both = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_unspecified
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
            made.bind((address[0], port or bound[0].getsockname()[1], *address[2:]))
    except (OSError, UnicodeError) as error:  # encoding a malformed host name raises UnicodeError
        close(bound)
        raise _refused(host, port, error) from error
    if not bound:
        missing = "IPv6; use 0.0.0.0 for all IPv4 addresses" if ":" in host else "network of that kind"
        raise StartupFailed(f"cannot listen on {shown(host, port)}: this machine has no {missing}")
    return bound


def listen(bound: Bound) -> None:
    """Raises: StartupFailed: another program was bound to the same port, and listened first."""
    for each in bound:
        if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            continue  # a supervisor's, which sets the backlog itself
        try:
            each.listen(BACKLOG)
        except OSError as error:
            host, port = each.getsockname()[:2]
            raise _refused(host, port, error) from error


def close(bound: Bound) -> None:
    for each in bound:
        each.close()


def check_development(bound: Bound) -> None:
    """Raises: StartupFailed, if other machines can reach it: any client could create apps."""
    for each in bound:
        host, port = each.getsockname()[:2]
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            raise StartupFailed(
                f"dev: anybody who can reach {shown(host, port)} could create apps; listen on 127.0.0.1 or [::1], "
                "or add --dev-anywhere (dev_anywhere = true) if that is intended"
            )


def reachable(bound: Bound) -> list[tuple[str, int]]:
    """The concrete addresses where clients can connect; the nearest comes first."""
    found: list[tuple[str, int]] = []
    for each_socket in bound:
        host, port = each_socket.getsockname()[:2]
        hosts = [host] if not ipaddress.ip_address(host.partition("%")[0]).is_unspecified else _every(each_socket)
        found += [(each, port) for each in hosts if (each, port) not in found]
    return found


def _every(listening: socket.socket) -> list[str]:
    """For a socket on all addresses: the loopback, and this machine's address towards other machines."""
    families = [listening.family]
    if listening.family == socket.AF_INET6 and not listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        families.insert(0, socket.AF_INET)
    loopback = [LOOPBACK[family] for family in families]
    return loopback + [host for family in families if (host := _outward(family)) is not None]


def _outward(family: socket.AddressFamily) -> str | None:
    """The local address of the outward route. Sends nothing: UDP only selects the route."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect((FAR[family], 9))
            host = str(one.getsockname()[0])
    except OSError:
        return None
    return None if ipaddress.ip_address(host.partition("%")[0]).is_loopback else host


def url(scheme: str, address: tuple[str, int]) -> str:
    return f"{scheme}://{shown(*address)}"


def shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refused(host: str, port: int, error: OSError | UnicodeError) -> StartupFailed:
    number, reason = (error.errno or 0, error.strerror or str(error)) if isinstance(error, OSError) else (0, NO_NAME)
    advice = ADVICE.get(number)
    return StartupFailed(f"cannot listen on {shown(host, port)}: {reason}{f': {advice}' if advice else ''}")
