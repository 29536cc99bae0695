"""What no journal keeps waits for none: not for a sync that takes long, nor for a journal that does not reopen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.failing_disk import FailingDisk
from tests.harness import Server, request, wait_until
from tests.wsclient import Action, RefusedError, WsClient

CONFIG = """
[namespaces.quick]
durability = "memory"
"""


def held_up(server: Server, channel: str, disk: FailingDisk, state: str) -> WsClient:
    """A client whose publish is written, and whose sync does not end, or fails."""
    client = WsClient(server.address)
    client.publish(channel, {"name": "before"})
    (disk.hold if state == "slow" else disk.fail)()
    client.send_messages(channel, [{"name": "waits"}])
    client.send({"action": Action.HEARTBEAT, "id": "read"})
    client.expect(Action.HEARTBEAT)
    return client


@pytest.mark.parametrize("state", ["slow", "failed"])
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_a_channel_in_memory_does_not_wait_for_the_disk(
    make_server: Callable[..., Server], tmp_path: Path, channel: str, format: str, state: str
) -> None:
    disk, quick = FailingDisk(tmp_path), f"quick:{channel}"
    server = make_server(executable=disk.executable, config=CONFIG)
    with held_up(server, channel, disk, state) as waiting, WsClient(server.address, format=format) as client:
        if state == "failed":
            wait_until(lambda: request(server.address, "GET", "/health")[0] == 503, what="the journal's failure")
        client.attach(quick)
        for number in range(3):
            client.publish(quick, {"name": str(number)})
        for number in range(3):
            status, _, _ = request(server.address, "POST", f"/channels/{quick}/messages", {"name": f"rest {number}"})
            assert status == 201
        names = [message["name"] for message in client.deliveries(quick, 6)]
        assert names == ["0", "1", "2", "rest 0", "rest 1", "rest 2"]
        with pytest.raises(TimeoutError):
            waiting.expect(Action.ACK, Action.NACK, seconds=0.01)
        if state == "failed":
            with pytest.raises(RefusedError):
                client.publish(f"{channel}-kept", {"name": "refused"})
        disk.mend()
        waiting.expect(Action.ACK)
        client.publish(f"{channel}-kept", {"name": "kept again"})
