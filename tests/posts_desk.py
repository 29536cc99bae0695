"""A desk for HTTP publishes with what stands behind it, without a server: the short way, and the long one beside it."""

from __future__ import annotations

import select
import socket
from functools import partial

import msgpack
import orjson

from engine.auth.capability import Capability
from engine.auth.tokens import Identity
from engine.errors import JournalUnavailable, PubSubError
from engine.message import messages_from
from engine.publish_rules import Messages
from engine.sequencer import Asked
from ext.log.rate import Rate
from ext.log.terms import Terms
from ext.net.permit import Permit, Place
from ext.net.posts import Posts
from server.http.reply import Reply, refusal, respond
from server.http.request import HttpRequest
from server.rest.publishing import check_request, read_messages
from tests.test_sequencer import T0, awake, partition

JSON, MSGPACK = "application/json", "application/x-msgpack"
DOWN = JournalUnavailable("the disk is on holiday")
TARGET = "/channels/one/messages"
DATE = b"Sat, 21 Nov 2026 09:42:18 GMT"
SMALL = {"head_bytes": 2000, "body_bytes": 60_000, "idle_ms": 75_000, "patience_ms": 2_000, "response_ms": 30_000}


def post(body, kind=JSON, target=TARGET, **headers):
    if not isinstance(body, bytes):
        body = msgpack.packb(body) if kind == MSGPACK else orjson.dumps(body)
    fields = {"Host": "here", "Content-Type": kind, "Accept": kind, **headers, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {target} HTTP/1.1\r\n{head}\r\n".encode() + body


def parse_answers(received):
    """(status, body, headers) of each response in these bytes, which must end with one."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = dict(field.split(": ", 1) for field in lines)
        size = int(headers["Content-Length"])
        body, received = rest[:size], rest[size:]
        assert len(body) == size
        value = msgpack.unpackb(body) if headers.get("Content-Type") == MSGPACK else orjson.loads(body)
        found.append((int(line.split(" ")[1]), value, headers))
    return found


OPENED: list[socket.socket | Posts] = []


def close_all():
    while OPENED:
        OPENED.pop().close()


def pair():
    made = socket.socketpair()
    OPENED.extend(made)
    return made


class Desk:
    """Posts, what stands behind them, and the peers at their other ends."""

    def __init__(
        self,
        *,
        short=True,
        identity=None,
        most=10,
        key=None,
        good_until_ms=1 << 60,
        max_messages=5,
        channel="one",
        **bounds,
    ):
        """``channel``: as it is called in answers."""
        self.posts = Posts(max_connections=most, **(SMALL | bounds))
        OPENED.append(self.posts)
        within = partition()
        self.sequencer = within.sequencer
        self.sequencer.common.now_ms = self.sequencer.common.steady_ms = T0
        self.channel = awake("one", within=within)
        self.identity = identity or Identity("app1", "app1.key1", None, True, Capability.parse('{"*":["*"]}'))
        self.terms = Terms(None, key or Rate(0, 0), Rate(0, 0), max_bytes=200, max_messages=max_messages)
        self.good_until_ms = good_until_ms
        self.short = short
        self.name = channel
        self.now_ms = 0
        self.told = 0
        self.left = []
        self.asked = []

    def connect(self, received=b"", *, trusted=True):
        ours, theirs = pair()
        theirs.setblocking(False)
        ours.settimeout(10)
        assert self.posts.take(theirs.detach(), received, "peer", trusted, self.now_ms)
        return ours

    def turn(self, *, settle=True):
        for caller, key, target, headers, body in self.posts.poll(self.now_ms, T0):
            self.asked.append((key, target))
            self._serve(caller, key, HttpRequest("POST", target, {}, headers, body, False, caller.peer))
        if settle:
            self.settle()
        self.left += self.posts.take_leaving()
        assert not self.posts.failures

    def settle(self, *, kept=True):
        batch = self.sequencer.take()
        if batch is not None:
            self.sequencer.commit(batch) if kept else self.sequencer.undo(batch, DOWN)
        self.told += sum(times for _, times in self.posts.flush(lambda: DATE))

    def _serve(self, caller, key, request):
        try:
            wire, values = read_messages(request)
            messages = Messages(wire, values, {}, self.terms.max_messages)
            ready = check_request(request, messages, "one", self.identity, self.terms, lambda key: ("conn1conn1", None))
            self.sequencer.decide(Asked(self.channel, ready.publish, ready.base_id, ready.author, caller))
        except PubSubError as error:
            caller.reply(whole(respond(request, refusal(error))))
            return
        refuse = partial(refused, HttpRequest("POST", request.path, {}, request.headers, b"", False, "peer"))
        packed = request.headers["content-type"] == MSGPACK
        permit = self.posts.permits.find(key) or Permit(
            self.sequencer.common,
            self.identity.author(),
            self.terms,
            "app1",
            whole(respond(request, Reply(201, {}))).partition(b"Content-Length: ")[0] + b"Content-Length: ",
            refuse,
            msgpack_in=packed,
            msgpack_out=packed,
            good_until_ms=self.good_until_ms,
        )
        place = Place(self.channel, self.name, msgpack=packed)
        caller.expect(permit, place, ready.message_id)
        if self.short:
            self.posts.permits.grant(key, permit)
            permit.grant(request.path, place)

    def log(self):
        _, entries = self.channel.ring.read_after(0, budget=1 << 30)
        return [
            [msgpack.unpackb(message) for message in messages_from(record, serial, series, 1)]
            for serial, series, record in entries
        ]


def whole(response):
    fields = [*response.headers, ("Content-Length", str(len(response.body)))]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {response.status} \r\n{head}\r\n".encode() + response.body


def refused(request, error):
    return whole(respond(request, refusal(error)))


def read_all(peer, desk, settle=True):
    """What there is to be read; True behind it: and then the end."""
    received = b""
    while select.select([peer], [], [], 0)[0]:
        try:
            data = peer.recv(1 << 20)
        except ConnectionResetError:
            return received, True
        if not data:
            return received, True
        received += data
    return received, False


def answers_of(peer, desk):
    return parse_answers(read_all(peer, desk)[0])
