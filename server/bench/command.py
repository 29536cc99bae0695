"""``unbroken bench``, from its arguments to its exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from server.bench import plot, report, scenarios
from server.bench.load import Interrupted, Load, allow_descriptors, say
from server.bench.options import Options, UsageError, options_from
from server.bench.target import Target, Unreachable
from server.bench.verdict import judge

CORRECT, INCORRECT, USAGE, UNREACHABLE = 0, 1, 2, 3


def main(arguments: argparse.Namespace) -> int:
    """Run the command. The epilog of its help explains the exit statuses."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:  # before the run: it has an end of its own; or behind it, when files are written
        say("unbroken bench: interrupted")
        return INCORRECT


def _main(arguments: argparse.Namespace) -> int:
    try:
        options = options_from(arguments, dict(os.environ))
        for path in (options.json, options.csv, options.plot):
            if path is not None:
                _check_writable(path)
        if options.plot is not None:
            plot.load_pyplot()
    except UsageError as error:
        say(f"unbroken bench: {error}")
        return USAGE
    try:
        allow_descriptors(_descriptors(options))
        load = Load(options, Target(options))
    except Unreachable as error:
        say(f"unbroken bench: {error}")
        return UNREACHABLE
    except UsageError as error:
        say(f"unbroken bench: {error}")
        return USAGE
    if not options.quiet:
        load.on_second = lambda second: say(report.progress(second))
    try:
        with _ending_early(load):
            figures = scenarios.run(load)
        verdict = judge(load)
    except (Unreachable, UsageError) as error:
        say(f"unbroken bench: {error}")
        return UNREACHABLE if isinstance(error, Unreachable) else USAGE
    except Interrupted:
        say("unbroken bench: interrupted before anything was measured")
        return INCORRECT
    except KeyboardInterrupt:
        say("unbroken bench: interrupted while messages were still on their way: no verdict")
        return INCORRECT
    finally:
        load.close()
    written = [_print(report.table(load, figures, verdict))]
    if options.json is not None:
        found = report.document(load, figures, verdict)
        written.append(_write(options.json, partial(report.write_json, options.json, found)))
    if options.csv is not None:
        written.append(_write(options.csv, partial(report.write_csv, options.csv, load, figures)))
    if options.plot is not None:
        title = f"unbroken bench, {options.scenario}: {verdict.sentence().split(':')[0]}"
        written.append(_write(options.plot, partial(plot.draw, options.plot, load, figures, title)))
    if not verdict.clean:
        return INCORRECT
    return CORRECT if all(written) else USAGE


def _check_writable(path: Path) -> None:
    """Check before a long run, as far as possible, that the files can be written. Raises: UsageError."""
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path} is a directory, not a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written")


def _print(text: str) -> bool:
    """False: nobody reads it (any more), which is reported."""
    try:
        print(text, flush=True)
    except OSError as error:
        say(f"unbroken bench: the report could not be printed: {error.strerror}")
        with open(os.devnull, "w") as nowhere:  # for buffered output, whose flush would fail once more
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return False
    return True


def _write(path: Path, write: Callable[[], None]) -> bool:
    """False: it could not be written, which is reported; the other files are written all the same."""
    try:
        write()
    except OSError as error:
        say(f"unbroken bench: {path} could not be written: {error.strerror or error}")
        return False
    return True


def _descriptors(options: Options) -> int:
    """With TLS a connection has its own, and a socket pair between the loop and the relay thread."""
    return (options.subscribers + options.publishers) * (3 if options.secure else 1)


@contextmanager
def _ending_early(load: Load) -> Iterator[None]:
    """The first Ctrl-C ends publishing, and the report covers the results so far; the second one ends everything."""

    def end(number: int, frame: object) -> None:
        if load.interrupted:
            raise KeyboardInterrupt
        load.interrupted = True
        say(
            "unbroken bench: ending; waiting for messages on their way "
            "(interrupt again to end at once, without a verdict)"
        )

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
