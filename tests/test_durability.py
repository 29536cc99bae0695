"""The three classes of durability, each as its name says."""

from __future__ import annotations

import pytest

from tests.harness import history
from tests.wsclient import WsClient


def talk(server, channel, count):
    """Publish so many, and see them arrive; returns the place of the last one."""
    with WsClient(server.address) as reader, WsClient(server.address) as publisher:
        reader.attach(channel)
        publisher.pour(channel, *map(str, range(count)))
        publisher.acked(count)
        heard = [reader.skip_to(15) for _ in range(count)]
    assert [message["messages"][0]["data"] for message in heard] == [str(n) for n in range(count)]
    return heard[-1]["channelSerial"]


def attach(server, channel, place):
    with WsClient(server.address) as client:
        return client.attach(channel, channelSerial=place)


@pytest.mark.parametrize("durability", ["synced", "written"])
def test_what_was_acknowledged_survives_a_killed_server(make_server, channel, durability):
    server = make_server(arguments=["--durability", durability])
    place = talk(server, channel, 50)
    server.restart()
    assert [message["data"] for message in history(server.address, channel)] == [str(n) for n in range(50)]
    assert attach(server, channel, place)["flags"] & 4


def test_memory_after_a_restart_reports_lost_continuity(make_server, channel):
    server = make_server(arguments=["--durability", "memory"])
    place = talk(server, channel, 50)
    assert [message["data"] for message in history(server.address, channel)] == [str(n) for n in range(50)]
    assert attach(server, channel, place)["flags"] & 4
    server.restart()
    assert history(server.address, channel) == []
    attached = attach(server, channel, place)
    assert not attached["flags"] & 4
    assert attached["error"]["code"] == 90003


def test_namespaces_choose_for_themselves(make_server):
    config = '[namespaces.fleeting]\ndurability = "memory"\n[namespaces.kept]\npersisted_hours = 24\n'
    server = make_server(config=config)
    for name in ("fleeting:x", "kept:x", "usual"):
        talk(server, name, 5)
    server.restart()
    assert [len(history(server.address, name)) for name in ("fleeting:x", "kept:x", "usual")] == [0, 5, 5]
