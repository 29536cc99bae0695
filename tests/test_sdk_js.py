"""The published JavaScript client against the running server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import publish
from tests.sdk.contract import SdkContract
from tests.sdk.driving import JAVASCRIPT, PYTHON, Driver, javascript_missing, python_missing, require, structure

pytestmark = pytest.mark.sdk


class TestJavaScript(SdkContract):
    command = JAVASCRIPT

    @staticmethod
    def missing() -> str | None:
        return javascript_missing()

    @staticmethod
    def recovery(key: str, connection_key: str) -> dict[str, Any]:
        return {"recover": key}

    def test_history_until_attach_and_live_messages_meet_without_gap_or_overlap(self, driver, server, channel, packed):
        publisher = driver.connect(server.port, binary=packed)
        reader = driver.connect(server.port, binary=packed)
        publisher.flood(channel, "p", 200, pause=10, every=5)
        reader.subscribe(channel)
        publisher.flooded(channel, "p")
        live = reader.messages(channel, last="p/000199")
        before, _ = reader.history(channel, untilAttach=True)
        names = [message["name"] for message in before[::-1] + live]
        assert names == [f"p/{number:06d}" for number in range(200)]

    def test_the_channel_knows_its_modes_and_params(self, driver, server, channel, packed):
        client = driver.connect(server.port, binary=packed)
        attached = client.attach(channel, params={"rewind": "1", "unknown": "x"}, modes=["PUBLISH", "SUBSCRIBE"])
        assert attached["params"] == {"rewind": "1"}
        assert sorted(attached["modes"]) == ["publish", "subscribe"]

    def test_a_rewind_has_its_backlog_announced(self, driver, server, channel, packed):
        publish(server.address, channel, {"name": "old"})
        client = driver.connect(server.port, binary=packed)
        attached = client.attach(channel, params={"rewind": "1"})
        assert attached["backlog"] and not attached["resumed"]

    def test_it_understands_the_python_client_and_is_understood_by_it(self, driver, server, channel, packed, tmp_path):
        require(python_missing())
        with Driver(PYTHON, tmp_path / "stderr.log") as other:
            js = driver.connect(server.port, binary=packed)
            python = other.connect(server.port, binary=not packed)
            for client in (js, python):
                client.subscribe(channel)
            js.publish(channel, {"name": "from js", "data": structure({"k": ["ž", 1]})})
            python.publish(channel, {"name": "from python", "data": structure({"k": ["ž", 1]})})
            for client in (js, python):
                assert [(message["name"], message["data"]) for message in client.messages(channel, 2)] == [
                    ("from js", structure({"k": ["ž", 1]})),
                    ("from python", structure({"k": ["ž", 1]})),
                ]
            other.close_clients()
