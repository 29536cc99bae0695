"""Who has said nothing yet: how many there may be, for how long, and what others notice of them."""

from __future__ import annotations

import contextlib
import os
import resource
import time

import pytest

from bench.newcomers import abort_handshakes, attackers, client_hello
from tests import certificates
from tests.canary import Canary
from tests.harness import request, wait_until
from tests.peer import Peer

FEW = 400  # descriptors of the server: a quarter of them is for newcomers
NEWCOMERS, CROWD = 100, 220
HELLO = client_hello(certificates.authority().client)
HEAD = b"GET /time HTTP/1.1\r\nHost: x\r\n"


def begun(data):
    def do(address):
        one = Peer(address)
        one.send(data)
        return one

    return do


def secured(data):
    """A handshake in order, and then nothing, or half a head; turned away meanwhile: what is left of the socket."""

    def do(address):
        one = Peer(address).socket
        one.settimeout(0.3)
        secure = certificates.authority().client.wrap_socket(
            one, server_hostname="127.0.0.1", do_handshake_on_connect=False
        )
        with contextlib.suppress(OSError):
            secure.do_handshake()
            secure.sendall(data)
        return secure

    return do


def few():
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))


CROWDS = [
    ("plain", "silent", Peer),
    ("plain", "half a head", begun(HEAD)),
    ("tls", "silent", Peer),
    ("tls", "half a hello", begun(HELLO[:100])),
    ("tls", "a hello and no more", begun(HELLO)),
    ("tls", "no request", secured(b"")),
    ("tls", "half a head", secured(HEAD)),
]


@pytest.mark.parametrize("way,what,come", CROWDS, ids=[f"{way}-{what}" for way, what, _ in CROWDS])
def test_silent_newcomers_are_bounded_and_keep_nobody_out(make_server, way, what, come):
    authority = certificates.authority() if way == "tls" else None
    server = make_server(arguments=authority.arguments if authority else (), before_exec=few)
    options = {"tls": authority.client} if authority else {}

    def descriptors():
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    with Canary(server.address, **options) as canary:
        before = descriptors()
        crowd, most = [], 0
        for _ in range(CROWD):
            crowd.append(come(server.address))
            most = max(most, descriptors())
        began = time.monotonic()
        status, _, _ = request(server.address, "GET", "/time", **options)
        assert status == 200
        assert time.monotonic() - began < 6, "they may be silent for ten seconds, but not while they are a crowd"
        most = max(most, descriptors())
        assert most - before <= NEWCOMERS + 4
        wait_until(lambda: descriptors() <= before + NEWCOMERS + 4)
    assert canary.delays
    for one in crowd:
        one.close()


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_thousands_of_aborted_handshakes_delay_nobody(make_server, format):
    """What this machine itself delays is told by the canary of a server that nobody attacks, at the same time."""
    authority = certificates.authority()
    attacked, quiet = (make_server(arguments=authority.arguments) for _ in range(2))
    with attackers(abort_handshakes, attacked.address, 100_000, client_hello(authority.client)):
        rounds = []
        while len(rounds) < 5 and not (rounds and min(rounds) < 0.05):
            with (
                Canary(quiet.address, format=format, tls=authority.client) as control,
                Canary(attacked.address, format=format, tls=authority.client) as canary,
            ):
                time.sleep(2)
            rounds.append(canary.p99() - control.p99())
    assert min(rounds) < 0.05, rounds
