"""``unbroken bench``, from its arguments to its exit status."""

from __future__ import annotations

import argparse
import os
import sys

from server.bench import plot, report, scenarios
from server.bench.load import Load, allow_descriptors, say
from server.bench.options import UsageError, options_from
from server.bench.target import Target, Unreachable
from server.bench.verdict import judge

CORRECT, INCORRECT, USAGE, UNREACHABLE = 0, 1, 2, 3


def main(arguments: argparse.Namespace) -> int:
    """See the epilog of the command's help for the exit statuses."""
    try:
        options = options_from(arguments, dict(os.environ))
        for path in (options.json, options.csv, options.plot):
            if path is not None and not path.parent.is_dir():
                raise UsageError(f"there is no directory {path.parent}")
        if options.plot is not None:
            plot.load_pyplot()
    except UsageError as error:
        say(f"unbroken bench: {error}")
        return USAGE
    try:
        allow_descriptors((options.subscribers + options.publishers) * (2 if options.secure else 1))
        load = Load(options, Target(options))
    except Unreachable as error:
        say(f"unbroken bench: {error}")
        return UNREACHABLE
    if not options.quiet:
        load.on_second = lambda second: say(report.progress(second))
    try:
        figures = scenarios.run(load)
        verdict = judge(load)
    except Unreachable as error:
        say(f"unbroken bench: {error}")
        return UNREACHABLE
    except KeyboardInterrupt:
        say("unbroken bench: ended by hand, before anything was measured")
        return INCORRECT
    finally:
        load.close()
    print(report.table(load, figures, verdict))
    sys.stdout.flush()
    if options.json is not None:
        report.write_json(options.json, report.document(load, figures, verdict))
    if options.csv is not None:
        report.write_csv(options.csv, load, figures)
    if options.plot is not None:
        plot.draw(
            options.plot, load, figures, f"unbroken bench, {options.scenario}: {verdict.sentence().split(':')[0]}"
        )
    return CORRECT if verdict.clean else INCORRECT
