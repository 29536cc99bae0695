"""The example units of docs/systemd, started, reloaded and restarted as systemd would, by a stand-in for it."""

from __future__ import annotations

import configparser
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import HAND_OVER, KEY, OUT_OF_THE_WAY, READY_SECONDS, publish, request
from tests.peer import Peer
from tests.wsclient import Action, WsClient

UNITS = Path(__file__).parent.parent / "docs" / "systemd"
COMMAND = Path(sys.executable).with_name("unbroken")


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]  # names are as they are written
    found.read_string((UNITS / name).read_text())
    return found


class StandIn:
    """Binds what the socket's unit says (on a port that is free), starts what the service's says, and listens to it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket_unit, self.service = unit("unbroken.socket"), unit("unbroken.service")
        assert self.socket_unit["Socket"]["ListenStream"] == "8080"
        self.listening = socket.create_server(
            ("::", 0),
            family=socket.AF_INET6,
            dualstack_ipv6=True,  # as systemd does, unless BindIPv6Only says otherwise
            backlog=int(self.socket_unit["Socket"]["Backlog"]),
        )
        self.address = ("127.0.0.1", int(self.listening.getsockname()[1]))
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(directory / "notify"))
        self._notified.settimeout(READY_SECONDS)
        (directory / "unbroken.toml").write_text("")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        service = self.service["Service"]
        assert service["Type"] == "notify"
        command = shlex.split(service["ExecStart"])
        assert command[0] == "/opt/unbroken/bin/unbroken"
        places = {"/etc/unbroken/unbroken.toml": "unbroken.toml", "/var/lib/unbroken": "data"}
        command = [str(self._directory / places[each]) if each in places else each for each in command[1:]]
        descriptor = os.dup(self.listening.fileno())
        high = os.dup2(descriptor, OUT_OF_THE_WAY)
        os.close(descriptor)
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", HAND_OVER, str(high), str(COMMAND), *command],
            pass_fds=[high],
            env={**os.environ, "NOTIFY_SOCKET": str(self._directory / "notify"), "UNBROKEN_KEY": KEY},
        )
        os.close(high)
        assert self.hears() == "READY=1"

    def hears(self) -> str:
        """The first line of the next that it is told."""
        return self._notified.recv(1000).decode().split("\n")[0]

    def reload(self) -> None:
        assert self.process is not None
        command = self.service["Service"]["ExecReload"].replace("$MAINPID", str(self.process.pid))
        subprocess.run(shlex.split(command), check=True)
        assert [self.hears(), self.hears()] == ["RELOADING=1", "READY=1"]

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.hears() == "STOPPING=1"
        assert self.process.wait(READY_SECONDS) == 0
        self.process = None

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.listening.close()
        self._notified.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[StandIn]:
    made = StandIn(tmp_path)
    yield made
    made.close()


def test_the_units_belong_together() -> None:
    service = unit("unbroken.service")["Unit"]
    assert service["Requires"] == "unbroken.socket" and "unbroken.socket" in service["After"].split()
    assert unit("unbroken.socket")["Install"]["WantedBy"] == "sockets.target"


def test_example_service_restarts_behind_an_open_port(systemd: StandIn) -> None:
    systemd.start()
    with WsClient(systemd.address) as client:
        client.attach("room")
        systemd.reload()
        publish(systemd.address, "room", {"name": "one"})
        cursor = client.deliveries("room", 1)[0]["channelSerial"]
        systemd.stop()
        client.expect(Action.DISCONNECTED)
        with Peer(systemd.address, patience=READY_SECONDS) as waiting:
            waiting.send(b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            systemd.start()
            assert waiting.answer()[0] == 200
        with WsClient(systemd.address, resume=client.connection_key) as again:
            assert again.connection_id == client.connection_id
            again.attach("room", channelSerial=cursor)
            publish(systemd.address, "room", {"name": "two"})
            assert [each["name"] for each in again.deliveries("room", 1)] == ["two"]
    assert request(systemd.address, "GET", "/time")[0] == 200
    systemd.stop()
