"""The peers as processes: how each is started here, what it does before it acknowledges, what it is when missing.

Every server runs on one core, with nothing that it does not need for the comparison, in a directory of its own that is
removed afterwards. Configurations are in config/; @PORT@ and the like are filled in. Nothing is ever installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import dialects
from bench.peers.dialects import Dialect

HERE = Path(__file__).parent
START_SECONDS = 15  # until the port is open: node on a busy machine takes some
STOP_SECONDS = 5
KEPT = {"KEPT": "131072"}


class Missing(Exception):
    """A peer cannot run here; the text says what to install."""


@dataclass(frozen=True, slots=True)
class Peer:
    """``stores``: what has happened to a message when it is acknowledged; '' where there is no acknowledgement."""

    name: str
    title: str
    program: str
    package: str
    dialect: Callable[[], Dialect]
    config: str
    arguments: tuple[str, ...]
    stores: str
    synced: bool = False
    fill: Mapping[str, str] = field(default_factory=dict)
    version: tuple[str, ...] = ("--version",)
    ours: bool = False
    replayed: int = 100_000  # messages of its replay; fewer where time grows with their square


def _ours(name: str, title: str, durability: str, stores: str, kept: str = "65536") -> Peer:
    return Peer(
        name,
        title,
        sys.executable,
        "",
        dialects.Unbroken,
        "unbroken.toml",
        (
            "-m",
            "server.cli",
            "serve",
            "--config",
            "@CONFIG@",
            "--listen",
            "127.0.0.1:@PORT@",
            "--data",
            "@DIR@/data",
            "--key",
            dialects.KEY,
            "--durability",
            durability,
        ),
        stores,
        durability == "synced",
        {"KEPT": kept},
        ("-m", "server.cli", "--version"),
        ours=True,
    )


_NATS = ("-c", "@CONFIG@")
PEERS = {
    peer.name: peer
    for peer in (
        _ours("unbroken", "Unbroken", "synced", "disk, synced"),
        _ours("unbroken-memory", "Unbroken, memory", "memory", "memory"),
        _ours("unbroken-ring", "Unbroken, read from memory", "synced", "disk, synced", KEPT["KEPT"]),
        _ours("unbroken-journal", "Unbroken, read from disk", "synced", "disk, synced", "1024"),
        Peer("nats", "NATS", "nats-server", "nats-server", dialects.Nats, "nats.conf", _NATS, ""),
        Peer(
            "jetstream",
            "JetStream",
            "nats-server",
            "nats-server",
            dialects.JetStream,
            "jetstream.conf",
            _NATS,
            "disk, synced within 2 min",
            fill={"SYNC": "# synced every 2 min, which is the default"},
        ),
        Peer(
            "jetstream-synced",
            "JetStream, synced",
            "nats-server",
            "nats-server (2.10 or newer)",
            dialects.JetStream,
            "jetstream.conf",
            _NATS,
            "disk, synced",
            synced=True,
            fill={"SYNC": "sync_interval: always"},
        ),
        Peer(
            "redis",
            "Redis pub/sub",
            "redis-server",
            "redis-server",
            dialects.RedisPubSub,
            "redis.conf",
            ("@CONFIG@",),
            "nothing stored",
        ),
        Peer(
            "redis-stream",
            "Redis stream, AOF always",
            "redis-server",
            "redis-server",
            dialects.RedisStream,
            "redis-stream.conf",
            ("@CONFIG@",),
            "disk, synced",
            synced=True,
        ),
        Peer(
            "nchan",
            "nchan",
            "nginx",
            "nginx and libnginx-mod-nchan",
            dialects.Nchan,
            "nchan.conf",
            ("-c", "@CONFIG@"),
            "memory",
            fill=KEPT,
            version=("-v",),
            replayed=10_000,
        ),
        Peer(
            "mosquitto-0",
            "mosquitto QoS 0",
            "mosquitto",
            "mosquitto",
            lambda: dialects.Mqtt(0),
            "mosquitto.conf",
            ("-c", "@CONFIG@"),
            "",
            version=("-h",),
        ),
        Peer(
            "mosquitto-1",
            "mosquitto QoS 1",
            "mosquitto",
            "mosquitto",
            lambda: dialects.Mqtt(1),
            "mosquitto.conf",
            ("-c", "@CONFIG@"),
            "nothing stored",
            version=("-h",),
        ),
        Peer(
            "socketio",
            "Socket.IO",
            "node",
            "nodejs",
            dialects.SocketIO,
            "",
            (str(HERE / "socketio" / "server.js"), "@PORT@"),
            "nothing stored",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Running:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def pids(self) -> list[int]:
        """The server's processes: nginx has workers."""
        found = [self.process.pid]
        for pid in found:
            try:
                tasks = Path(f"/proc/{pid}/task").iterdir()
                found += [int(child) for task in tasks for child in (task / "children").read_text().split()]
            except OSError:
                continue
        return found

    def memory_bytes(self) -> int:
        """Resident memory of all its processes; pages that they share count once for each."""
        page, total = os.sysconf("SC_PAGE_SIZE"), 0
        for pid in self.pids:
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
            except OSError:
                continue
        return total


def find(peer: Peer, programs: Mapping[str, str]) -> tuple[str, str]:
    """The program's path, and its name and version. ``programs``: paths that were given by hand.

    Raises: Missing, with the package.
    """
    path = shutil.which(programs.get(peer.program, peer.program), path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        raise Missing(f"there is no {peer.program}: apt install {peer.package}")
    done = subprocess.run((path, *peer.version), capture_output=True, text=True, check=False, cwd=HERE.parent.parent)
    number = re.search(r"\d+\.\d+(\.\d+)*", done.stdout + done.stderr)
    version = number.group() if number else "?"
    if peer.name == "jetstream-synced" and tuple(map(int, version.split(".")[:2])) < (2, 10):
        raise Missing(f"nats-server {version} cannot sync each message: take 2.10 or newer, --program nats-server=PATH")
    modules = Path(path).parent.parent / "share" / "nginx" / "modules"  # Debian's; nchan.conf looks there
    if peer.name == "nchan" and not (modules / "ngx_nchan_module.so").exists():
        raise Missing("nginx has no nchan: apt install libnginx-mod-nchan")
    if peer.name == "socketio":
        if not (HERE / "socketio" / "node_modules" / "socket.io").exists():
            raise Missing("there is no socket.io: npm ci --prefix bench/peers/socketio")
        package = (HERE / "socketio" / "node_modules" / "socket.io" / "package.json").read_text()
        return path, f"Socket.IO {json.loads(package)['version']} on node {version}"
    return path, f"{'unbroken' if peer.ours else peer.program} {version}"


@contextmanager
def running(peer: Peer, path: str, *, core: int | None) -> Iterator[Running]:
    """The peer, listening, on one core; stopped and forgotten afterwards.

    Raises: Missing, if it ends or does not listen in time, with what it said last.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix=f"bench-{peer.name}-", ignore_cleanup_errors=True) as directory:
        fill = {"PORT": str(port), "DIR": directory, **peer.fill}
        if peer.config:
            config = Path(directory) / peer.config
            config.write_text(_filled((HERE / "config" / peer.config).read_text(), fill))
            fill["CONFIG"] = str(config)
        said = (Path(directory) / "said").open("w+b")
        command = [path, *(_filled(argument, fill) for argument in peer.arguments)]
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            stdin=subprocess.DEVNULL,
            cwd=HERE.parent.parent,
            env={**os.environ, "GOMAXPROCS": "1", "NODE_ENV": "production"},
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )
        try:
            _wait_until_open(peer, process, port, said)
            yield Running(port, process)
        finally:
            _stop(process)
            said.close()


def _wait_until_open(peer: Peer, process: subprocess.Popen[bytes], port: int, said: object) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
                continue
            said.seek(0)  # type: ignore[attr-defined]
            last = said.read()[-500:].decode("utf-8", "replace").strip()  # type: ignore[attr-defined]
            raise Missing(f"{peer.title} does not start: {last or 'it says nothing'}") from None
        return


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _filled(text: str, fill: Mapping[str, str]) -> str:
    return re.sub(r"@(PORT|DIR|CONFIG|SYNC|KEPT)@", lambda found: fill[found.group(1)], text)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
