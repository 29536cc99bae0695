"""A WebSocket library that knows nothing of us is served as ours are: its own handshake, masks, pongs, and goodbye."""

from __future__ import annotations

import json

import msgpack
import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import ClientConnection, connect

from tests.harness import KEY
from tests.peer import PATIENCE, Action
from tests.wsclient import Served


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_a_library_of_others_is_served(served: Served, channel: str, format: str) -> None:
    def say(websocket: ClientConnection, **message: object) -> None:
        websocket.send(json.dumps(message) if format == "json" else msgpack.packb(message))

    def heard(websocket: ClientConnection, action: Action) -> dict[str, object]:
        """The next one of these."""
        while True:
            payload = websocket.recv(PATIENCE)
            assert isinstance(payload, str) == (format == "json")
            message: dict[str, object] = json.loads(payload) if format == "json" else msgpack.unpackb(payload)
            if message["action"] == action:
                return message

    uri = f"{'ws' if served.tls is None else 'wss'}://127.0.0.1:{served.server.port}/?key={KEY}&v=6&format={format}"
    with connect(uri, ssl=served.tls, max_size=None) as websocket:
        heard(websocket, Action.CONNECTED)
        say(websocket, action=Action.ATTACH, channel=channel)
        heard(websocket, Action.ATTACHED)
        for number, datas in enumerate((["grüße 世界"], [""], ["x" * 30_000] * 2, ["y" * 60_000])):
            messages = [{"data": data} for data in datas]
            say(websocket, action=Action.MESSAGE, channel=channel, msgSerial=number, messages=messages)
            delivered = heard(websocket, Action.MESSAGE)["messages"]
            assert isinstance(delivered, list)
            assert [each["data"] for each in delivered] == datas
        assert websocket.ping().wait(PATIENCE)
        say(websocket, action=Action.CLOSE)
        heard(websocket, Action.CLOSED)
        with pytest.raises(ConnectionClosedOK) as closed:
            websocket.recv(PATIENCE)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
