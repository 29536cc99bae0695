"""The real server as a process, and REST calls to it: start, kill -9, start again on the same port and data, stop.

    with Server(directory) as server:            unbroken serve --listen 127.0.0.1:0 --data directory/data
        server.kill()                            as a crash would
        server.start()                           the same port, the same data
        history(server.address, "room")          all pages, oldest first

What the server writes to stderr is kept in ``directory/stderr.log`` across all its lives."""

from __future__ import annotations

import base64
import fcntl
import http.client
import json
import os
import queue
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

KEY = "app1.key1:secret"
READY_SECONDS = 30.0  # a cold start on a busy machine takes two or three
REQUEST_SECONDS = 20.0
PAGE = 500  # messages of one page of history: small enough that tests turn pages
NO_PROXY = {"NO_PROXY": "*", "no_proxy": "*"}  # the clients that honour proxies must talk to loopback all the same

Address = tuple[str, int]

# What a supervisor does between fork and exec: it puts the sockets to 3, 4, ..., and says for whom they are.
HAND_OVER = """
import os, sys
given = [int(each) for each in sys.argv[1].split(",")]
for place, descriptor in enumerate(given, 3):
    os.dup2(descriptor, place)
for descriptor in given:
    os.close(descriptor)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given))}
os.execv(sys.argv[2], sys.argv[2:])
"""
OUT_OF_THE_WAY = 100  # descriptors above those to which they are put


class Server:
    """One server with one data directory; it may live several times."""

    def __init__(
        self,
        directory: Path,
        *,
        key: str = KEY,
        config: str | None = None,
        arguments: Sequence[str] = (),
        port: int = 0,
        before_exec: Callable[[], None] | None = None,
        executable: Path | None = None,
        sockets: Sequence[socket.socket] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``sockets``: listening ones, handed over as systemd does; they stay the caller's."""
        self.sockets = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY) for each in sockets]
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.executable = executable or Path(sys.executable).with_name("unbroken")
        self.before_exec = before_exec  # runs in the child, before it becomes the server
        self.directory = directory
        self.data = directory / "data"
        self.port = port
        self.scheme = "http"  # what it says once it is ready
        self.process: subprocess.Popen[str] | None = None
        self._key = key
        self._arguments = list(arguments)
        self._stderr = directory / "stderr.log"
        if config is not None:
            path = directory / "unbroken.toml"
            path.write_text(config)
            self._arguments += ["--config", str(path)]

    @property
    def address(self) -> Address:
        return ("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> Self:
        """Start it and wait until it says that it is ready. Raises: RuntimeError, with what it said on stderr."""
        assert self.process is None, "it is running"
        command = [str(self.executable), "serve", "--listen", f"127.0.0.1:{self.port}"]
        command += ["--data", str(self.data), "--key", self._key, *self._arguments]
        if self.sockets:
            command = [sys.executable, "-S", "-c", HAND_OVER, ",".join(map(str, self.sockets)), *command]
        with self._stderr.open("a") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=self._environment,
                preexec_fn=self.before_exec,
                pass_fds=self.sockets,
            )
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read_stdout, args=(self.process, lines), daemon=True).start()
        deadline = time.monotonic() + READY_SECONDS
        said: list[str] = []
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            found = None if line is None else re.search(r"(https?)://127\.0\.0\.1:(\d+)", line)
            if line is not None and found is not None and "ready" in line:
                self.scheme, self.port = found[1], int(found[2])
                return self
            if line is None:
                self.kill()
                raise RuntimeError(f"the server did not get ready; stdout: {said}; stderr:\n{self.stderr()}")
            said.append(line)

    @staticmethod
    def _read_stdout(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
        """Until its end, so that the server never waits for somebody to read what it prints."""
        assert process.stdout is not None
        with process.stdout as stdout:
            for line in stdout:
                lines.put(line)
        lines.put(None)

    def kill(self) -> None:
        """kill -9: nothing of it runs on."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def terminate(self) -> None:
        """Ask it to stop; it may drain."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 20.0) -> int:
        """Its exit code. Raises: subprocess.TimeoutExpired."""
        assert self.process is not None
        code = self.process.wait(seconds)
        self.process = None
        return code

    def stop(self) -> int:
        """Terminate and wait; its exit code, or -9 if it would not stop."""
        if self.process is None:
            return 0
        self.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def stderr(self) -> str:
        return self._stderr.read_text() if self._stderr.exists() else ""

    def complaints(self) -> str:
        """The part of stderr from its first traceback on; empty if the server had no bug to tell of."""
        text = self.stderr()
        at = text.find("Traceback (most recent call last)")
        return "" if at < 0 else text[at : at + 4000]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.close_sockets()

    def close_sockets(self) -> None:
        """Ours of those that it has been handed over; the caller has his own."""
        while self.sockets:
            os.close(self.sockets.pop())


def rss(pid: int) -> int:
    """Bytes of memory of a process that are in RAM now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def unsent(ours: Address, theirs: Address) -> int:
    """Bytes that the kernel keeps for the other end of a connection, which has not acknowledged them."""

    def as_listed(address: Address) -> str:
        return f"{socket.inet_aton(address[0])[::-1].hex().upper()}:{address[1]:04X}"

    for line in Path("/proc/net/tcp").read_text().splitlines():
        words = line.split()
        if words[1:3] == [as_listed(ours), as_listed(theirs)]:
            return int(words[4].partition(":")[0], 16)
    raise LookupError(f"no connection of {ours} with {theirs}")


def wait_until(condition: Callable[[], bool], *, seconds: float = 20.0, what: str = "the condition") -> None:
    """Return as soon as it holds. Raises: TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {seconds} s")
        time.sleep(0.01)


def request(
    address: Address,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str = KEY,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, Any, list[str]]:
    """One REST call in JSON: status, decoded body, Link headers."""
    if tls is None:
        connection = http.client.HTTPConnection(*address, timeout=REQUEST_SECONDS)
    else:
        connection = http.client.HTTPSConnection(*address, timeout=REQUEST_SECONDS, context=tls)
    sent = {"Accept": "application/json", "Authorization": "Basic " + base64.b64encode(key.encode()).decode()}
    content = None
    if body is not None:
        sent["Content-Type"] = "application/json"
        content = json.dumps(body).encode()
    try:
        connection.request(method, path, content, {**sent, **(headers or {})})
        response = connection.getresponse()
        text = response.read()
        links = response.headers.get_all("Link") or []
        return response.status, json.loads(text) if text else None, links
    finally:
        connection.close()


def channel_path(channel: str) -> str:
    return f"/channels/{urllib.parse.quote(channel, safe='')}/messages"


def publish(address: Address, channel: str, messages: Any) -> Any:
    """A REST publish that must succeed: the response's body."""
    status, body, _ = request(address, "POST", channel_path(channel), messages)
    assert status == 201, (status, body)
    return body


def history(
    address: Address,
    channel: str,
    *,
    limit: int = PAGE,
    direction: str = "forwards",
    tls: ssl.SSLContext | None = None,
) -> list[dict[str, Any]]:
    """All that is stored in a channel, page after page."""
    path = channel_path(channel)
    following: str | None = f"{path}?limit={limit}&direction={direction}"
    messages: list[dict[str, Any]] = []
    while following is not None:
        status, page, links = request(address, "GET", following, tls=tls)
        assert status == 200, (status, page)
        assert len(page) <= limit
        messages += page
        rels = {match[2]: match[1] for link in links if (match := re.match(r'<\./(.*)>; *rel="(\w+)"', link))}
        following = path.rpartition("/")[0] + "/" + rels["next"] if "next" in rels else None
    return messages


def token(
    address: Address,
    capability: Mapping[str, Sequence[str]],
    *,
    client_id: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> str:
    """A token of the test key with less rights."""
    name = KEY.partition(":")[0]
    body: dict[str, Any] = {"keyName": name, "capability": json.dumps(capability)}
    if client_id is not None:
        body["clientId"] = client_id
    status, details, _ = request(address, "POST", f"/keys/{name}/requestToken", body, tls=tls)
    assert status in (200, 201), (status, details)
    return str(details["token"])
