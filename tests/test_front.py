"""The port, met by clients in a hurry: what comes with the request head, and what is already gone when it is served."""

from __future__ import annotations

import time

from tests.harness import rss
from tests.peer import CLOSE, Peer, all_said_to, frame, message, upgrade
from tests.wsclient import WsClient


def test_talkative_refused_client_is_told_and_others_unaffected(server, channel):
    attach = message({"action": 10, "channel": channel})
    for talk in ([message({"action": 0})], [b"\xff\xff\xff"], [frame(CLOSE)], [attach] * 50):
        assert b"40101" in all_said_to(server.address, upgrade(key="app1.key1:wrong") + b"".join(talk))
        with WsClient(server.address) as client:
            client.publish(channel, {"data": "still here"})


def test_what_comes_with_the_request_is_served(server, channel):
    data = all_said_to(server.address, upgrade() + message({"action": 0, "id": channel}) + message({"action": 7}))
    assert data.index(b'"action":4') < data.index(channel.encode()) < data.index(b'"action":8')


def test_attach_at_the_end_of_a_transport_keeps_it_resumable(server, channel):
    with WsClient(server.address) as client:
        client.publish(channel, {"data": "so that it is awake"})
        for _ in range(20):
            client.write(message({"action": 10, "channel": channel}) + frame(CLOSE))
            client.drop()
            time.sleep(0.01)
            again = WsClient(server.address, resume=client.connection_key)
            assert again.connection_id == client.connection_id
            assert "error" not in again.connected
            client = again
        client.drop()


def test_connections_that_come_and_go_leave_nothing_behind(server):
    for _ in range(200):
        with Peer(server.address) as peer:
            peer.send(upgrade()[:50])
    with WsClient(server.address) as client:
        client.send({"action": 0, "id": "x"})
        assert client.skip_to(0)["id"] == "x"


def test_names_followed_for_a_channel_are_bounded_but_its_own(server, channel):
    with WsClient(server.address) as client:
        answers = []
        for n in range(40):
            client.send({"action": 10, "channel": f"[?x={n}]{channel}"})
            answers.append(client.skip_to(9, 11))
        refused = [answer for answer in answers if answer["action"] == 9]
        assert len(refused) == 40 - 32
        assert {answer["error"]["code"] for answer in refused} == {42910}
        client.send({"action": 10, "channel": channel})
        assert client.skip_to(9, 11)["action"] == 11
        client.pour(channel, "to all of them")
        names = [client.skip_to(15)["channel"] for _ in range(33)]
        assert sorted(names) == sorted([channel, *(f"[?x={n}]{channel}" for n in range(32))])


def test_replays_of_one_unread_client_share_one_bound(server, channel):
    with WsClient(server.address, receive_buffer=1 << 16) as client, WsClient(server.address) as publisher:
        publisher.pour(channel, *["x" * 10_000 for _ in range(20)])
        publisher.acked(20)
        before = rss(server.pid)
        client.socket.settimeout(0.5)
        attach = message({"action": 10, "channel": channel, "params": {"rewind": "20"}})
        attach += message({"action": 12, "channel": channel})
        try:
            for _ in range(1000):
                client.socket.sendall(attach)
        except TimeoutError:
            pass  # it is not read from any more, which is the point
        time.sleep(1)
        assert rss(server.pid) - before < 30 << 20
