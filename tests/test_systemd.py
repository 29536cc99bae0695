"""What server.systemd promises: sockets of a supervisor are served and outlive us, and it is told how we are."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.errors import StartupFailed
from server.systemd import inherited_sockets, notify
from server.transport.doors import LAST_CALL_SECONDS, Doors
from tests.checker import Outcome
from tests.harness import Server, channel_path, history, request
from tests.peer import Peer
from tests.reloads import reload
from tests.sdk.driving import JAVASCRIPT, Driver, javascript_missing, require
from tests.wsclient import ATTACH_RESUME, RESUMED, Action, GoneError, WsClient

CROWD = 50


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Bound by us, as systemd does; no life of the server closes it."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as made:
        yield made


def port_of(listening: socket.socket) -> int:
    return int(listening.getsockname()[1])


# what is handed over


def test_a_socket_that_is_handed_over_is_served(make_server: Any, listening: socket.socket) -> None:
    server = make_server(sockets=[listening])
    assert server.port == port_of(listening)
    with WsClient(server.address) as client:
        client.publish("room", {"data": "x"})


def test_several_are_served_and_all_are_told(make_server: Any, listening: socket.socket) -> None:
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        make_server(sockets=[listening, *others])
        for each in (listening, *others):
            assert request(("127.0.0.1", port_of(each)), "GET", "/time")[0] == 200


def test_one_is_served_with_tls_where_there_is_a_certificate(
    make_server: Any, listening: socket.socket, authority: Any
) -> None:
    server = make_server(sockets=[listening], arguments=authority[0])
    assert server.url == f"https://127.0.0.1:{port_of(listening)}"
    with WsClient(server.address, tls=authority[1]) as client:
        client.publish("room", {"data": "x"})
        reload(server)
        client.publish("room", {"data": "x"})


def unbound() -> socket.socket:
    return socket.socket()


def connected() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as to:
        return socket.create_connection(to.getsockname())


def of_unix() -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind("")
    made.listen()
    return made


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (unbound, "it does not listen"),
        (connected, "it does not listen; in its systemd unit, set Accept=no"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "it is a datagram socket"),
        (of_unix, "it is a UNIX socket"),
        (lambda: open(os.devnull), "it is not a socket"),  # noqa: SIM115 - the test closes it
    ],
    ids=["unbound", "connected", "UDP", "UNIX", "file"],
)
def test_descriptor_that_is_no_listening_socket_is_refused(
    tmp_path: Path, listening: socket.socket, make: Callable[[], Any], reason: str
) -> None:
    with make() as other:
        server = Server(tmp_path, sockets=[listening, other])
        with pytest.raises(RuntimeError) as refused:
            server.start()
        server.close_sockets()
    assert f"unbroken: LISTEN_FDS: descriptor 4 is not a listening TCP socket: {reason}" in str(refused.value)
    assert not server.complaints()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"LISTEN_FDS": "x"}, "LISTEN_FDS: must be a number, got 'x'"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS: must be a number, got '-1'"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "0x1"}, "LISTEN_PID: must be a number, got '0x1'"),
        ({"LISTEN_FDS": "65000"}, "is not a listening TCP socket: "),
    ],
)
def test_what_is_not_as_the_protocol_has_it_is_refused(environment: dict[str, str], reason: str) -> None:
    with pytest.raises(StartupFailed) as refused:
        inherited_sockets({"LISTEN_PID": str(os.getpid()), **environment})
    assert reason in str(refused.value)


@pytest.mark.parametrize("environment", [{}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "1"}], ids=str)
def test_what_is_for_another_process_is_left_alone(environment: dict[str, str]) -> None:
    given = {**environment, "OTHER": "x"}
    assert inherited_sockets(given) == []
    assert given == {"OTHER": "x"}, "and our children do not take it for theirs"


# restarts


class Crowd:
    """Clients that come back as SDKs do: told to go, each tries once, at once, to take its connection up again."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._tls = tls
        self.clients = [WsClient(server.address, tls=tls) for _ in range(CROWD)]
        for client in self.clients:
            client.attach("room")
        self.cursors = [""] * CROWD
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def expect(self, *names: str) -> None:
        """Each gets just these, in this order."""
        for n, client in enumerate(self.clients):
            got = client.deliveries("room", len(names))
            assert [each["name"] for each in got] == list(names)
            self.cursors[n] = got[-1]["channelSerial"]

    def begin_to_return(self) -> None:
        self._threads = [threading.Thread(target=self._return, args=(n,)) for n in range(CROWD)]
        for thread in self._threads:
            thread.start()

    def have_returned(self) -> None:
        for thread in self._threads:
            thread.join()
        assert not self.failures, self.failures[:3]

    def _return(self, n: int) -> None:
        try:
            before = self.clients[n]
            with contextlib.suppress(GoneError):
                before.expect(Action.DISCONNECTED)
            before.drop()
            client = self.clients[n] = WsClient(self._server.address, tls=self._tls, resume=before.connection_key)
            assert client.connection_id == before.connection_id and "error" not in client.connected
            assert client.attach("room", channelSerial=self.cursors[n], flags=ATTACH_RESUME)["flags"] & RESUMED
        except BaseException as error:  # told where the test can see it
            self.failures.append(error)

    def leave(self) -> None:
        for client in self.clients:
            client.drop()


@pytest.mark.parametrize("way", ["plain", "TLS"])
def test_restart_closes_no_port_and_loses_nothing(
    make_server: Any, listening: socket.socket, authority: Any, way: str
) -> None:
    arguments, tls = authority if way == "TLS" else ((), None)
    server = make_server(sockets=[listening], arguments=arguments)
    crowd = Crowd(server, tls)

    def post(*names: str) -> None:
        path, body = channel_path("room"), [{"name": name} for name in names]
        assert request(server.address, "POST", path, body, tls=tls)[0] == 201

    post("first", "second")
    crowd.expect("first", "second")
    crowd.begin_to_return()
    server.terminate()
    assert server.wait() == 0
    with ThreadPoolExecutor() as pool:  # there is no server at all: who comes now waits for the next one
        posted = pool.submit(post, "between")
        server.start()
        posted.result()
    crowd.have_returned()
    post("last")
    crowd.expect("between", "last")
    crowd.leave()
    assert [message["name"] for message in history(server.address, "room", tls=tls)] == [
        "first",
        "second",
        "between",
        "last",
    ]


def test_a_crash_closes_no_port_either(make_server: Any, listening: socket.socket) -> None:
    server = make_server(sockets=[listening])
    server.kill()
    with Peer(server.address) as early:
        early.send(b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        server.start()
        assert early.answer()[0] == 200


@pytest.mark.sdk
def test_ably_js_is_back_with_its_first_try(make_server: Any, listening: socket.socket, tmp_path: Path) -> None:
    """It makes one at once; if that meets a closed port, it waits for 15 s."""
    require(javascript_missing())
    server = make_server(sockets=[listening])
    with Driver(JAVASCRIPT, tmp_path / "driver.log") as driver:
        reader, publisher = driver.connect(server.port), driver.connect(server.port, binary=True)
        reader.subscribe("room")
        publisher.flood("room", "p", 400, pause=10, every=2)
        reader.messages("room", 20)
        server.terminate()
        assert server.wait() == 0
        server.start()
        log = publisher.flooded("room", "p")
        assert all(sent.outcome is Outcome.ACKED for sent in log.sent)
        names = [message["name"] for message in reader.messages("room", last="p/000399")]
        assert names == [f"p/{n:06d}" for n in range(400)]
        for client in (reader, publisher):
            states = [change["state"] for change in client.connection()["states"]]
            assert states.count("disconnected") == 1 and states[-1] == "connected", states
        driver.close_clients()


# what a supervisor is told


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """What hears of it, and where it is."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(path))
        made.settimeout(20)
        yield made, str(path)


def test_a_supervisor_is_told_when_we_are_ready_reload_and_stop(
    make_server: Any, supervisor: tuple[socket.socket, str]
) -> None:
    heard, path = supervisor
    server = make_server(environment={"NOTIFY_SOCKET": path}, config="")
    assert heard.recv(1000) == b"READY=1"
    for config in ("", "nonsense"):
        reload(server, config)
        begun = heard.recv(1000).split(b"\n")
        assert begun[0] == b"RELOADING=1" and begun[1].startswith(b"MONOTONIC_USEC=")
        assert heard.recv(1000) == b"READY=1", "also after one that was refused: we go on"
    server.terminate()
    assert heard.recv(1000) == b"STOPPING=1"
    assert server.wait() == 0


def test_a_supervisor_may_have_an_abstract_address_or_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("")  # the system finds a name
        heard.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + heard.getsockname()[1:].decode())
        notify("READY=1", "STATUS=x")
        assert heard.recv(100) == b"READY=1\nSTATUS=x"
    notify("READY=1")  # it is gone: that is said, and harms nobody
    assert "NOTIFY_SOCKET" in caplog.text
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


class Door:
    """Of an entrance or its newcomers: there are so many, until the time."""

    def __init__(self, until: float) -> None:
        self._until = until
        self.shut_at: float | None = None

    def shut(self) -> None:
        self.shut_at = trio.current_time()

    def __len__(self) -> int:
        return trio.current_time() < self._until


@pytest.mark.parametrize(
    ("here", "begun", "waits"), [(0.0, 0.0, 0.0), (0.3, 0.0, 0.3), (0.0, 0.3, 0.3), (60, 0, LAST_CALL_SECONDS)]
)
def test_last_accepted_identify_before_others_are_told_to_go(here: float, begun: float, waits: float) -> None:
    async def run() -> None:
        start = trio.current_time()
        all_doors: Any = Doors.__new__(Doors)
        doors = [(Door(start + here), Door(start + begun)), (Door(start), Door(start))]
        all_doors._open = doors
        await all_doors.last_call()
        assert waits <= trio.current_time() - start <= waits + 0.02
        assert all(entrance.shut_at == start for entrance, _ in doors)

    trio.run(run, clock=MockClock(autojump_threshold=0))
