"""TLS connections against the real server: the promises of plain ones, kept another way (tasks, not the plane)."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import socket
import time

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.harness import KEY, channel_path, request, wait_until

RESUMED = 4
PATIENCE = 20.0
RING_BYTES = 64 * 1024
SMALL_RING = f"[limits]\nring_bytes_per_channel = {RING_BYTES}\ndrain_seconds = 5\n"


@pytest.fixture
def tls_server(make_server, authority):
    return make_server(arguments=authority[0], config=SMALL_RING)


class TlsClient:
    """Blocking, on the websockets library; ``format`` is json or msgpack."""

    def __init__(self, server, context, *, format="json", receive_buffer=0, **params):
        query = "".join(f"&{name}={value}" for name, value in params.items())
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.connect(server.address)
        uri = f"wss://127.0.0.1:{server.port}/?key={KEY}&v=5&format={format}{query}"
        # A queue of one frame: who does not ask for more does not read from the socket either.
        self.websocket = connect(uri, sock=plain, ssl=context, max_size=None, max_queue=1, ping_interval=None)
        self.text = format == "json"
        self.serial = 0
        self.connected = self.expect(4)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.websocket.close()

    def send(self, message):
        self.websocket.send(json.dumps(message) if self.text else msgpack.packb(message))

    def expect(self, *actions):
        """The next message with one of these actions; others are passed over."""
        while True:
            payload = self.websocket.recv(PATIENCE)
            assert isinstance(payload, str) == self.text
            message = json.loads(payload) if self.text else msgpack.unpackb(payload)
            if message["action"] in actions:
                return message

    def attach(self, channel, **fields):
        self.send({"action": 10, "channel": channel, **fields})
        return self.expect(11)

    def publish(self, channel, *datas):
        """Each a publish of its own, all acknowledged."""
        for data in datas:
            message = {"action": 15, "channel": channel, "msgSerial": self.serial, "messages": [{"data": data}]}
            self.send(message)
            self.serial += 1
        acked = 0
        while acked < len(datas):
            answer = self.expect(1, 2)
            assert answer["action"] == 1, answer
            acked += answer["count"]

    def numbers(self, count):
        """The numbers at the beginning of the next messages' data, and the last channelSerial."""
        got = []
        while len(got) < count:
            message = self.expect(15)
            got += [int(each["data"].split(".")[0]) for each in message["messages"]]
        return got, message["channelSerial"]


def numbered(first, last, size=1000):
    return [f"{n}.".ljust(size, ".") for n in range(first, last)]


@pytest.mark.parametrize("sent", ["json", "msgpack"])
@pytest.mark.parametrize("read", ["json", "msgpack"])
def test_what_is_published_in_one_format_is_delivered_in_the_other(tls_server, authority, sent, read):
    with (
        TlsClient(tls_server, authority[1], format=read) as reader,
        TlsClient(tls_server, authority[1], format=sent) as publisher,
    ):
        reader.attach("room")
        publisher.publish("room", "grüße 世界", "", "x" * 60_000)
        seen = [reader.expect(15)["messages"][0]["data"] for _ in range(3)]
        assert seen == ["grüße 世界", "", "x" * 60_000]


def test_a_publish_over_https_is_stored_and_delivered(tls_server, authority):
    with TlsClient(tls_server, authority[1]) as reader:
        reader.attach("room")
        path = channel_path("room")
        status, body, _ = request(tls_server.address, "POST", path, {"data": "by REST"}, tls=authority[1])
        assert status == 201, body
        assert reader.expect(15)["messages"][0]["data"] == "by REST"
        status, page, _ = request(tls_server.address, "GET", path, tls=authority[1])
        assert (status, [message["data"] for message in page]) == (200, ["by REST"])


def test_https_ends_with_a_close_notify_so_that_nobody_can_cut_it_short_unseen(tls_server, authority):
    with (
        socket.create_connection(tls_server.address, timeout=PATIENCE) as plain,
        authority[1].wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as secure,
    ):
        secure.sendall(b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while data := secure.recv(4096):  # SSLEOFError, if TCP ends before TLS does
            received += data
    assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_who_falls_out_of_the_ring_while_it_does_not_read_gets_everything(tls_server, authority, format):
    count = 6000  # 6 MB: more than the sockets' buffers and the ring hold together
    with (
        TlsClient(tls_server, authority[1], format=format, receive_buffer=4096) as slow,
        TlsClient(tls_server, authority[1]) as publisher,
    ):
        slow.attach("room")
        for first in range(0, count, 200):
            publisher.publish("room", *numbered(first, first + 200))
        assert slow.numbers(count)[0] == list(range(count))
        publisher.publish("room", *numbered(count, count + 10))  # and it is live again
        assert slow.numbers(10)[0] == list(range(count, count + 10))


def test_a_resumed_connection_gets_what_it_missed_once(tls_server, authority):
    with TlsClient(tls_server, authority[1]) as publisher:
        with TlsClient(tls_server, authority[1]) as first:
            first.attach("room")
            publisher.publish("room", *numbered(0, 20))
            got, cursor = first.numbers(20)
            key = first.connected["connectionDetails"]["connectionKey"]
            first.websocket.socket.shutdown(socket.SHUT_RDWR)  # as if the network had gone
        publisher.publish("room", *numbered(20, 300))  # more than the ring holds
        with TlsClient(tls_server, authority[1], resume=key) as second:
            assert second.connected["connectionId"] == first.connected["connectionId"]
            assert second.attach("room", channelSerial=cursor)["flags"] & RESUMED
            publisher.publish("room", *numbered(300, 310))
            assert got + second.numbers(290)[0] == list(range(310))


def test_a_newer_transport_supersedes_the_older_one(tls_server, authority):
    with TlsClient(tls_server, authority[1]) as first:
        key = first.connected["connectionDetails"]["connectionKey"]
        with TlsClient(tls_server, authority[1], resume=key):
            assert first.expect(6)["error"]["code"] == 80016
            with pytest.raises(ConnectionClosed):
                first.expect(0)


def test_draining_tells_each_client_and_ends_at_once(tls_server, authority):
    with TlsClient(tls_server, authority[1]) as one, TlsClient(tls_server, authority[1], format="msgpack") as other:
        one.attach("room")
        begun = time.monotonic()
        tls_server.terminate()
        for client in (one, other):
            assert client.expect(6)["error"]["code"] == 80003
            with pytest.raises(ConnectionClosed) as closed:
                client.expect(0)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
        assert tls_server.wait() == 0
        assert time.monotonic() - begun < 4


def test_draining_does_not_wait_for_who_does_not_read(tls_server, authority):
    with (
        TlsClient(tls_server, authority[1], receive_buffer=4096) as stalled,
        TlsClient(tls_server, authority[1]) as publisher,
    ):
        stalled.attach("room")
        publisher.publish("room", *numbered(0, 6000))
        tls_server.terminate()
        assert tls_server.wait(10) == 0
        with contextlib.suppress(ConnectionClosed):  # what was on its way may be read still, and is in order
            got = []
            for _ in range(6000):
                got += stalled.numbers(1)[0]
        assert got == list(range(len(got)))


def test_what_is_no_tls_harms_nobody(tls_server, authority):
    garbage = [b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 100, b"\xff" * 70_000, b""]
    with TlsClient(tls_server, authority[1]) as client:
        client.attach("room")
        for data in garbage * 5:
            with socket.create_connection(tls_server.address, timeout=PATIENCE) as plain, contextlib.suppress(OSError):
                plain.sendall(data)
                plain.shutdown(socket.SHUT_WR)
                answer = b""
                while more := plain.recv(4096):
                    answer += more
                assert not answer.startswith(b"HTTP/1.1 2")
        client.publish("room", "0")
        assert client.numbers(1)[0] == [0]
    secure = http.client.HTTPSConnection(*tls_server.address, timeout=PATIENCE, context=authority[1])
    secure.request("GET", "/time")
    assert secure.getresponse().status == 200
    secure.close()


@pytest.mark.parametrize("limits", ["[limits.connection]", "[limits.channel]"])
def test_deliveries_keep_to_their_rate_and_nothing_is_lost_by_it(make_server, authority, limits):
    server = make_server(arguments=authority[0], config=f"{limits}\nmessages_out = 400\n")
    with TlsClient(server, authority[1]) as client:
        client.attach("room")
        begin = time.monotonic()
        names = [f"m{number}" for number in range(1200)]
        for at in range(0, 1200, 100):
            batch = [{"name": name} for name in names[at : at + 100]]
            assert request(server.address, "POST", channel_path("room"), batch, tls=authority[1])[0] == 201
        got = []
        while len(got) < 1200:
            got += [message["name"] for message in client.expect(15)["messages"]]
        assert got == names
        assert time.monotonic() - begin >= (1200 - 2 * 400 - 150) / 400, (
            "a burst of a second, and then as the rate says"
        )
        client.publish("other", "x")


def test_idle_connections_do_not_take_the_last_descriptors(make_server, authority):
    arguments, context = authority
    few = 100
    server = make_server(
        arguments=arguments, before_exec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
    )
    crowd = []
    for _ in range(few):
        one = socket.create_connection(server.address, timeout=20)
        crowd.append(one)
        try:
            one = crowd[-1] = context.wrap_socket(one, server_hostname="127.0.0.1")
            one.sendall(b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.recv(9) in (b"HTTP/1.1 ", b"")
        except OSError:  # turned away
            pass
    assert len(os.listdir(f"/proc/{server.pid}/fd")) < few * 0.8

    def stored():
        try:
            status, _, _ = request(server.address, "POST", channel_path("room"), {"data": "x"}, tls=context)
        except OSError:
            return False
        return status == 201

    wait_until(stored, what="room for somebody else")
    for one in crowd:
        one.close()
