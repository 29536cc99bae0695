"""TLS connections against the real server: the promises of plain ones."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import time

import pytest

from tests.harness import channel_path, history, request, wait_until
from tests.peer import Peer, frame, upgrade
from tests.wsclient import RESUMED, GoneError, WsClient

PATIENCE = 20.0
RING_BYTES = 64 * 1024
SMALL_RING = f"[limits]\nring_bytes_per_channel = {RING_BYTES}\ndrain_seconds = 5\n"


@pytest.fixture
def tls_server(make_server, authority):
    return make_server(arguments=authority[0], config=SMALL_RING)


def speak(server, authority, **options):
    return WsClient(server.address, tls=authority[1], **options)


def published(client, channel, *datas):
    """Each a publish of its own, all acknowledged."""
    client.pour(channel, *datas)
    client.acked(len(datas))


def numbers(client, count):
    """The numbers at the beginning of the next messages' data, and the last channelSerial."""
    got = []
    while len(got) < count:
        message = client.skip_to(15)
        got += [int(each["data"].split(".")[0]) for each in message["messages"]]
    return got, message["channelSerial"]


def numbered(first, last, size=1000):
    return [f"{n}.".ljust(size, ".") for n in range(first, last)]


@pytest.mark.parametrize("sent", ["json", "msgpack"])
@pytest.mark.parametrize("read", ["json", "msgpack"])
def test_publish_in_one_format_is_delivered_in_the_other(tls_server, authority, sent, read):
    with (
        speak(tls_server, authority, format=read) as reader,
        speak(tls_server, authority, format=sent) as publisher,
    ):
        reader.attach("room")
        published(publisher, "room", "grüße 世界", "", "x" * 60_000)
        seen = [reader.skip_to(15)["messages"][0]["data"] for _ in range(3)]
        assert seen == ["grüße 世界", "", "x" * 60_000]


def test_a_publish_over_https_is_stored_and_delivered(tls_server, authority):
    with speak(tls_server, authority) as reader:
        reader.attach("room")
        path = channel_path("room")
        status, body, _ = request(tls_server.address, "POST", path, {"data": "by REST"}, tls=authority[1])
        assert status == 201, body
        assert reader.skip_to(15)["messages"][0]["data"] == "by REST"
        status, page, _ = request(tls_server.address, "GET", path, tls=authority[1])
        assert (status, [message["data"] for message in page]) == (200, ["by REST"])


def test_client_that_gathers_small_writes_waits_for_no_timer(tls_server, authority):
    """Its request waits for the ACK of the end of its handshake, which a kernel delays by 40 ms."""
    waits = []
    for _ in range(10):
        with (
            socket.create_connection(tls_server.address, timeout=PATIENCE) as plain,
            authority[1].wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            begun = time.monotonic()
            secure.sendall(b"GET /time HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert secure.recv(1 << 16).startswith(b"HTTP/1.1 200")
            waits.append(time.monotonic() - begun)
    assert min(waits) < 0.03


def test_all_that_follows_the_request_at_once_is_processed(tls_server, authority):
    """A message, and the announced end: the client's socket stays open, so the end is in TLS alone."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = authority[1].wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    message = b'{"action":15,"channel":"room","msgSerial":0,"messages":[{"data":"at once"}]}'
    with socket.create_connection(tls_server.address, timeout=PATIENCE) as plain:
        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(1 << 16))
        secure.write(upgrade())
        secure.write(frame(1, message))
        with contextlib.suppress(ssl.SSLWantReadError):
            secure.unwrap()
        plain.sendall(outgoing.read())
        while plain.recv(1 << 16):
            pass
    wait_until(lambda: [each["data"] for each in history(tls_server.address, "room", tls=authority[1])] == ["at once"])


def test_https_ends_with_a_close_notify(tls_server, authority):
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
def test_unread_client_that_falls_out_of_the_ring_gets_all(tls_server, authority, format):
    count = 6000  # 6 MB: more than the sockets' buffers and the ring hold together
    with (
        speak(tls_server, authority, format=format, receive_buffer=4096) as slow,
        speak(tls_server, authority) as publisher,
    ):
        slow.attach("room")
        for first in range(0, count, 200):
            published(publisher, "room", *numbered(first, first + 200))
        assert numbers(slow, count)[0] == list(range(count))
        published(publisher, "room", *numbered(count, count + 10))  # and it is live again
        assert numbers(slow, 10)[0] == list(range(count, count + 10))


def test_a_resumed_connection_gets_what_it_missed_once(tls_server, authority):
    with speak(tls_server, authority) as publisher:
        with speak(tls_server, authority) as first:
            first.attach("room")
            published(publisher, "room", *numbered(0, 20))
            got, cursor = numbers(first, 20)
            key = first.connection_key
            first.drop()  # as if the network had gone
        published(publisher, "room", *numbered(20, 300))  # more than the ring holds
        with speak(tls_server, authority, resume=key) as second:
            assert second.connection_id == first.connection_id
            assert second.attach("room", channelSerial=cursor)["flags"] & RESUMED
            published(publisher, "room", *numbered(300, 310))
            assert got + numbers(second, 290)[0] == list(range(310))


def test_a_newer_transport_supersedes_the_older_one(tls_server, authority):
    with speak(tls_server, authority) as first:
        key = first.connection_key
        with speak(tls_server, authority, resume=key):
            assert first.skip_to(6)["error"]["code"] == 80016
            with pytest.raises(GoneError):
                first.skip_to(0)


def test_draining_tells_each_client_and_ends_at_once(tls_server, authority):
    with speak(tls_server, authority) as one, speak(tls_server, authority, format="msgpack") as other:
        one.attach("room")
        begun = time.monotonic()
        tls_server.terminate()
        for client in (one, other):
            assert client.skip_to(6)["error"]["code"] == 80003
            with pytest.raises(GoneError):
                client.skip_to(0)
            assert client.closed_with == 1000
            client.drop()  # as libraries do then
        assert tls_server.wait() == 0
        assert time.monotonic() - begun < 4


def test_draining_does_not_wait_for_who_does_not_read(tls_server, authority):
    with (
        speak(tls_server, authority, receive_buffer=4096) as stalled,
        speak(tls_server, authority) as publisher,
    ):
        stalled.attach("room")
        published(publisher, "room", *numbered(0, 6000))
        tls_server.terminate()
        assert tls_server.wait(10) == 0
        with contextlib.suppress(GoneError):  # what was on its way may be read still, and is in order
            got = []
            for _ in range(6000):
                got += numbers(stalled, 1)[0]
        assert got == list(range(len(got)))


def test_what_is_no_tls_harms_nobody(tls_server, authority):
    garbage = [b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 100, b"\xff" * 70_000, b""]
    with speak(tls_server, authority) as client:
        client.attach("room")
        for data in garbage * 5:
            with Peer(tls_server.address) as plain, contextlib.suppress(OSError):
                plain.send(data)
                plain.socket.shutdown(socket.SHUT_WR)
                assert not plain.rest(reset=True).startswith(b"HTTP/1.1 2")
        published(client, "room", "0")
        assert numbers(client, 1)[0] == [0]
    assert request(tls_server.address, "GET", "/time", tls=authority[1])[0] == 200


@pytest.mark.parametrize("limits", ["[limits.connection]", "[limits.channel]"])
def test_deliveries_keep_to_their_rate_without_loss(make_server, authority, limits):
    server = make_server(arguments=authority[0], config=f"{limits}\nmessages_out = 400\n")
    with speak(server, authority) as client:
        client.attach("room")
        begin = time.monotonic()
        names = [f"m{number}" for number in range(1200)]
        for at in range(0, 1200, 100):
            batch = [{"name": name} for name in names[at : at + 100]]
            assert request(server.address, "POST", channel_path("room"), batch, tls=authority[1])[0] == 201
        got = []
        while len(got) < 1200:
            got += [message["name"] for message in client.skip_to(15)["messages"]]
        assert got == names
        assert time.monotonic() - begin >= (1200 - 2 * 400 - 150) / 400, (
            "a burst of a second, and then as the rate says"
        )
        published(client, "other", "x")


def test_idle_connections_do_not_take_the_last_descriptors(make_server, authority):
    arguments, context = authority
    few = 100
    server = make_server(
        arguments=arguments, before_exec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
    )
    crowd = []
    for _ in range(few):
        with contextlib.suppress(GoneError):  # turned away
            crowd.append(Peer(server.address, context))
            crowd[-1].send(b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n")
            assert crowd[-1].answer()[0] == 200
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
