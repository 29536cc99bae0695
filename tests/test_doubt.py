"""What a failed sync leaves in doubt: nobody is told that it is refused who may find it stored after a crash.

Here the bytes are in the log when its sync fails, and the journal does not reopen; then comes ``kill -9``."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.checker import Outcome, PublisherLog, Sent, check
from tests.failing_disk import FailingDisk
from tests.harness import Server, history, request, wait_until
from tests.restclient import RestClient
from tests.returning import marks_of, settle_and_check
from tests.test_recovery import started, wait_for_acks
from tests.wsclient import Action, GoneError, WsClient

MakeServer = Callable[..., Server]
KINDS = ["plain", "own id", "several", "several with ids", "batch"]


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> FailingDisk:
    """Where a test has a case "mended", doubts are told soon."""
    return FailingDisk(tmp_path, doubt_seconds=1.5 if "mended" in request.node.name else 60)


def in_doubt(server: Server, entries: int = 1) -> None:
    """Wait until the server says so."""

    def told() -> bool:
        reasons = request(server.address, "GET", "/health")[1]["reasons"]
        matches = [re.fullmatch(r"the outcome of (\d+) publishes is unknown", reason) for reason in reasons]
        return any(each is not None and int(each[1]) >= entries for each in matches)

    wait_until(told, what="a doubt")


@pytest.mark.parametrize("closed", [False, True], ids=["readable", "closed"])
def test_refused_publish_is_not_stored_after_a_kill(
    make_server: MakeServer, channel: str, disk: FailingDisk, closed: bool
) -> None:
    """Publishers in both formats, by the short and the long way, with ids and without, under load."""
    server = make_server(executable=disk.executable)
    publishers, subscribers = started(channel, server.address, count=400, pace_seconds=0.002)
    for _ in range(2):
        wait_for_acks(publishers, 100)
        disk.fail(closed=closed)
        in_doubt(server)
        time.sleep(0.3)
        server.kill()
        disk.mend()
        server.start()
    report = settle_and_check(server.address, channel, publishers, subscribers)
    assert not report.faults, str(report)
    assert report.stored == report.acked


def messages_of(kind: str) -> list[dict[str, Any]]:
    if kind == "plain":
        return [{"name": "0"}]
    if kind == "own id":
        return [{"name": "0", "id": "mine"}]
    return [{"name": str(n), **({"id": f"mine:{n}"} if "ids" in kind or kind == "batch" else {})} for n in range(3)]


def names_in(server: Server, channel: str) -> list[str]:
    return [message["name"] for message in history(server.address, channel)]


def test_doubt_over_a_connection_is_answered_only_once_known(
    make_server: MakeServer, channel: str, disk: FailingDisk
) -> None:
    """In both formats, each kind of publish: by the short way, and by the long one."""
    server = make_server(executable=disk.executable)
    cases = {f"{channel}-{format}-{kind}": (format, kind) for format in ("json", "msgpack") for kind in KINDS[:-1]}
    clients = {name: WsClient(server.address, format=format) for name, (format, _) in cases.items()}
    first = WsClient(server.address)
    first.publish(channel, {"name": "awake"})
    for name, client in clients.items():
        client.publish(name, {"name": "before"})
    disk.hold()
    first.send_messages(channel, [{"name": "holds the others up"}])
    first.send({"action": Action.HEARTBEAT, "id": "read"})
    first.expect(Action.HEARTBEAT)
    for name, client in clients.items():
        client.send_messages(name, messages_of(cases[name][1]))
        client.send({"action": Action.HEARTBEAT, "id": "read"})
    for client in clients.values():
        client.expect(Action.HEARTBEAT)
    disk.fail()
    in_doubt(server, len(clients))
    for name, client in clients.items():
        client.send_messages(name, [{"name": "later"}])
    time.sleep(1.3)  # the journal is tried again every second
    for client in clients.values():
        with pytest.raises(TimeoutError):
            client.expect(Action.ACK, Action.NACK, seconds=0.01)
    server.kill()
    disk.mend()
    server.start()
    for name, client in clients.items():
        format, kind = cases[name]
        messages = messages_of(kind)
        with client, WsClient(server.address, format=format, resume=client.connection_key) as again:
            again.send_messages(name, messages, msg_serial=1)
            again.send_messages(name, [{"name": "later"}], msg_serial=2)
            answered = 0
            while answered < 2:
                answer = again.expect(Action.ACK, Action.NACK)
                assert answer["action"] == Action.ACK
                answered += answer["count"]
        assert names_in(server, name) == ["before", *(message["name"] for message in messages), "later"], name
    first.drop()


class Asking(threading.Thread):
    """One publish over HTTP, whose answer may not come."""

    def __init__(self, server: Server, channel: str, kind: str, *, packed: bool, short: bool) -> None:
        super().__init__(daemon=True)
        self.channel = f"{channel}-{kind}-{packed}-{short}"
        self.messages = messages_of(kind)
        self.kind = kind
        self.told: tuple[int, Any] | None = None
        self.sends = threading.Event()
        self.rest = RestClient(server.address, packed=packed, short=short)
        self.rest.publish(self.channel, {"name": "before"})  # the connection is there, and has its permit

    def run(self) -> None:
        self.sends.set()
        with contextlib.suppress(OSError, HTTPException):
            self.told = self.ask(self.rest, self.messages)

    def ask(self, rest: RestClient, messages: list[dict[str, Any]]) -> tuple[int, Any]:
        if self.kind == "batch":
            answer = rest.ask("POST", "/messages", {"channels": [self.channel], "messages": messages})
            result = answer.value["results"][0]
            return result.get("error", {"statusCode": answer.status})["statusCode"], result
        answer = rest.post(self.channel, messages if len(messages) > 1 else messages[0])
        return answer.status, answer.value

    def ask_again(self, server: Server, messages: list[dict[str, Any]]) -> int:
        with RestClient(server.address, packed=self.rest.packed) as rest:
            return self.ask(rest, messages)[0]

    @property
    def stored(self) -> list[str]:
        return ["before", *(message["name"] for message in self.messages)]


@pytest.fixture
def asked(channel: str, disk: FailingDisk) -> Iterator[Callable[[Server], list[Asking]]]:
    """Publishes of every kind, in both formats, by both ways, and all in one batch that is in doubt."""
    made: list[Asking] = []

    def ask(server: Server) -> list[Asking]:
        for kind in KINDS:
            for packed in (False, True):
                made.extend(Asking(server, channel, kind, packed=packed, short=short) for short in (True, False))
        with WsClient(server.address) as first:
            first.publish(channel, {"name": "awake"})
            disk.hold()
            first.send_messages(channel, [{"name": "holds the others up"}])
            first.send({"action": Action.HEARTBEAT, "id": "read"})
            first.expect(Action.HEARTBEAT)
            for asking in made:
                asking.start()
            for asking in made:
                asking.sends.wait()
            time.sleep(0.4)  # until they are all with the server, which tells nobody
            disk.fail()
        in_doubt(server, len(made))
        return made

    yield ask
    for asking in made:
        asking.rest.close()


def test_doubt_over_http_is_answered_only_once_known(
    make_server: MakeServer, channel: str, disk: FailingDisk, asked: Callable[[Server], list[Asking]]
) -> None:
    server = make_server(executable=disk.executable)
    asking = asked(server)
    for packed, short in itertools.product((False, True), repeat=2):
        with RestClient(server.address, packed=packed, short=short) as other:
            assert other.post(asking[0].channel, {"name": "new"}).refusal == (503, 50003), "it was never written"
    time.sleep(1.3)  # the journal is tried again every second
    assert all(one.is_alive() for one in asking)
    server.kill()
    for one in asking:
        one.join(20)
    disk.mend()
    server.start()
    for one in asking:
        assert one.told is None
        if "id" in one.messages[0]:  # the library sends it again
            assert one.ask_again(server, one.messages) == 201
        assert names_in(server, one.channel) == one.stored


@pytest.mark.parametrize("ends", ["mended", "drained"])
def test_long_http_waiter_is_told_unknown_and_the_stored_id(
    make_server: MakeServer, disk: FailingDisk, asked: Callable[[Server], list[Asking]], ends: str
) -> None:
    server = make_server(executable=disk.executable)
    asking = asked(server)
    if ends == "drained":
        server.terminate()
    for one in asking:
        one.join(20)
    disk.mend()
    if ends == "drained":
        assert server.wait() == 0
        server.start()
    wait_until(lambda: request(server.address, "GET", "/health")[0] == 200, what="an open journal")
    for one in asking:
        assert one.told is not None, one.channel
        status, told = one.told
        assert (status, told["error"]["code"]) == (504, 50003), one.channel
        first = told["messageId"]
        assert f"the first message is {first!r}" in told["error"]["message"]
        assert first == one.messages[0].get("id", first)
        again = one.messages
        if "id" not in again[0]:
            again = [{**message, "id": first.removesuffix("0") + str(n)} for n, message in enumerate(again)]
        assert one.ask_again(server, again) == 201
        assert names_in(server, one.channel) == one.stored


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("ends", ["mended", "drained"])
def test_long_waiting_client_is_disconnected_and_stored_once(
    make_server: MakeServer, channel: str, disk: FailingDisk, format: str, ends: str
) -> None:
    server = make_server(executable=disk.executable)
    sent = [Sent("before")]
    with WsClient(server.address, format=format) as client, WsClient(server.address) as other:
        assert other.attach(channel)
        client.publish(channel, {"name": "before"})
        disk.fail()
        number = client.send_messages(channel, [{"name": "0"}])
        in_doubt(server)
        client.send_messages(channel, [{"name": "1"}])
        if ends == "drained":
            server.terminate()
        gone = client.expect(Action.ACK, Action.NACK, Action.DISCONNECTED)
        assert (gone["action"], gone["error"]["statusCode"] // 100) == (Action.DISCONNECTED, 5)
        assert ends == "drained" or gone["error"]["code"] == 50003
        with pytest.raises(GoneError):
            client.expect(Action.ACK, Action.NACK, seconds=5)
        key = client.connection_key
        if ends == "mended":
            other.send({"action": Action.HEARTBEAT, "id": "x"})
            assert other.expect(Action.HEARTBEAT)["id"] == "x", "nobody else is concerned"
    if ends == "drained":
        assert server.wait() == 0
    disk.mend()
    if ends == "drained":
        server.start()
    wait_until(lambda: request(server.address, "GET", "/health")[0] == 200, what="an open journal")
    with WsClient(server.address, format=format, resume=key) as client:
        assert "error" not in client.connected
        for again in range(2):
            client.send_messages(channel, [{"name": str(again)}], msg_serial=number + again)
            answer = client.expect(Action.ACK, Action.NACK)
            assert answer["action"] == Action.ACK
            sent.append(Sent(str(again), Outcome.ACKED, answer["res"][0]["serials"][0]))
    report = check([PublisherLog("publisher", sent)], [], marks_of(history(server.address, channel)))
    assert not report.faults, str(report)
    assert report.stored == 3
