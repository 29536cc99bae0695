"""Where a message's microseconds go: perf's samples of the running server, by the function that a stage goes through.

    python -m bench.stages      starts a server on core 0 and `unbroken bench` on core 1; needs `perf` (linux-perf)

The share of a stage is that of the samples in which its function is somewhere on the stack, times the CPU that the
server used for each message. Stages lie in one another (frames are made within "visible"), and what is listed does not
add up to the whole: the rest is the interpreter around it, and the kernel's own work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEY = "app.key:secret"
SECONDS = 3
LOADS = {
    "pairs, 64 publishers to 64 subscribers, 16 in flight each": ("64", "64", "64", "16"),
    "ingest, 16 publishers, 64 in flight each": ("16", "0", "16", "64"),
    "ingest, 64 publishers, one in flight each": ("64", "0", "64", "1"),
}
STAGES = (
    ("receive: recv", r"^__libc_recv|^recv$|^__x64_sys_recvfrom"),
    ("decode frames, and what sinks do", r"plane_5Plane__decode"),
    ("- parse the publish", r"publish_6Parser_parse"),
    ("- ids, serial, record, entry", r"ingest_6Ingest__stage"),
    ("take a batch", r"Sequence.*take_pending"),
    ("journal: write", r"rocksdb::DBImpl::Write\b|rocksdb::DBImpl::Write$"),
    ("journal: encode blocks", r"pw_3ext_5block.*encode"),
    ("journal: sync (its own thread)", r"filesync__run"),
    ("make visible: ring, streams", r"Sequence.*show"),
    ("- make frames", r"EntryEncoder_write_frame"),
    ("acknowledge", r"plane_5Plane.*answer"),
    ("send: flush", r"plane_5Plane.*flush"),
    ("- the kernel's part of it", r"^__x64_sys_send|^__sys_sendmsg|^__sys_sendto"),
    ("wait for something to do: ppoll, epoll", r"^__x64_sys_ppoll|^do_epoll_wait|^__x64_sys_epoll"),
)


def main() -> int:
    for name, load in LOADS.items():
        with tempfile.TemporaryDirectory() as directory:
            each, shares = measure(Path(directory), load)
        print(f"\n### {name}: {each:.2f} us of the server's CPU each\n\n| stage | us | share |\n| --- | ---: | ---: |")
        for stage, pattern in STAGES:
            share = max((share for symbol, share in shares if re.search(pattern, symbol)), default=0.0)
            print(f"| {stage} | {share * each / 100:.2f} | {share:.0f} % |")
    return 0


def measure(directory: Path, load: tuple[str, ...]) -> tuple[float, list[tuple[str, float]]]:
    """The server's CPU for each message in us; and symbols with their share of all samples, callers included."""
    server = subprocess.Popen(
        [
            "taskset",
            "-c",
            "0",
            sys.executable,
            "-m",
            "server.cli",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--key",
            KEY,
            "--data",
            str(directory / "data"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    port = re.search(r":(\d+) \(", server.stdout.readline())
    assert port is not None
    publishers, subscribers, channels, window = load
    found = directory / "found.json"
    tester = subprocess.Popen(
        [
            "taskset",
            "-c",
            "1",
            sys.executable,
            "-m",
            "server.cli",
            "bench",
            "--url",
            f"ws://127.0.0.1:{port[1]}",
            "--publishers",
            publishers,
            "--subscribers",
            subscribers,
            "--channels",
            channels,
            "--window",
            window,
            "--duration",
            str(SECONDS + 2),
            "--json",
            str(found),
            "--quiet",
            "--server-pid",
            str(server.pid),
        ],
        env=os.environ | {"UNBROKEN_KEY": KEY},
        stdout=subprocess.DEVNULL,
    )
    time.sleep(3)
    data = directory / "perf.data"
    subprocess.run(
        [
            "perf",
            "record",
            "--call-graph",
            "dwarf,8192",
            "-F",
            "300",
            "-p",
            str(server.pid),
            "-o",
            str(data),
            "--",
            "sleep",
            str(SECONDS),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    tester.wait()
    server.send_signal(signal.SIGTERM)
    server.wait()
    report = subprocess.run(
        ["perf", "report", "-i", str(data), "--children", "--sort", "symbol", "-g", "none", "--stdio"],
        capture_output=True,
        text=True,
        check=True,
    )
    shares = [
        (match[2].strip(), float(match[1]))
        for line in report.stdout.splitlines()
        if (match := re.match(r"\s*([\d.]+)%\s+[\d.]+%\s+\[.\]\s+(\S.*?)\s*(?:-\s+-\s*)?$", line))
    ]
    figures = json.loads(found.read_text())["figures"]
    return figures["server CPU, us for each publish"], shares


if __name__ == "__main__":
    sys.exit(main())
