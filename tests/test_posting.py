"""The running server answers a publish over HTTP alike, whichever way it goes: in the plane's turn, or by the library.

A connection that has once sent an unusual publish stays with the library for good: so the same bytes can be sent both
ways."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import msgpack
import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.auth.capability import Capability
from engine.auth.revocation import Revocation, Revocations
from engine.auth.tokens import Identity
from server.rest.posting import FOREVER_MS, good_until
from tests.harness import KEY, history, publish, request, token, wait_until
from tests.peer import GoneError, Peer
from tests.test_head import MUTATION, SENT, head, mutate

BASIC = "Basic " + base64.b64encode(KEY.encode()).decode()


class Wire(Peer):
    """A connection on which anything can be sent; ``slow``: it stays with the library."""

    def __init__(self, address, *, slow=False):
        super().__init__(address)
        if slow:
            self.send(b"POST /channels/x/messages?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert self.answer()[0] == 401

    def answer_or_end(self):
        """None: the connection has ended."""
        try:
            return self.answer()
        except GoneError:
            if self.unread:
                raise
            return None


def usual(channel, body, kind="application/json", **headers):
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    fields = {"Host": "x", "Authorization": BASIC, "Content-Type": kind} | headers
    fields["Content-Length"] = str(len(content))
    return head(fields.items(), f"POST /channels/{channel}/messages HTTP/1.1") + content


def served(server):
    _, told, _ = request(server.address, "GET", "/health")
    return told["plainPublishes"], told["askedPublishes"]


def test_usual_publish_needs_no_task_after_the_first(server, channel):
    plain, asked = served(server)
    with Wire(server.address) as one, Wire(server.address) as other:
        for wire in (one, other):
            for n in range(5):
                wire.send(usual(channel, {"data": str(n)}))
                assert wire.answer()[0] == 201
    assert served(server) == (plain + 9, asked + 1)
    assert [message["data"] for message in history(server.address, channel)] == list("01234") * 2


def test_unusual_client_stays_and_other_beginnings_are_as_fast(server, channel):
    before = sum(served(server))
    with Wire(server.address) as mixed, Wire(server.address, slow=True) as odd:
        mixed.send(b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n")
        assert mixed.answer()[0] == 200
        for wire in (mixed, odd, mixed, odd):
            wire.send(usual(channel, {"data": "x"}))
            assert wire.answer()[0] == 201
        assert sum(served(server)) == before + 2
        mixed.send(b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n")
        assert mixed.answer()[0] == 200
        mixed.send(usual(channel, {"data": "x"}))
        assert mixed.answer()[0] == 201
        assert sum(served(server)) == before + 2


def comparable(answer):
    """Without what is another one each time: ids of the server's making, serials, and so sizes."""
    if answer is None:
        return None
    status, headers, body = answer
    packed = headers.get("content-type") == "application/x-msgpack"
    value = msgpack.unpackb(body) if packed else orjson.loads(body) if body else None
    if status == 201:
        assert set(value) == {"channel", "messageId", "serials"}
        value = (value["channel"], len(value["serials"]))
    return status, headers | {"date": ""}, value


BODIES = st.sampled_from(
    [
        b'{"name":"a","data":"b"}',
        b'[{"data":"a"},{"data":"b"}]',
        b'{"data":{"a":1}}',
        b'{"data":1}',
        b'{"id":"same","data":"x"}',
        b'{"clientId":"ann"}',
        b'{"extras":{"privileged":1}}',
        b"[]",
        b"{",
        b"",
        b"\x81\xa4data\xa1x",
        b"\x92\x81\xa4data\xa1x\x81\xa4data\xc4\x01\xff",
        b"name=a&data=b",
    ]
)
FIELDS = st.sampled_from(
    [
        ("Authorization", "Basic YXBwMS5rZXkxOndyb25n"),
        ("Authorization", "Bearer nobody"),
        ("Authorization", "Digest x"),
        ("Authorization", ""),
        ("X-Ably-Version", "x.1"),
        ("X-Ably-ClientId", "YW5u"),
        ("X-Ably-ClientId", "!"),
        ("Accept", "application/x-msgpack, application/json;q=0.5"),
        ("Accept", "text/html"),
        ("Origin", "http://else.where"),
        ("Content-Type", "application/x-msgpack"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("Content-Type", "text/plain"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Type", "image/png"),
        ("X-Ably-MessageId", "mine"),
        ("Connection", "close"),
        ("Content-Encoding", "gzip"),
    ]
)
TARGETS = st.sampled_from(
    ["one", "o%20n%C3%A9", "[?rewind=1]one", "", ":a", "%ff", "a%2Fb", "%00", "a?x=1", "a?format=msgpack"]
)


@settings(max_examples=150, deadline=None)
@example(target="%ff", body=b"{}", changed=[("Authorization", "Bearer nobody")], twice=False)
@given(target=TARGETS, body=BODIES, changed=st.lists(FIELDS, max_size=3), twice=st.booleans())
def test_the_same_request_has_the_same_answer_both_ways(server, target, body, changed, twice):
    fields = {"Host": "x", "Authorization": BASIC, "Content-Type": "application/json"}
    for name, value in changed:
        fields[name] = value
    sent = (
        head([*fields.items(), ("Content-Length", str(len(body)))], f"POST /channels/{target}/messages HTTP/1.1") + body
    )
    answers = []
    for slow in (False, True):
        with Wire(server.address, slow=slow) as wire:
            for _ in range(1 + twice):
                wire.send(sent)
                answers.append(comparable(wire.answer_or_end()))
                if "close" in fields.values():
                    break
    middle = len(answers) // 2
    for fast, slow in zip(answers[:middle], answers[middle:], strict=True):
        assert fast == slow


@settings(max_examples=100, deadline=None)
@given(headers=st.sampled_from(list(SENT.values())), mutations=st.lists(MUTATION, max_size=3))
@example(headers=next(iter(SENT.values())), mutations=[("repeat", 0), ("byte", 212, 0)])  # half a request, and the end
def test_what_is_hardly_http_has_the_same_answer_both_ways(server, headers, mutations):
    """Behind a usual request, so that a connection in the fast way meets it."""
    changed = mutate(headers, mutations)
    first = usual("one", {"data": "x"})
    said = []
    for slow in (False, True):
        with Wire(server.address, slow=slow) as wire:
            wire.send(first + changed)
            wire.socket.shutdown(socket.SHUT_WR)
            answers = [comparable(wire.answer_or_end())]
            while answers[-1] is not None and answers[-1][1].get("connection") != "close" and len(answers) < 4:
                answers.append(comparable(wire.answer_or_end()))
            said.append(answers)
    assert said[0] == said[1]


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 2000), max_size=8), kinds=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_bytes_in_any_pieces_are_answered_in_turn(server, cuts, kinds):
    made = [
        usual("pieces", {"id": "n", "data": "x"}),
        usual("pieces", [{"data": "x"}] * 3),
        usual("pieces", {"data": {"not": "plain"}}),
        usual("pieces", {"data": "x"}, Authorization="Basic bm9ib2R5"),
    ]
    counts = [1, 3, 1, 401]
    stream = b"".join(made[kind] for kind in kinds) + b"GET /channels/pieces/nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    places = sorted({0, *(cut % len(stream) for cut in cuts), len(stream)})
    with Wire(server.address) as wire:
        for start, end in itertools.pairwise(places):
            wire.send(stream[start:end])
        told = []
        for _ in kinds:
            status, _, body = wire.answer()
            told.append(len(orjson.loads(body)["serials"]) if status == 201 else status)
        assert told == [counts[kind] for kind in kinds]
        assert wire.answer()[0] == 404


def test_strangers_publish(server, channel):
    plain, asked = served(server)
    url = f"{server.url}/channels/{channel}/messages"
    command = ["curl", "-sS", "-u", KEY, "-H", "Content-Type: application/json", "-d", '{"data":"curl"}', url]
    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["channel"] == channel
    client = http.client.HTTPConnection(*server.address)
    for _ in range(2):
        client.request(
            "POST",
            f"/channels/{channel}/messages",
            b'{"data":"http.client"}',
            {"Authorization": BASIC, "Content-Type": "application/json"},
        )
        assert client.getresponse().read().startswith(b'{"channel"')
    client.close()
    with httpx.Client() as one:
        for _ in range(2):
            answer = one.post(url, json={"data": "httpx"}, headers={"Authorization": BASIC})
            assert answer.status_code == 201 and answer.json()["channel"] == channel
    now = served(server)
    assert sum(now) - plain - asked == 5
    assert [message["data"] for message in history(server.address, channel)] == [
        "curl",
        *["http.client"] * 2,
        *["httpx"] * 2,
    ]


def test_a_large_array_is_one_publish(server, channel):
    body = [{"data": "x" * 30} for _ in range(1000)]
    with Wire(server.address) as wire:
        for _ in range(2):
            wire.send(usual(channel, body))
            assert len(orjson.loads(wire.answer()[2])["serials"]) == 1000


def test_a_channel_that_wakes_has_them_wait(make_server, channel):
    server = make_server()
    publish(server.address, channel, {"id": "a", "data": "before"})
    server.restart()
    with Wire(server.address) as wire:
        wire.send(usual(channel, {"id": "a", "data": "before"}) + usual(channel, {"id": "b", "data": "after"}))
        assert [wire.answer()[0] for _ in range(2)] == [201, 201]
    assert [message["data"] for message in history(server.address, channel)] == ["before", "after"]


def keys(server, *arguments):
    command = [str(Path(sys.executable).with_name("unbroken")), "keys", *arguments, "--data", str(server.data)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_key_that_is_revoked_by_the_operator_is_refused(make_server, channel):
    server = make_server()
    key = re.search(r"\S+\.\S+:\S+", keys(server, "create"))[0]
    basic = "Basic " + base64.b64encode(key.encode()).decode()
    codes = []
    with Wire(server.address) as wire:

        def ask(wanted):
            wire.send(usual(channel, {"data": "x"}, Authorization=basic))
            status, _, body = wire.answer()
            codes.append(201 if status == 201 else orjson.loads(body)["error"]["code"])
            return codes[-1] == wanted

        wait_until(lambda: ask(201), what="the new key")
        assert ask(201)
        keys(server, "revoke", key.partition(":")[0])
        wait_until(lambda: ask(40131), what="the end of the key")


def test_an_app_that_is_deleted_publishes_no_more_from_then_on(make_server, channel):
    server = make_server(arguments=["--dev"])
    status, app, _ = request(server.address, "POST", "/apps", {"keys": [{}]})
    assert status == 201
    key = app["keys"][0]["keyStr"]
    basic = "Basic " + base64.b64encode(key.encode()).decode()
    with Wire(server.address) as wire:
        for _ in range(3):
            wire.send(usual(channel, {"data": "x"}, Authorization=basic))
            assert wire.answer()[0] == 201
        status, _, _ = request(server.address, "DELETE", f"/apps/{app['appId']}", key=key)
        assert status == 204
        wire.send(usual(channel, {"data": "x"}, Authorization=basic))
        assert wire.answer()[0] == 401


def test_a_token_is_good_until_it_is_revoked(make_server, channel):
    server = make_server(arguments=["--dev"])
    _, app, _ = request(server.address, "POST", "/apps", {"keys": [{"revocableTokens": True}]})
    key, name = app["keys"][0]["keyStr"], app["keys"][0]["keyName"]
    asked = {"keyName": name, "clientId": "ann", "timestamp": None}
    _, details, _ = request(server.address, "POST", f"/keys/{name}/requestToken", asked, key=key)
    bearer = "Bearer " + base64.b64encode(details["token"].encode()).decode()
    with Wire(server.address) as wire:
        for _ in range(3):
            wire.send(usual(channel, {"data": "x"}, Authorization=bearer))
            assert wire.answer()[0] == 201
        status, _, _ = request(
            server.address, "POST", f"/keys/{name}/revokeTokens", {"targets": ["clientId:ann"]}, key=key
        )
        assert status == 201
        wire.send(usual(channel, {"data": "x"}, Authorization=bearer))
        status, _, body = wire.answer()
        assert (status, orjson.loads(body)["error"]["code"]) == (401, 40141)


def test_a_token_is_good_until_it_expires(server, channel):
    name = KEY.partition(":")[0]
    _, details, _ = request(server.address, "POST", f"/keys/{name}/requestToken", {"keyName": name, "ttl": 1500})
    bearer = "Bearer " + base64.b64encode(details["token"].encode()).decode()
    with Wire(server.address) as wire:
        codes = []

        def ask():
            wire.send(usual(channel, {"data": "x"}, Authorization=bearer))
            status, _, body = wire.answer()
            codes.append(status)
            return status != 201 and orjson.loads(body)["error"]["code"] == 40142

        wait_until(ask, what="the end of the token")
    assert codes[0] == 201 and codes[-1] == 401 and set(codes) == {201, 401}


def test_permit_ends_with_its_token_or_a_revocation():
    capability = Capability.parse('{"*":["*"]}')
    ann = Identity("app1", "app1.key1", "ann", False, capability, 5_000, 1_000, token_client_id="ann")
    revocations = Revocations()
    assert good_until(Identity("app1", "app1.key1", None, True, capability), revocations) == FOREVER_MS
    assert good_until(ann, revocations) == 5_000
    revocations.add(Revocation("app1.key1", "client", "bob", 2_000, 3_000), 0)
    assert good_until(ann, revocations) == 5_000
    revocations.add(Revocation("app1.key1", "client", "ann", 2_000, 4_000), 0)  # with a margin for coming back
    assert good_until(ann, revocations) == 4_000


def test_a_capability_is_looked_at_for_each_channel(server, channel):
    bearer = "Bearer " + base64.b64encode(token(server.address, {channel: ["publish"]}).encode()).decode()
    with Wire(server.address) as wire:
        for name, status in (
            (channel, 201),
            (channel, 201),
            (channel + "x", 401),
            (channel, 201),
            (channel + "x", 401),
        ):
            wire.send(usual(name, {"data": "x"}, Authorization=bearer))
            assert wire.answer()[0] == status


def test_requests_and_messages_are_counted(make_server, channel):
    server = make_server()
    with Wire(server.address) as wire:
        for _ in range(4):
            wire.send(usual(channel, [{"data": "x"}] * 2))
            assert wire.answer()[0] == 201
        wire.send(usual(channel, {"data": 1}))
        assert wire.answer()[0] == 400
    _, (interval, *_), _ = request(server.address, "GET", "/stats?unit=minute")
    text = json.dumps(interval)
    assert '"messages.inbound.rest.messages.count": 8' in text, text
    assert '"apiRequests.other.succeeded": 4' in text, text
    assert '"apiRequests.other.failed": 1' in text, text


def test_shutdown_closes_idle_connections_cleanly(make_server, channel):
    server = make_server()
    with Wire(server.address) as idle, Wire(server.address) as begun:
        for wire in (idle, begun):
            wire.send(usual(channel, {"data": "x"}))
            assert wire.answer()[0] == 201
        whole = usual(channel, {"data": "y"})
        begun.send(whole[:-1])
        wait_until(lambda: request(server.address, "GET", "/health")[1]["publishers"] == 2)
        server.terminate()
        assert idle.hears_end()
        begun.send(whole[-1:])
        status, headers, _ = begun.answer()
        assert (status, headers["connection"]) == (201, "close")
        assert server.wait() == 0


def test_what_was_answered_with_201_is_there_after_a_kill(make_server, channel):
    server = make_server()
    answered = [[] for _ in range(8)]

    def load(mine, number):
        with Wire(server.address) as wire:
            for n in range(10_000):
                message_id = f"{number}-{n}"
                try:
                    wire.send(usual(channel, {"id": message_id, "data": "x"}))
                    answer = wire.answer_or_end()
                except OSError:
                    return
                if answer is None:
                    return
                assert answer[0] == 201
                mine.append(message_id)

    threads = [threading.Thread(target=load, args=(mine, number)) for number, mine in enumerate(answered)]
    for thread in threads:
        thread.start()
    wait_until(lambda: min(map(len, answered)) >= 100)
    server.kill()
    for thread in threads:
        thread.join()
    server.start()
    stored = [message["id"] for message in history(server.address, channel)]
    assert len(set(stored)) == len(stored)
    for mine in answered:
        assert 100 <= len(mine) < 10_000
        assert set(mine) <= set(stored)
