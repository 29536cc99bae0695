"""systemd's protocols: sockets that a supervisor passes, and notifications that it expects. Without one, no effect.

    LISTEN_FDS, LISTEN_PID     the supervisor has bound the sockets: descriptors 3, 4, ... of this process. It keeps
                               them when the process ends, so clients that connect meanwhile wait in their queue for the
                               next process
    NOTIFY_SOCKET              READY=1, RELOADING=1 ... READY=1, STOPPING=1: the state of this process

Source: sd_listen_fds(3), sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import MutableMapping

from engine.errors import StartupFailed

LOGGER = logging.getLogger("unbroken.systemd")

FIRST_DESCRIPTOR = 3
FAMILIES = {socket.AF_INET, socket.AF_INET6}


def inherited_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets passed to this process, if any. Their variables are removed from
    the environment, and they are not passed on to children. Raises: StartupFailed, if one is not such a socket."""
    pid, count = environment.pop("LISTEN_PID", None), environment.pop("LISTEN_FDS", None)
    environment.pop("LISTEN_FDNAMES", None)
    if pid is None or count is None:
        return []
    for name, value in (("LISTEN_PID", pid), ("LISTEN_FDS", count)):
        if not value.isascii() or not value.isdigit():
            raise StartupFailed(f"{name}: must be a number, got {value!r}")
    if int(pid) != os.getpid():  # they are for another process, from which we have inherited the environment
        return []
    return [_listening(FIRST_DESCRIPTOR + n) for n in range(int(count))]


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise _refused(descriptor, "it is not a socket")
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise _refused(descriptor, error.strerror or str(error)) from error
    if found.family not in FAMILIES:
        reason = "it is a UNIX socket" if found.family == socket.AF_UNIX else "it is not an IP socket"
    elif found.type != socket.SOCK_STREAM or found.proto not in (0, socket.IPPROTO_TCP):
        reason = "it is a datagram socket" if found.type == socket.SOCK_DGRAM else "it is not a TCP socket"
    elif not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        reason = "it does not listen; in its systemd unit, set Accept=no"
    else:
        return found
    found.detach()
    raise _refused(descriptor, reason)


def _refused(descriptor: int, reason: str) -> StartupFailed:
    return StartupFailed(f"LISTEN_FDS: descriptor {descriptor} is not a listening TCP socket: {reason}")


def notify(*lines: str) -> None:
    """Notify the supervisor, if it asks for notifications. Never fails: nobody depends on them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto("\n".join(lines).encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError as error:
        LOGGER.warning("NOTIFY_SOCKET: %s did not accept %s: %s", address, lines[0], error.strerror or error)


def notify_reloading() -> None:
    """A reload has begun; ``READY=1`` says that it has ended. The time is for units of Type=notify-reload."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
