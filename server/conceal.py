"""Hides keys that somebody has put on a command line, as far as a process can.

    unbroken serve --key app.key:secret      lists of processes:  unbroken serve --key app.key:******
    unbroken serve app.key:secret            wrong usage:         unrecognized arguments: app.key:***

The kernel shows a process's arguments to everybody, and the process may overwrite them. Until then anybody can read
them, and the program that started the process may show them, too. So this only limits the damage of a mistake;
UNBROKEN_KEY avoids it."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterable
from typing import NoReturn

from engine.guess import did_you_mean

_KEY = re.compile(r"([^.:\s'\"=]+\.[^.:\s'\"]+):[^\s'\",]+")
_ARGUMENTS_BEGIN = 48  # fields of /proc/self/stat, counted from 1: where our arguments lie in memory
_ARGUMENTS_END = 49
_BEHIND_NAME = 3  # the first field behind the name of the program, which is in brackets and may hold anything


class ConcealingParser(argparse.ArgumentParser):
    """Reports wrong usage with a suggestion, but does not repeat text that looks like a key."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # as it is there
        """For the command and its subcommands: each knows its own options best. Exits on unknown ones."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = re.findall(r"--[a-z][a-z-]*", self.format_usage())
            options = (each for each in unknown if each.startswith("--"))
            hint = next((hint for each in options if (hint := did_you_mean(each, known))), "")
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        super().error(_KEY.sub(r"\1:***", message))


def hide_arguments(keys: Iterable[str]) -> None:
    """Overwrite these texts in this process's arguments, from the first colon on.

    Does nothing if the system does not allow it.
    """
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
        begin, end = (int(fields[place - _BEHIND_NAME]) for place in (_ARGUMENTS_BEGIN, _ARGUMENTS_END))
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(begin)
            arguments = memory.read(end - begin)
            hidden = arguments
            for key in map(os.fsencode, keys):
                name, colon, secret = key.partition(b":")
                if secret:
                    hidden = hidden.replace(key, name + colon + b"*" * len(secret))
            if hidden != arguments:
                memory.seek(begin)
                memory.write(hidden)
