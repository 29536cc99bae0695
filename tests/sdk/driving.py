"""Client SDKs as tests see them: a driver process for each SDK, and in it any number of its clients.

    with Driver(PYTHON) as driver:
        alice = driver.connect(server.port, binary=True, clientId="alice")
        alice.subscribe("room")
        alice.publish("room", {"name": "n", "data": text("x")})
        alice.messages("room", 1)

Payloads are tagged as the drivers tag them: ``text``, ``binary``, ``structure``."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.checker import Attached, Delivered, Outcome, PublisherLog, Sent, SubscriberLog
from tests.harness import KEY, NO_PROXY

HERE = Path(__file__).parent
ANSWER_SECONDS = 40.0  # longer than whatever a command itself waits for
INSTALL_SECONDS = 180

PYTHON = (sys.executable, str(HERE / "driver.py"))
JAVASCRIPT = ("node", str(HERE / "driver.mjs"))

Payload = dict[str, Any]


def text(value: str) -> Payload:
    return {"text": value}


def binary(value: bytes) -> Payload:
    return {"bytes": base64.b64encode(value).decode()}


def structure(value: Any) -> Payload:
    return {"json": value}


class SdkError(Exception):
    """What the client library raised."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.code = error.get("code")
        self.status = error.get("statusCode")
        self.message = str(error.get("message"))


class Driver:
    """One process that runs one SDK."""

    def __init__(self, command: Sequence[str], stderr: Path) -> None:
        self._stderr = stderr
        with stderr.open("a") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=HERE,
                env={**os.environ, **NO_PROXY},
            )
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._clients = itertools.count(1)
        self._open: list[Client] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                answer = json.loads(line)
                self._answers[answer["id"]].put(answer)
        for waiting in list(self._answers.values()):
            waiting.put({"error": {"message": "the driver has ended"}})

    def call(self, op: str, **fields: Any) -> Any:
        """Carry out one command. Raises: SdkError, with what the library said; TimeoutError."""
        number = next(self._numbers)
        answers = self._answers[number] = queue.Queue()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "op": op, **fields}) + "\n")
        self._process.stdin.flush()
        try:
            answer = answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise TimeoutError(f"{op} was not answered; stderr: {self._stderr.read_text()[-4000:]}") from None
        finally:
            del self._answers[number]
        if "error" in answer:
            raise SdkError(answer["error"])
        return answer["value"]

    def client(self, port: int, *, binary: bool = False, **options: Any) -> Client:
        """A client that is not connected yet.

        Options: tls, token, authUrl, authCallback (a URL too, asked by the callback), basic, echo, clientId, recover,
        transportParams, plugins.
        """
        made = Client(self, f"client{next(self._clients)}", {"port": port, "binary": binary, "key": KEY, **options})
        self._open.append(made)
        return made

    def connect(self, port: int, *, binary: bool = False, **options: Any) -> Client:
        made = self.client(port, binary=binary, **options)
        state = made.connect()
        assert state["state"] == "connected", state
        return made

    def rest_publish(
        self, port: int, channel: str, *messages: dict[str, Any], binary: bool = False, **credentials: Any
    ) -> list[str]:
        options = {"port": port, "binary": binary, "key": KEY, **credentials}
        return list(self.call("rest_publish", channel=channel, messages=messages, options=options)["serials"])

    def rest(
        self, what: str, port: int, binary: bool, *, credentials: dict[str, Any] | None = None, **fields: Any
    ) -> Any:
        """What a client of the REST interface alone says: history, stats, status, batch, time, token, request ..."""
        options = {"port": port, "binary": binary, **({"key": KEY} if credentials is None else credentials)}
        return self.call(f"rest_{what}", options=options, **fields)

    def speaks(self, op: str) -> bool:
        """Does the SDK have a method for it?"""
        return bool(self.call("speaks", of=op))

    def close_clients(self) -> None:
        while self._open:
            self._open.pop().close()

    def kill(self) -> None:
        """As when a page is reloaded or a process dies: nothing is said to the server."""
        self._process.kill()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()


class Client:
    """One realtime client of the SDK."""

    def __init__(self, driver: Driver, name: str, options: dict[str, Any]) -> None:
        self._driver, self._name = driver, name
        self._closed = False
        self._call("new", options=options)

    def _call(self, op: str, **fields: Any) -> Any:
        return self._driver.call(op, client=self._name, **fields)

    def connect(self) -> dict[str, Any]:
        """Until it is connected or has failed: state, id, key, clientId, error, states passed through."""
        return dict(self._call("connect"))

    def connection(self) -> dict[str, Any]:
        return dict(self._call("connection"))

    def wait(self, *states: str, seconds: float = 20) -> dict[str, Any]:
        return dict(self._call("wait", states=states, seconds=seconds))

    def ping(self) -> float:
        return float(self._call("ping")["milliseconds"])

    def authorize(self) -> dict[str, Any]:
        """Come with new credentials, on the open connection."""
        return dict(self._call("authorize"))

    def attach(self, channel: str, **options: Any) -> dict[str, Any]:
        return dict(self._call("attach", channel=channel, **options))

    def set_options(self, channel: str, params: dict[str, str]) -> None:
        """While it is attached, and stays so; until they are in force."""
        self._call("options", channel=channel, params=params)

    def detach(self, channel: str) -> None:
        self._call("detach", channel=channel)

    def subscribe(self, channel: str, **options: Any) -> None:
        self._call("subscribe", channel=channel, **options)

    def events(self, channel: str, **until: Any) -> list[dict[str, Any]]:
        """All messages and state changes of the channel so far, once ``count`` messages or the ``last`` are there."""
        return list(self._call("log", channel=channel, **until))

    def messages(self, channel: str, count: int = 0, **until: Any) -> list[dict[str, Any]]:
        events = self.events(channel, count=count, **until)
        return [event for event in events if event["kind"] == "message"]

    def log(self, channel: str, **options: Any) -> SubscriberLog:
        """For the checker; a message is known by its name."""
        events: list[Attached | Delivered] = []
        for event in self.events(channel):
            if event["kind"] == "message":
                events.append(Delivered(event["name"], event["serial"]))
            elif event["state"] == "attached":
                events.append(Attached(bool(event.get("resumed")), event.get("position")))
        return SubscriberLog(self._name, events, **options)

    def attachments(self, channel: str) -> list[dict[str, Any]]:
        """Each time that it became attached."""
        return [event for event in self.events(channel) if event.get("state") == "attached"]

    def publish(self, channel: str, *messages: dict[str, Any], **options: Any) -> list[str]:
        return list(self._call("publish", channel=channel, messages=messages, **options)["serials"])

    def flood(self, channel: str, prefix: str, count: int, **options: Any) -> None:
        """Publish in the background; see ``flooded``."""
        self._call("flood", channel=channel, prefix=prefix, count=count, **options)

    def flooded(self, channel: str, prefix: str) -> PublisherLog:
        """How it went, for the checker; returns when all is answered."""
        sent = []
        for result in self._call("flooded", channel=channel, prefix=prefix):
            outcome = Outcome.NACKED if "error" in result else Outcome.ACKED
            sent.append(Sent(result["name"], outcome, result.get("serial")))
        return PublisherLog(prefix, sent, all_answered=True)

    def history(self, channel: str, **query: Any) -> tuple[list[dict[str, Any]], int]:
        """All items of all pages, and how many pages there were."""
        found = self._call("history", channel=channel, query=query)
        return list(found["items"]), int(found["pages"])

    def ask(self, what: str, channel: str) -> int | None:
        """One of tests/sdk/asking.*, on a channel of its own: how many there are, if it is a list. Raises: SdkError."""
        found = self._call("ask", what=what, channel=channel)["found"]
        return None if found is None else int(found)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._call("close")


def javascript_missing() -> str | None:
    """Why the JavaScript client can't be driven here; None: it can. Installs it, once."""
    if shutil.which("node") is None:
        return "node is not installed"
    if (HERE / "node_modules" / "ably" / "package.json").exists():
        return None
    if shutil.which("npm") is None:
        return "npm is not installed"
    command = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"npm install took more than {INSTALL_SECONDS} s"
    return None if done.returncode == 0 else f"npm install failed: {done.stderr.strip()[-500:]}"


def python_missing() -> str | None:
    return None if importlib.util.find_spec("ably") else "the ably package is not installed"


def require(missing: str | None) -> None:
    """Skip, and say why; where the SDKs are required, fail."""
    if missing is not None:
        if os.environ.get("UNBROKEN_REQUIRE_SDK") == "1":
            pytest.fail(missing)
        pytest.skip(missing)


SDKS = {"js": (JAVASCRIPT, javascript_missing), "python": (PYTHON, python_missing)}


def driver_of(sdk: str, directory: Path) -> Driver:
    """A process that runs one of SDKS, in the directory its stderr.log. Skips or fails where the SDK can't run."""
    command, missing = SDKS[sdk]
    require(missing())
    return Driver(command, directory / "stderr.log")
