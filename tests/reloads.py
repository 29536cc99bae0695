"""A server whose configuration is read again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.harness import Server, wait_until
from tests.wsclient import RefusedError

OUTCOMES = ("reloaded: ", "nothing has changed: ")


def config_of(server: Server) -> Path:
    return server.directory / "unbroken.toml"


def reload(server: Server, config: str | None = None) -> str:
    """Have it read its configuration again, or another one; what it says of that."""
    if config is not None:
        config_of(server).write_text(config)
    before = len(server.stderr())
    os.kill(server.pid, signal.SIGHUP)
    return said_since(server, before)


def said_since(server: Server, before: int, *outcomes: str) -> str:
    """What its log has from there on, once one of these is in it."""
    wanted = outcomes or OUTCOMES

    def told() -> bool:
        # Whole lines only: what is asked about is said before them, or in them.
        whole = server.stderr()[before:].rpartition("\n")[0]
        return any(outcome in whole for outcome in wanted)

    wait_until(told, what=f"one of {wanted} in the log")
    return server.stderr()[before:]


def refused(do: Callable[[], object]) -> int:
    """The code with which it is refused; 0: it is not."""
    try:
        done = do()
    except RefusedError as error:
        return int(error.code or -1)
    if isinstance(done, tuple) and done[0] >= 400:
        return int(done[1]["error"]["code"])
    return 0
