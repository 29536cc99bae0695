"""The published Python client against the running server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.contract import SdkContract
from tests.sdk.driving import PYTHON, python_missing, text

pytestmark = pytest.mark.sdk


class TestPython(SdkContract):
    command = PYTHON
    # After a reconnection its list of unanswered publishes is out of order if more were queued meanwhile. It goes by
    # the count in an ACK, so serials come back from the wrong calls, or not at all.
    pairs_acks_after_a_cut = False
    # For the same reason: what was in flight may be sent again only behind hundreds of newer ones (seen on the wire);
    # and what is published just as it is connected again is sent at once, before the tasks that send the rest again.
    resends_in_order = False
    tells_why_a_channel_is_not_resumed = False  # the error of an ATTACHED is passed on only if it was attached before
    recovers_channels = False  # the library has no recovery keys; a connection is continued by a transport parameter

    def test_a_text_that_was_cut_in_an_emoji_is_kept(self, driver, server, channel):
        """In JSON; its packer of msgpack refuses such a text before anything is sent."""
        readers = [driver.connect(server.port, binary=each) for each in (False, True)]
        for reader in readers:
            reader.subscribe(channel)
        client = driver.connect(server.port, binary=False)
        client.publish(channel, {"name": "first", "data": text("plain")})
        client.publish(
            channel, {"name": "n", "data": text("ok \ud83d"), "extras": {"headers": {"a": float("nan"), "b": "\ude00"}}}
        )
        driver.rest_publish(server.port, channel, {"name": "n", "data": text("ok \ud83d")}, binary=False)
        for reader in readers:
            stored, _ = reader.history(channel, direction="forwards")
            for messages in (reader.messages(channel, 3), stored):
                assert [message["data"] for message in messages] == [
                    text("plain"),
                    text("ok \ufffd"),
                    text("ok \ufffd"),
                ]
                assert messages[1]["extras"] == {"headers": {"b": "\ufffd"}}

    @staticmethod
    def missing() -> str | None:
        return python_missing()

    @staticmethod
    def recovery(key: str, connection_key: str) -> dict[str, Any]:
        return {"transportParams": {"recover": connection_key}}
