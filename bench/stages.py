"""Where a message's microseconds go: perf's samples of the running server, by the function that a stage goes through.

    python -m bench.stages      starts a server on core 0 and `unbroken bench` on core 1; needs `perf` (linux-perf)

The share of a stage is that of the samples in which its function is somewhere on the stack, times the CPU that the
server used for each message. Stages lie in one another (frames are made within "visible"), and what is listed does not
add up to the whole: the rest is the interpreter around it, and the kernel's own work.

A stage is found by a function's name, which a change of the code may take away: then it would cost nothing, for ever.
So names of ours and of RocksDB are looked up in the compiled modules first, and a stage without a sample is told."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.machine import ROOT

KEY = "app.key:secret"
SECONDS = 3
FREQUENCY = 300  # samples a second
LOADS = {
    "pairs, 64 publishers to 64 subscribers, 16 in flight each": ("64", "64", "64", "16"),
    "ingest, 16 publishers, 64 in flight each": ("16", "0", "16", "64"),
    "ingest, 64 publishers, one in flight each": ("64", "0", "64", "1"),
    "ingest, one publisher, one in flight": ("1", "0", "1", "1"),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """``pattern`` is searched for in the names of functions; ``home`` says where these are compiled."""

    title: str
    pattern: str
    home: str = "ext"  # or "rocksdict", or "system": libc and the kernel, whose names are not ours to keep


STAGES = (
    Stage("receive: recv", r"^__libc_recv|^recv$|^__x64_sys_recvfrom", "system"),
    Stage("decode frames, and what sinks do", r"^__pyx_f_3ext_3net_7receive_decode\b"),
    Stage("- parse the publish", r"^__pyx_f_3ext_4wire_7publish_6Parser_parse\b"),
    Stage("- ids, serial, record, entry", r"^__pyx_f_3ext_3net_6ingest_6Ingest__stage\b"),
    Stage("take a batch", r"^__pyx_pw_3ext_3log_8sequence_8Sequence_\d+take_pending\b"),
    Stage("journal: write", r"^rocksdb::DBImpl::Write(\(|$)", "rocksdict"),
    Stage("journal: encode blocks", r"^__pyx_pw_3ext_4disk_4rows_4Rows_\d+__init__\b"),
    Stage("journal: sync (its own thread)", r"^__pyx_f_3ext_4disk_8filesync__run\b"),
    Stage("make visible: ring, streams", r"^__pyx_pw_3ext_3log_8sequence_8Sequence_\d+reveal\b"),
    Stage("- make frames", r"^__pyx_f_3ext_4wire_7encoder_12EntryEncoder_write_frame\b"),
    Stage("tell those who published", r"^__pyx_pw_3ext_3log_8sequence_8Sequence_\d+settle\b"),
    Stage("acknowledge", r"^__pyx_pw_3ext_3net_5plane_5Plane_\d+answer\b"),
    Stage("send: flush", r"^__pyx_pw_3ext_3net_5plane_5Plane_\d+flush\b"),
    Stage("- the kernel's part of it", r"^__x64_sys_send|^__sys_sendmsg|^__sys_sendto", "system"),
    Stage("wait for something to do: ppoll, epoll", r"^__x64_sys_ppoll|^do_epoll_wait|^__x64_sys_epoll", "system"),
)


def main() -> int:
    missing = [program for program in ("perf", "nm", "taskset") if shutil.which(program) is None]
    if missing:
        print(f"bench.stages needs {', '.join(missing)} (linux-perf, binutils, util-linux)", file=sys.stderr)
        return 2
    unknown = [stage for stage in STAGES if not is_known(stage, symbols(stage.home))]
    for stage in unknown:
        print(f"{stage.title!r}: no function of {stage.home} is named {stage.pattern}", file=sys.stderr)
    if unknown:
        return 1
    for name, load in LOADS.items():
        try:
            with tempfile.TemporaryDirectory() as directory:
                each, shares = measure(Path(directory), load)
        except subprocess.CalledProcessError as error:
            print(f"{error.cmd[0]} has failed: {error.stderr.strip()}", file=sys.stderr)
            return 1
        print("\n".join(table(name, each, shares)))
    return 0


def symbols(home: str) -> set[str]:
    """Functions that are compiled into the modules there, demangled; none for ``system``."""
    if home == "system":
        return set()
    spec = importlib.util.find_spec(home)
    assert spec is not None and spec.origin is not None
    modules = sorted(Path(spec.origin).parent.rglob("*.so"))
    listed = subprocess.run(["nm", "--demangle", *map(str, modules)], capture_output=True, text=True, check=True).stdout
    return {match[1] for match in re.finditer(r"^[0-9a-f]+ [tTwW] (.+)$", listed, re.MULTILINE)}


def is_known(stage: Stage, names: Iterable[str]) -> bool:
    return stage.home == "system" or any(re.search(stage.pattern, name) for name in names)


def table(name: str, each: float, shares: Sequence[tuple[str, float]]) -> list[str]:
    """One load's stages in Markdown; those that no sample went through are told apart from those that cost little."""
    lines = ["", f"### {name}: {each:.2f} us of the server's CPU each", "", "| stage | us | share |"]
    lines.append("| --- | ---: | ---: |")
    for stage in STAGES:
        found = [share for symbol, share in shares if re.search(stage.pattern, symbol)]
        if found:
            lines.append(f"| {stage.title} | {max(found) * each / 100:.2f} | {max(found):.0f} % |")
        else:
            lines.append(f"| {stage.title} | no sample | |")
    return lines


def measure(directory: Path, load: tuple[str, ...]) -> tuple[float, list[tuple[str, float]]]:
    """The server's CPU for each message in us; and functions with their share of all samples, callers included."""
    python = [sys.executable, "-m", "server.cli"]
    serve = ["serve", "--listen", "127.0.0.1:0", "--key", KEY, "--data", str(directory / "data")]
    publishers, subscribers, channels, window = load
    found, data = directory / "found.json", directory / "perf.data"
    with ExitStack() as started:
        server = subprocess.Popen(["taskset", "-c", "0", *python, *serve], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        started.callback(_end, server)
        assert server.stdout is not None
        port = re.search(r":(\d+) \(", server.stdout.readline())
        assert port is not None
        options = ["--url", f"ws://127.0.0.1:{port[1]}", "--server-pid", str(server.pid), "--quiet"]
        options += ["--publishers", publishers, "--subscribers", subscribers, "--channels", channels]
        options += ["--window", window, "--duration", str(SECONDS + 2), "--json", str(found)]
        tester = subprocess.Popen(
            ["taskset", "-c", "1", *python, "bench", *options],
            env=os.environ | {"UNBROKEN_KEY": KEY},
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
        )
        started.callback(_end, tester)
        time.sleep(3)
        record = ["perf", "record", "--call-graph", "dwarf,8192", "-F", str(FREQUENCY), "-p", str(server.pid)]
        subprocess.run(
            [*record, "-o", str(data), "--", "sleep", str(SECONDS)], capture_output=True, text=True, check=True
        )
        tester.wait()
    report = ["perf", "report", "-i", str(data), "--children", "--sort", "symbol", "-g", "none", "--stdio"]
    shares = read_report(subprocess.run(report, capture_output=True, text=True, check=True).stdout)
    return json.loads(found.read_text())["figures"]["server CPU, us for each publish"], shares


def _end(process: subprocess.Popen[str]) -> None:
    """Whatever went wrong before: nothing is left running."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def read_report(text: str) -> list[tuple[str, float]]:
    """Functions and their shares in percent, children included, from ``perf report --stdio``."""
    return [
        (match[2].strip(), float(match[1]))
        for line in text.splitlines()
        if (match := re.match(r"\s*([\d.]+)%\s+[\d.]+%\s+\[.\]\s+(\S.*?)\s*(?:-\s+-\s*)?$", line))
    ]


if __name__ == "__main__":
    sys.exit(main())
