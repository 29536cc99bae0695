"""The port, met by clients in a hurry: what comes with the request head, and what is already gone when it is served."""

from __future__ import annotations

import socket
import time

from tests.harness import rss
from tests.leanclient import KEY, UPGRADE, LeanClient, frame

CLOSE = b"\x88\x80\0\0\0\0"


def connect(address, query_key, *frames):
    """Everything in one segment: the request, and what a client says without waiting for an answer."""
    one = socket.create_connection(address)
    one.sendall(UPGRADE.format(key=query_key, query="").encode() + b"".join(frames))
    return one


def read_all(one):
    one.settimeout(10)
    data = b""
    try:
        while part := one.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    one.close()
    return data


def test_a_refused_client_that_talks_on_at_once_is_told_and_nobody_else_notices(server, channel):
    for talk in ([frame({"action": 0})], [b"\xff\xff\xff"], [CLOSE], [frame({"action": 10, "channel": channel})] * 50):
        assert b"40101" in read_all(connect(server.address, "app1.key1:wrong", *talk))
        with LeanClient(server.address) as client:
            client.publish(channel, "still here")
            client.acked(1)


def test_what_comes_with_the_request_is_served(server, channel):
    one = connect(server.address, KEY, frame({"action": 0, "id": channel}), frame({"action": 7}))
    data = read_all(one)
    assert data.index(b'"action":4') < data.index(channel.encode()) < data.index(b'"action":8')


def test_an_attach_that_comes_with_the_end_of_the_transport_leaves_the_connection_resumable(server, channel):
    with LeanClient(server.address) as client:
        client.publish(channel, "so that it is awake")
        client.acked(1)
        for _ in range(20):
            key = client.connected["connectionKey"]
            client.socket.sendall(frame({"action": 10, "channel": channel}) + CLOSE)
            client.socket.close()
            time.sleep(0.01)
            again = LeanClient(server.address, query=f"&resume={key}")
            assert again.connected["connectionId"] == client.connected["connectionId"]
            assert "error" not in again.connected
            client = again
        client.socket.close()


def test_connections_that_come_and_go_leave_nothing_behind(server):
    for _ in range(200):
        one = socket.create_connection(server.address)
        one.sendall(UPGRADE.format(key=KEY, query="").encode()[:50])
        one.close()
    with LeanClient(server.address) as client:
        client.send({"action": 0, "id": "x"})
        assert client.expect(0)["id"] == "x"


def test_a_channel_is_followed_under_so_many_names_and_always_under_its_own(server, channel):
    with LeanClient(server.address) as client:
        answers = []
        for n in range(40):
            client.send({"action": 10, "channel": f"[?x={n}]{channel}"})
            answers.append(client.expect(9, 11))
        refused = [answer for answer in answers if answer["action"] == 9]
        assert len(refused) == 40 - 32
        assert {answer["error"]["code"] for answer in refused} == {42910}
        client.send({"action": 10, "channel": channel})
        assert client.expect(9, 11)["action"] == 11
        client.publish(channel, "to all of them")
        names = [client.expect(15)["channel"] for _ in range(33)]
        assert sorted(names) == sorted([channel, *(f"[?x={n}]{channel}" for n in range(32))])


def test_many_replays_of_one_client_that_does_not_read_share_one_bound(server, channel):
    with LeanClient(server.address, receive_buffer=1 << 16) as client, LeanClient(server.address) as publisher:
        publisher.publish(channel, *["x" * 10_000 for _ in range(20)])
        publisher.acked(20)
        before = rss(server.pid)
        client.socket.settimeout(0.5)
        attach = frame({"action": 10, "channel": channel, "params": {"rewind": "20"}})
        attach += frame({"action": 12, "channel": channel})
        try:
            for _ in range(1000):
                client.socket.sendall(attach)
        except TimeoutError:
            pass  # it is not read from any more, which is the point
        time.sleep(1)
        assert rss(server.pid) - before < 30 << 20
