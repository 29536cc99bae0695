"""The port: taken before anything is made, opened once there is somebody to serve those who come.

bind      at the very start: who can't have the port learns it before a directory, an app or a key is made
listen    just before that first key; from then on the kernel lets clients wait for us"""

from __future__ import annotations

import errno
import ipaddress
import socket

from engine import limits
from engine.errors import StartupFailed

Bound = list[socket.socket]
BACKLOG = 4096  # connections that the kernel accepts for us; a storm should not meet a refused port
NO_NAME = "that can be no host's name"
ADVICE = {
    errno.EADDRINUSE: "another program listens there; stop it, or give another address with --listen (port 0 picks a "
    "free one)",
    errno.EACCES: "ports below 1024 are for those who may (root, CAP_NET_BIND_SERVICE); give another with --listen",
    socket.EAI_NONAME: "give an address of this machine: 127.0.0.1 is for itself alone, 0.0.0.0 for all it has",
    errno.EADDRNOTAVAIL: "this machine has no such address; 127.0.0.1 is for itself alone, 0.0.0.0 for all it has",
}


def bind(host: str, port: int) -> Bound:
    """A socket for each address that the host stands for, all with the same port.

    Raises: StartupFailed, with what to do.
    """
    bound: Bound = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                made = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:  # a machine without IPv6 may know names of it
                    raise
                continue
            bound.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Those who come in by it inherit this, whatever their way.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.UNSENT_BYTES)
            made.bind((address[0], port or bound[0].getsockname()[1], *address[2:]))
    except (OSError, UnicodeError) as error:  # as text a host can't be asked for that has no name's form
        close(bound)
        raise _refused(host, port, error) from error
    if not bound:
        raise StartupFailed(f"cannot listen on {shown(host, port)}: this machine has no network of that kind")
    return bound


def listen(bound: Bound) -> None:
    """Raises: StartupFailed: another program was bound to the same port, and has been faster."""
    for each in bound:
        try:
            each.listen(BACKLOG)
        except OSError as error:
            host, port = each.getsockname()[:2]
            raise _refused(host, port, error) from error


def close(bound: Bound) -> None:
    for each in bound:
        each.close()


def check_development(bound: Bound) -> None:
    """Raises: StartupFailed, where others than this machine can reach it: anybody could make apps."""
    for each in bound:
        host, port = each.getsockname()[:2]
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            raise StartupFailed(
                f"dev: on {shown(host, port)} everybody who reaches it could make apps; listen on 127.0.0.1 or [::1], "
                "or give --dev-anywhere (dev_anywhere = true) as well, where that is wanted"
            )


def shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refused(host: str, port: int, error: OSError | UnicodeError) -> StartupFailed:
    number, reason = (error.errno or 0, error.strerror or str(error)) if isinstance(error, OSError) else (0, NO_NAME)
    advice = ADVICE.get(number)
    return StartupFailed(f"cannot listen on {shown(host, port)}: {reason}{f': {advice}' if advice else ''}")
