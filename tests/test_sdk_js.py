"""The published JavaScript client against the running server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import publish
from tests.sdk.contract import SdkContract
from tests.sdk.driving import JAVASCRIPT, PYTHON, Driver, javascript_missing, python_missing, require, structure, text

pytestmark = pytest.mark.sdk


class TestJavaScript(SdkContract):
    command = JAVASCRIPT

    @staticmethod
    def missing() -> str | None:
        return javascript_missing()

    @staticmethod
    def recovery(key: str, connection_key: str) -> dict[str, Any]:
        return {"recover": key}

    def test_history_until_attach_and_live_meet_exactly(self, driver, server, channel, packed):
        publisher = driver.connect(server.port, binary=packed)
        reader = driver.connect(server.port, binary=packed)
        publisher.flood(channel, "p", 200, pause=10, every=5)
        reader.subscribe(channel)
        publisher.flooded(channel, "p")
        live = reader.messages(channel, last="p/000199")
        before, _ = reader.history(channel, untilAttach=True)
        names = [message["name"] for message in before[::-1] + live]
        assert names == [f"p/{number:06d}" for number in range(200)]

    @pytest.mark.parametrize("way", ["realtime", "rest"])
    def test_text_cut_in_an_emoji_and_undefined_are_stored_alike(self, driver, server, channel, packed, way):
        reader, client = (driver.connect(server.port, binary=each) for each in (not packed, packed))
        reader.subscribe(channel)
        client.publish(channel, {"name": "first", "data": text("plain")})  # the short way is open now
        undefined = {"undefined": True}
        sent = [
            {"name": "cut \ud83d", "data": text("ok \ud83d")},
            {"name": "object", "data": structure({"a": "\ude00", "b": [1, "\ud83d"]})},
            {"name": "undefined", "extras": {"headers": {"v": [1, undefined, 2], "w": undefined, "x": "\ud83d"}}},
        ]
        for message in sent:
            if way == "rest":
                driver.rest_publish(server.port, channel, message, binary=packed)
            else:
                client.publish(channel, message)
        client.publish(channel, {"name": "last", "data": text("still here")})
        stored, _ = reader.history(channel, direction="forwards")
        for messages in (reader.messages(channel, 5), stored):
            assert [message["name"] for message in messages] == ["first", "cut \ufffd", "object", "undefined", "last"]
            assert messages[1]["data"] == text("ok \ufffd")
            assert messages[2]["data"] == sent[1]["data"]  # the SDK has made text of it, in which it is an escape
            assert messages[3]["extras"] == {"headers": {"v": [1, None, 2], "x": "\ufffd"}}

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

    def test_js_and_python_clients_understand_each_other(self, driver, server, channel, packed, tmp_path):
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
