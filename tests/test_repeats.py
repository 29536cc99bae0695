"""One id is one message: of its own connection, with its own content, whoever sends it and in whatever way."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.harness import Server, request, token
from tests.proxy import ChaosProxy
from tests.returning import settle_and_check
from tests.test_recovery import started, wait_for_acks
from tests.ways import Way, refusal, ways
from tests.wsclient import Action, GoneError, RefusedError, WsClient, unique

MakeServer = Callable[..., Server]
TLS = pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
# Rings that let go of everything soon; ``kept`` in the journal, ``memory`` nowhere.
SMALL = """
durability = "written"
[limits]
ring_entries_per_channel = 16
[namespaces.memory]
durability = "memory"
"""


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, authority: tuple[Sequence[str], ssl.SSLContext]
) -> Iterator[list[tuple[Server, ssl.SSLContext | None]]]:
    """A server that is plain, and one with TLS; both with small rings."""
    arguments, context = authority
    made = [
        Server(tmp_path_factory.mktemp("plain"), config=SMALL),
        Server(tmp_path_factory.mktemp("tls"), config=SMALL, arguments=arguments),
    ]
    for server in made:
        server.start()
    yield [(made[0], None), (made[1], context)]
    for server in made:
        server.stop()
        assert not server.complaints(), server.complaints()


def stored(server: Server, channel: str, tls: ssl.SSLContext | None = None) -> list[tuple[str, Any]]:
    status, page, _ = request(
        server.address, "GET", f"/channels/{channel}/messages?limit=1000&direction=forwards", tls=tls
    )
    assert status == 200
    return [(message["id"], message["data"]) for message in page if message["data"] != "to be granted"]


# ---- whose ids


@TLS
def test_nobody_takes_the_ids_of_somebody_else_s_connection(
    both: list[tuple[Server, ssl.SSLContext | None]], secured: bool
) -> None:
    """They can be read off every message; who sends them first must not keep their connection from publishing."""
    server, tls = both[secured]
    with ways(server, tls) as each:
        for number, way in enumerate(each):
            channel = unique(f"victim{number}")
            with WsClient(server.address, tls=tls) as victim:
                victim.publish(channel, {"data": "0"})
                own = victim.connection_id
                for base in (f"{own}:1", f"{own}:007", f"{own}:{10**18}", f"{own}:{10**30}"):
                    assert refusal(way, channel, {"id": f"{base}:0", "data": "x"}) == 40031, (way.name, base)
                    assert refusal(way, channel, {"id": f"{base}:007", "data": "x"}) == 40031, (way.name, base)
                    assert refusal(way, channel, {"id": f"{base}:0"}, {"id": f"{base}:1"}) == 40031, (way.name, base)
                assert refusal(way, channel, {"id": f"{own}:0:0", "data": "0"}) == 40031, "not even what is stored"
                serials = [
                    victim.publish(channel, {"data": "1"}),
                    victim.publish(channel, {"data": "2"}, {"data": "3"}),
                ]
            held = [entry for entry in stored(server, channel, tls) if entry[0].startswith(own)]
            assert [data for _, data in held] == ["0", "1", "2", "3"], way.name
            assert len({text for serial in serials for text in serial}) == 3


@TLS
def test_ids_that_only_look_alike_are_anybody_s(
    both: list[tuple[Server, ssl.SSLContext | None]], secured: bool
) -> None:
    server, tls = both[secured]
    with ways(server, tls) as each, WsClient(server.address, tls=tls) as other:
        own = other.connection_id
        for way in each:
            channel = unique("alike")
            ids = [
                own,
                f"{own}:7",
                f"{own}:7:x",
                f"{own}:7:0:0",
                f"{own}x:7:0",
                own[1:] + ":7:0",
                f"{own[1:]}+:7:0",
                f"{own}::0",
            ]
            for message_id in ids:
                assert way.publish(channel, {"id": message_id, "data": message_id}), way.name
            assert [name for name, _ in stored(server, channel, tls)][-len(ids) :] == ids


@TLS
def test_own_ids_are_accepted_with_the_connection_or_its_key(
    both: list[tuple[Server, ssl.SSLContext | None]], secured: bool
) -> None:
    server, tls = both[secured]
    with ways(server, tls) as each:
        for way in each:
            channel = unique("own")
            with WsClient(server.address, tls=tls) as other:
                client = way.client or other
                key = {} if way.client is not None else {"connectionKey": client.connection_key}
                first = client.publish(channel, {"data": "mine"})
                number = client.next_serial - 1
                again = {"id": f"{client.connection_id}:{number}:0", "data": "mine", **key}
                assert way.publish(channel, again) == first, way.name
                assert refusal(way, channel, {**again, "data": "other"}) == 40031, way.name
                assert refusal(way, channel, {**again, "id": f"{each[0].client.connection_id[::-1]}:1:0"}) == 40031  # type: ignore[union-attr]
                two = [{**again, "id": f"{client.connection_id}:{10**9}:{n}", "data": str(n)} for n in range(2)]
                assert way.publish(channel, *two) == way.publish(channel, *two), way.name


# ---- what content


VARIANTS: list[dict[str, Any]] = [
    {"data": "other"},
    {"data": "DATA"},
    {"data": None},
    {"data": b"data"},
    {"name": "other"},
    {"name": None},
    {"name": ""},
    {"encoding": "utf-8"},
    {"encoding": None},
    {"extras": {"headers": {"a": 2}}},
    {"extras": {"headers": {"a": True}}},
    {"extras": {"headers": {"a": "1"}}},
    {"extras": None},
    {"clientId": "other"},
]
SAME: dict[str, Any] = {
    "name": "n",
    "data": "data",
    "encoding": "x",
    "extras": {"headers": {"a": 1, "b": [None, 1.5]}},
    "clientId": "me",
}


def given(message: dict[str, Any], *, packed: bool) -> dict[str, Any]:
    """As a client writes it in this format."""
    made = {name: value for name, value in message.items() if value is not None}
    if isinstance(made.get("data"), bytes) and not packed:
        made |= {"data": "ZGF0YQ==", "encoding": f"{made['encoding']}/base64"}
    return made


def let_go(way: Way, channel: str) -> None:
    """Have the ring forget what is in it."""
    for n in range(17):
        way.publish(channel, {"data": f"filler {n}"})


@TLS
@pytest.mark.parametrize("gone", [False, True], ids=["in the ring", "beyond the ring"])
@pytest.mark.parametrize("namespace", ["kept", "memory"])
def test_a_repeat_has_the_same_content_and_all_else_is_refused(
    both: list[tuple[Server, ssl.SSLContext | None]], secured: bool, gone: bool, namespace: str
) -> None:
    """The answer of the first for what is stored under an id; never one for what is not."""
    server, tls = both[secured]
    with ways(server, tls) as each:
        first, sent = {}, {}
        for number, way in enumerate(each):
            channel = f"{namespace}:{unique('content')}"
            for several in (False, True) if number % 3 == 0 else (False,):
                full = bool(number % 2)  # extras make it unusual, for both ways
                message = SAME if full else {"data": "data", "name": "n"}
                sent[number, several] = [
                    {**message, "id": f"{number}:{n}" if several else f"{number}"} for n in range(1 + several)
                ]
                messages = [given(one, packed="msgpack" in way.name) for one in sent[number, several]]
                first[number, several] = channel, way.publish(channel, *messages)
            if gone:
                let_go(way, channel)
        for (number, several), (channel, serials) in first.items():
            for way in each:
                packed = "msgpack" in way.name
                messages = [given(one, packed=packed) for one in sent[number, several]]
                assert way.publish(channel, *messages) == serials, way.name
                for variant in VARIANTS if way is each[number] else VARIANTS[:1]:
                    if all(sent[number, several][-1].get(name) == value for name, value in variant.items()):
                        continue
                    changed = [*sent[number, several][:-1], {"encoding": "x", **sent[number, several][-1], **variant}]
                    if refusal(way, channel, *[given(one, packed=packed) for one in changed]) != 40031:
                        pytest.fail(f"{way.name} took {variant} for {sent[number, several]}")
        for (number, _), (channel, _) in first.items() if namespace == "kept" else ():
            datas = [data for _, data in stored(server, channel, tls)]
            assert datas.count("data") == (3 if number % 3 == 0 else 1) and "other" not in datas


@TLS
@pytest.mark.parametrize("namespace", ["kept", "memory"])
def test_ephemeral_messages_have_ids_like_all_others(
    both: list[tuple[Server, ssl.SSLContext | None]], secured: bool, namespace: str
) -> None:
    """No journal has them: that they are delivered once must not depend on the ring."""
    server, tls = both[secured]
    with ways(server, tls) as each:
        for way in each:
            channel = f"{namespace}:{unique('ephemeral')}"
            message = {"id": "e", "data": "once", "extras": {"ephemeral": True}}
            with WsClient(server.address, tls=tls) as reader:
                reader.attach(channel)
                first = way.publish(channel, message)
                assert way.publish(channel, message) == first
                let_go(way, channel)
                assert way.publish(channel, message) == first, way.name
                assert refusal(way, channel, {**message, "data": "other"}) == 40031
                assert refusal(way, channel, {"id": "e", "data": "once"}) == 40031
                way.publish(channel, {"data": "end"})
                heard = []
                while not heard or heard[-1] != "end":
                    heard += [message["data"] for message in reader.deliveries(channel, 1)]
            assert heard.count("once") == 1


@TLS
@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("gone", [False, True], ids=["in the ring", "beyond the ring"])
@pytest.mark.parametrize("namespace", ["kept", "memory"])
def test_restarted_count_is_refused_and_a_repeat_acknowledged(
    both: list[tuple[Server, ssl.SSLContext | None]], secured: bool, format: str, gone: bool, namespace: str
) -> None:
    """Two clients with one key, or one that forgot how far it had counted: their messages are others."""
    server, tls = both[secured]
    channel = f"{namespace}:{unique('recover')}"
    with WsClient(server.address, format=format, tls=tls) as client:
        sent = [
            [{"data": "a"}],
            [{"data": "b"}, {"data": "c"}],
            [{"name": "n", "data": "d", "extras": {"headers": {"h": 1}}}],
        ]
        first = [client.publish(channel, *messages) for messages in sent]
        if gone:
            for n in range(17):
                client.publish(channel, {"data": f"filler {n}"})
        last = client.next_serial
        key = client.connection_key
    for parameter in ("resume", "recover"):
        with WsClient(server.address, format=format, tls=tls, **{parameter: key}) as again:
            assert again.connection_id == client.connection_id
            key = again.connection_key
            again.next_serial = 0
            assert [again.publish(channel, *messages) for messages in sent] == first
            again.next_serial = 0
            for messages in ([{"data": "other"}], [{"data": "b"}, {"data": "x"}], sent[1]):
                with pytest.raises(RefusedError) as refused:
                    again.publish(channel, *messages)
                assert refused.value.code == 40031
            for wrong in ([{"data": "b"}], [*sent[1], {"data": "more"}]):
                again.next_serial = 1
                with pytest.raises(RefusedError) as refused:
                    again.publish(channel, *wrong)
                assert refused.value.code == 40031
            again.next_serial = last
            last += 1
            assert len(again.publish(channel, {"data": parameter})) == 1, "a new number is a new message"
    if namespace == "kept":
        held = [data for _, data in stored(server, channel, tls)]
        assert [data for data in held if "filler" not in data] == ["a", "b", "c", "d", "resume", "recover"]


def test_publishes_behind_a_lookup_keep_their_order(
    both: list[tuple[Server, ssl.SSLContext | None]],
) -> None:
    """The journal is asked for the first of a repeat; whatever comes behind is answered, and stored, in its order."""
    server, _ = both[0]
    channel = unique("kept:order")
    with WsClient(server.address) as client:
        first = [client.publish(channel, {"data": str(n)})[0] for n in range(40)]
        key = client.connection_key
    with WsClient(server.address, resume=key) as again:
        numbers = [number for n in range(40) for number in (n, 40 + n)]
        for number in numbers:
            again.send_messages(channel, [{"data": str(number)}], msg_serial=number)
        told: list[tuple[int, str]] = []
        while len(told) < len(numbers):
            ack = again.expect(Action.ACK)
            told += [(ack["msgSerial"] + n, result["serials"][0]) for n, result in enumerate(ack["res"])]
        assert [number for number, _ in told] == numbers
        assert [serial for number, serial in told if number < 40] == first
    assert [data for _, data in stored(server, channel)] == [str(n) for n in range(80)]


@pytest.mark.parametrize("client_id", [None, "ann"])
def test_who_a_message_is_from_is_a_part_of_it(
    both: list[tuple[Server, ssl.SSLContext | None]], client_id: str | None
) -> None:
    server, _ = both[0]
    channel = unique("from")
    mine = token(server.address, {"*": ["*"]}, client_id="ann")
    other = token(server.address, {"*": ["*"]}, client_id="bob")
    named = {} if client_id is None else {"clientId": client_id}
    with (
        WsClient(server.address, key=None, accessToken=mine) as ann,
        WsClient(server.address, key=None, accessToken=other) as bob,
        WsClient(server.address) as anybody,
    ):
        first = ann.publish(channel, {"id": "x", "data": "hi", **named})
        assert (
            ann.publish(channel, {"id": "x", "data": "hi"})
            == ann.publish(channel, {"id": "x", "data": "hi", "clientId": "ann"})
            == first
        )
        assert anybody.publish(channel, {"id": "x", "data": "hi", "clientId": "ann"}) == first
        for client in (bob, anybody):
            with pytest.raises(RefusedError) as refused:
                client.publish(channel, {"id": "x", "data": "hi"})
            assert refused.value.code == 40031


# ---- across a crash


@TLS
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_after_a_crash_a_repeat_is_known_by_its_content_too(
    make_server: MakeServer, authority: tuple[Sequence[str], ssl.SSLContext], secured: bool, format: str
) -> None:
    arguments, context = authority
    tls = context if secured else None
    server = make_server(config=SMALL, arguments=arguments if secured else [])
    channel = unique("crash")
    sent = [[{"data": str(n)}] if n % 3 else [{"data": str(n)}, {"data": "b"}] for n in range(30)]
    with WsClient(server.address, format=format, tls=tls) as client:
        first = [client.publish(channel, *messages) for messages in sent]
        own = client.publish(channel, {"id": "own", "data": "x"})
    server.restart()
    with (
        WsClient(server.address, format=format, tls=tls) as fresh,
        WsClient(server.address, format=format, tls=tls, resume=client.connection_key) as again,
    ):
        assert again.connection_id == client.connection_id
        new = fresh.publish(channel, {"data": "fresh"})
        for number, messages in reversed(list(enumerate(sent))):
            again.next_serial = number
            assert again.publish(channel, *messages) == first[number]
            again.next_serial = number
            with pytest.raises(RefusedError) as refused:
                again.publish(channel, *messages[:-1], {"data": "other"})
            assert refused.value.code == 40031
        again.next_serial = len(sent) + 1
        behind = again.publish(channel, {"data": "behind"})
        assert fresh.publish(channel, {"id": "own", "data": "x"}) == own
        assert refusal(Way("", fresh.publish), channel, {"id": "own", "data": "y"}) == 40031
        with ways(server, tls) as each:
            for way in each:
                assert way.publish(channel, {"id": "own", "data": "x"}) == own, way.name
                assert refusal(way, channel, {"id": "own", "data": "y"}) == 40031, way.name
    held = [data for _, data in stored(server, channel, tls)]
    assert [data for data in held if data != "b"] == [*[str(n) for n in range(30)], "x", "fresh", "behind"]
    assert new and behind


# ---- all of it, under load


class Thief(threading.Thread):
    """Reads along, and sends messages with the ids that are next of whoever publishes, over a socket and by REST."""

    def __init__(self, server: Server, channel: str) -> None:
        super().__init__(daemon=True)
        self.server, self.channel = server, channel
        self.refused = self.taken = 0
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            with (
                contextlib.suppress(GoneError, OSError, TimeoutError, http.client.HTTPException),
                ways(self.server) as each,
            ):
                quiet = [way for way in each if "short=True" not in way.name]  # those say nothing else
                reader = next(way.client for way in quiet if way.client is not None)
                reader.attach(self.channel)
                for way in itertools.cycle(quiet):
                    if self.stopped:
                        break
                    message = reader.deliveries(self.channel, 1, seconds=1)[0]
                    who, number = (message.get("connectionId"), str(message["id"]).split(":")[1:2])
                    if who is None or who == reader.connection_id or not number or not number[0].isdigit():
                        continue
                    for ahead in (1, 2, 50):
                        stolen = {"id": f"{who}:{int(number[0]) + ahead}:0", "data": "stolen"}
                        if refusal(way, self.channel, stolen) == 40031:
                            self.refused += 1
                        else:
                            self.taken += 1


def test_cuts_and_crashes_under_load_store_every_id_once(
    make_server: MakeServer, make_proxy: Callable[[Server], ChaosProxy], channel: str
) -> None:
    """Promises 1, 3, 4 and 5, held against the journal by the checker; with rings that are of no help."""
    server = make_server(config=SMALL)
    proxy = make_proxy(server)
    publishers, subscribers = started(channel, proxy.address, count=500, pace_seconds=0.001)
    thief = Thief(server, channel)
    thief.start()
    for crash in (False, True, False):
        wait_for_acks(publishers, 300)
        if crash:
            server.restart()
        proxy.cut()
    report = settle_and_check(server.address, channel, publishers, subscribers)
    thief.stopped = True
    thief.join(20)
    assert not report.faults, str(report)
    assert report.acked == report.sent == report.stored == 4 * 500
    assert sum(publisher.resent for publisher in publishers) > 0
    assert thief.refused > 10 and thief.taken == 0
