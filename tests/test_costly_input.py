"""What is expensive is refused before it has cost much, and what is legal is worked through in small pieces: no input,
however it is written and wherever it comes in, keeps anybody else waiting."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgpack
import pytest

from engine.errors import PubSubError
from engine.limits import INPUT_VALUES
from engine.message import publish_from
from engine.names import parse_channel
from engine.settings import Limits
from ext.text.values import decode_message
from ext.wire.publish import parse_publish
from server.http.request import HttpRequest, decode_body, parse_target
from server.realtime import wire
from server.realtime.params import channel_params
from server.rest.publishing import read_plain, read_publish
from tests.canary import MOST_SECONDS, Canary
from tests.cost import cost
from tests.harness import KEY, Address, Server
from tests.peer import Peer, framed, upgrade
from tests.restclient import JSON, MSGPACK, RestClient
from tests.test_protocol import until_pong
from tests.wsclient import Action, RefusedError, WsClient

TRIES = 3
MOST = 7.0  # yardsticks, of about 1 ms
FRAME = Limits().max_frame_size - 200
BODY = Limits().request_body_bytes
MESSAGES = Limits().messages_per_publish
FORM, TEXT = "application/x-www-form-urlencoded", "text/plain"


def in_json(messages: str) -> str:
    return f'{{"action":15,"channel":"costly","msgSerial":0,"messages":{messages}}}'


def in_msgpack(messages: bytes) -> bytes:
    return b"\x84\xa6action\x0f\xa7channel\xa6costly\xa9msgSerial\x00\xa8messages" + messages


def repeated(part: str, size: int = FRAME) -> str:
    """So often that it is about so long."""
    return part * (size // len(part.encode()))


def array_of(items: bytes, count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + items * count


def map_of(pair: Callable[[int], bytes], count: int) -> bytes:
    return b"\xdf" + count.to_bytes(4, "big") + b"".join(map(pair, range(count)))


def extras(value: str) -> str:
    return in_json(f'[{{"extras":{{"a":{value}}}}}]')


def packed_extras(value: bytes) -> bytes:
    return in_msgpack(b"\x91\x81\xa6extras\x81\xa1a" + value)


def each(count: int, message: Callable[[int], Any]) -> list[Any]:
    return [message(n) for n in range(count)]


FULL = each(
    1000,
    lambda n: {
        "id": f"b:{n}",
        "name": "n",
        "data": "d",
        "clientId": "c",
        "extras": {"headers": dict.fromkeys("abcde", n)},
    },
)  # as much as makes sense: 1,000 messages, all members, five headers
OBJECTS = each(1000, lambda n: {"data": {"n": n, "list": [1, 2, 3]}})
DEEP = "[" * 60 + "]" * 60
JUST = INPUT_VALUES - 100  # values that are still made

FRAMES: dict[str, str | bytes] = {
    "arrays": packed_extras(array_of(b"\x90", FRAME - 20)),
    "arrays in JSON": extras(f"[{repeated('[],')}1]"),
    "maps in JSON": extras(f"[{repeated('{},')}1]"),
    "as many arrays as are made": packed_extras(array_of(b"\x90", JUST)),
    "as many arrays in JSON as are made": extras(f"[{'[],' * JUST}1]"),
    "as many pairs as are made": packed_extras(map_of(lambda n: b"\xa6%06d\x01" % n, JUST // 2)),
    "as many pairs in JSON as are made": extras("{" + ",".join(f'"{n}":{n}' for n in range(JUST // 2)) + "}"),
    "as many nulls as are made": extras("{" + ",".join(f'"{n}":null' for n in range(JUST // 2)) + "}"),
    "nulls in many maps": extras("[" + '{"a":null},' * (JUST // 3) + "1]"),
    "as many floats as are made": extras(f"[{'1.5,' * JUST}1]"),
    "long floats": extras(f"[{repeated('0.12345678901234567,')}1]"),
    "small digits": extras(f"[{repeated('1,')}1]"),
    "one number": extras("1" * FRAME),
    "many long numbers": extras(f"[{repeated('1' * 1000 + ',')}1]"),
    "nils": packed_extras(array_of(b"\xc0", FRAME - 20)),
    "ext": packed_extras(array_of(b"\xd4\x00\x00", JUST)),
    "more ext": packed_extras(array_of(b"\xd4\x00\x00", FRAME // 3 - 20)),
    "NaN": packed_extras(array_of(b"\xca\x7f\xc0\x00\x00", JUST)),
    "one key many times": extras("{" + '"a":1,' * (JUST // 2) + '"a":1}'),
    "long keys": extras("{" + ",".join(f'"{n:0100d}":1' for n in range(FRAME // 110)) + "}"),
    "keys that are numbers": packed_extras(map_of(lambda n: b"\xce" + n.to_bytes(4, "big") + b"\x01", JUST // 2)),
    "deep arrays": extras("[" * (FRAME // 2) + "]" * (FRAME // 2)),
    "deep maps": extras(repeated('{"a":', FRAME * 5 // 6) + "1" + "}" * (FRAME // 6)),
    "deep msgpack": packed_extras(b"\x91" * (FRAME - 20) + b"\x90"),
    "many that are deep": extras(f"[{(DEEP + ',') * (JUST // 61)}1]"),
    "escapes": in_json(f'[{{"data":"{repeated(chr(92) + "n")}","extras":{{}}}}]'),
    "numbered escapes": in_json(f'[{{"data":"{repeated(chr(92) + "u00e9")}","extras":{{}}}}]'),
    "halves": in_json(f'[{{"data":"{repeated(chr(92) + "ud83d")}"}}]'),
    "halves between letters": in_json(f'[{{"data":"{repeated("a" + chr(92) + "ud83d")}"}}]'),
    "two bytes a letter": in_json(f'[{{"data":"{repeated("é")}","extras":{{}}}}]'),
    "four bytes a letter": in_json(f'[{{"data":"{repeated("😀")}","extras":{{}}}}]'),
    "base64": in_json(f'[{{"data":"{repeated("////")}","encoding":"base64","extras":{{}}}}]'),
    "base64 that is none": in_json(f'[{{"data":"{repeated("////")}-","encoding":"base64","extras":{{}}}}]'),
    "binary": in_msgpack(msgpack.packb([{"data": b"x" * (FRAME - 100), "extras": {}}])),
    "text that is no UTF-8": in_msgpack(
        msgpack.packb([{"data": b"\xc3\xa9" * (FRAME // 2 - 50) + b"\xff"}], use_bin_type=False)
    ),
    "a thousand messages": in_json(json.dumps(FULL)),
    "a thousand messages in msgpack": in_msgpack(msgpack.packb(FULL)),
    "a thousand objects": in_json(json.dumps(OBJECTS)),
    "a thousand, the last of them wrong": in_json(json.dumps([*FULL[:999], {"data": 1}])),
    "a thousand, the first of them wrong": in_json(json.dumps([{"data": 1}, *FULL[:999]])),
    "too many messages": in_json(f"[{repeated('{},')}{{}}]"),
    "a deep fault behind much": extras(f"[{'[],' * JUST}{'[' * 70}{']' * 70}]"),
    "blanks": extras(" " * FRAME + "1"),
    "an object": in_json(f'[{{"data":[{"[]," * JUST}1]}}]'),
    "a member that nobody reads": in_json(f'[{{"data":"x"}}],"new":[{repeated("[],")}1]'),
    "params": in_json(f'[{{"data":"x"}}],"params":{{{repeated(chr(34) + "a" + chr(34) + ":1,")}"b":1}}'),
    "a thousand members": "{" + "".join(f'"{n}":1,' for n in range(30_000)) + '"action":15}',
    "members without end": "{" + repeated('"a":1,') + '"action":15}',
    "an array of frames": "[" + repeated('{"action":0},') + "0]",
    "presence": f'{{"action":14,"channel":"c","msgSerial":0,"presence":[{repeated("{},")}0]}}',
    "an unknown action": f'{{"action":99,"new":[{repeated("[],")}0]}}',
    "a synchronisation": f'{{"action":16,"channel":"c","presence":[{repeated("[],")}0]}}',
    "an annotation": f'{{"action":21,"channel":"c","msgSerial":0,"annotations":[{repeated("[],")}0]}}',
    "a long ping": f'{{"action":0,"id":"{repeated(chr(92) + "n")}"}}',
    "a long token": f'{{"action":17,"auth":{{"accessToken":"{repeated("a.b.")}"}}}}',
    "much in a token's place": f'{{"action":17,"auth":{{"accessToken":[{repeated("[],")}0]}}}}',
    "params of an ATTACH": '{"action":10,"channel":"c","params":{'
    + ",".join(f'"{n}":1' for n in range(JUST // 2))
    + "}}",
    "more params of an ATTACH": f'{{"action":10,"channel":"c","params":[{repeated("[],")}0]}}',
    "modes of an ATTACH": f'{{"action":10,"channel":"c","params":{{"modes":"{repeated("publish,")}"}}}}',
    "params in a name": f'{{"action":10,"channel":"[?{repeated("%41=%42&")}]c"}}',
    "a long param in a name": f'{{"action":10,"channel":"[?a={repeated("%41")}]c"}}',
    "a long name": f'{{"action":10,"channel":"{repeated("é")}"}}',
    "a long name to publish to": f'{{"action":15,"channel":"{repeated("a:")}","msgSerial":0,"messages":[{{}}]}}',
}
ENDS = {"a thousand members", "members without end", "an array of frames", "a long token", "much in a token's place"}


def received(payload: bytes, kind: int) -> None:
    """What the server does with a frame, up to where it is staged."""
    if parse_publish(payload, kind) is not None:
        return
    try:
        message = wire.decode(payload, kind)
        if message.get("action") == Action.MESSAGE:
            channel = parse_channel(message["channel"])
            publish_from(channel.name, message["msgSerial"], message["messages"], kind)
        elif message.get("action") == Action.ATTACH:
            channel_params(parse_channel(message["channel"]), message.get("params"))
    except (PubSubError, KeyError):
        pass


def held(work: Callable[[], object]) -> float:
    """For how long it keeps others waiting, in yardsticks."""
    return cost(work, MOST)


@pytest.mark.parametrize("name", FRAMES)
def test_no_frame_holds_the_loop(name: str) -> None:
    frame = FRAMES[name]
    payload, kind = (frame.encode(), wire.JSON) if isinstance(frame, str) else (frame, wire.MSGPACK)
    assert len(payload) <= Limits().max_frame_size
    assert held(lambda: received(payload, kind)) < MOST


def spaced(start: str, part: str, end: str) -> bytes:
    return f"{start}{repeated(part, BODY - 100)}{end}".encode()


BODIES: dict[str, tuple[bytes, str, dict[str, str]]] = {
    "arrays": (msgpack.packb({"extras": {"a": 0}})[:-1] + array_of(b"\x90", BODY - 100), MSGPACK, {}),
    "arrays in JSON": (spaced('{"extras":{"a":[', "[],", "1]}}"), JSON, {}),
    "digits": (spaced('{"extras":{"a":[', "1,", "1]}}"), JSON, {}),
    "one number": (spaced('{"extras":{"a":', "1", "}}"), JSON, {}),
    "escapes": (spaced('{"data":"', "\\n", '"}'), JSON, {}),
    "escapes and extras": (spaced('{"extras":{},"data":"', "\\n", '"}'), JSON, {}),
    "numbered escapes": (spaced('{"extras":{},"data":"', "\\u00e9", '"}'), JSON, {}),
    "halves": (spaced('{"data":"', "\\ud83d", '"}'), JSON, {}),
    "two bytes a letter": (spaced('{"extras":{},"data":"', "é", '"}'), JSON, {}),
    "four bytes a letter": (spaced('{"extras":{},"data":"', "😀", '"}'), JSON, {}),
    "base64": (spaced('{"data":"', "////", '","encoding":"base64"}'), JSON, {}),
    "brackets": (b"[" * (BODY // 2) + b"]" * (BODY // 2), JSON, {}),
    "deep msgpack": (b"\x91" * (BODY - 1) + b"\x90", MSGPACK, {}),
    "a thousand messages": (json.dumps(FULL).encode(), JSON, {}),
    "messages without end": (spaced("[", "{},", "{}]"), JSON, {}),
    "a form": (spaced("data=", "%C3%A9", ""), FORM, {}),
    "fields without end": (spaced("", "a&", "a"), FORM, {}),
    "one field many times": (b"data=x&" * 200, FORM, {}),
    "text": (spaced("", "é", ""), TEXT, {}),
    "JSON as it is": (spaced("[", "1,", "1]"), JSON, {"enveloped": "false"}),
    "JSON as it is, of escapes": (spaced('"', "\\u00e9", '"'), JSON, {"enveloped": "false"}),
    "a batch": (spaced('{"channels":["a"],"messages":[', "{},", "{}]}"), JSON, {}),
    "channels of a batch": (spaced('{"messages":{},"channels":[', '"a",', '"b"]}'), JSON, {}),
}


@pytest.mark.parametrize("name", BODIES)
def test_no_body_holds_the_loop(name: str) -> None:
    """A large one is read in steps, between which everybody else has a turn: each by itself counts."""
    body, kind, query = BODIES[name]
    assert len(body) <= BODY
    request = HttpRequest("POST", "/channels/x/messages", query, {"content-type": kind}, body, False, "")
    assert held(lambda: read_plain(request, MESSAGES)) < MOST
    if name not in ("text", "JSON as it is", "JSON as it is, of escapes"):
        assert held(lambda: _refused(lambda: decode_body(request))) < MOST
    assert held(lambda: _refused(lambda: read_publish(request, MESSAGES))) < MOST
    made = _refused(lambda: read_publish(request, MESSAGES))
    if made is not None:

        def publish() -> None:
            again = type(made)(wire.JSON, made.values, {}, MESSAGES)
            again.make()

        assert held(publish) < MOST


def _refused(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except PubSubError:
        return None


@pytest.mark.parametrize("part", ["%C3%A9", "a=b&", "+", "%", "%zz"])
def test_no_head_holds_the_loop(part: str) -> None:
    target = "/channels/" + part * 1000 + "?a=" + repeated(part, Limits().request_head_bytes // 2)
    assert held(lambda: _no_value_error(lambda: parse_target(target))) < MOST


def _no_value_error(work: Callable[[], object]) -> None:
    with contextlib.suppress(ValueError):
        work()


def test_so_many_values_are_made_and_one_more_is_not() -> None:
    for count, kept in ((JUST, True), (INPUT_VALUES, False)):
        for payload, kind in (
            (extras("[" + ",".join(["1"] * count) + "]").encode(), wire.JSON),
            (packed_extras(array_of(b"\x01", count)), wire.MSGPACK),
        ):
            message, _ = decode_message(payload, kind, most=INPUT_VALUES)
            assert isinstance(message["messages"], list) == kept
            assert (message["action"], message["channel"], message["msgSerial"]) == (15, "costly", 0)


# who is told, and how


@pytest.mark.parametrize("kind", ["json", "msgpack"])
def test_who_publishes_too_many_values_is_told_and_goes_on(server: Server, channel: str, kind: str) -> None:
    much = [{"extras": {"a": [[]] * INPUT_VALUES}}]
    with WsClient(server.address, format=kind) as client:
        client.attach(channel)
        with pytest.raises(RefusedError) as refused:
            client.publish(channel, *much)
        assert (refused.value.code, refused.value.status) == (40009, 400)
        assert "messages: " in str(refused.value)
        with pytest.raises(RefusedError, match="40010"):  # the name of the channel comes first
            client.publish(":no", *much)
        client.publish(channel, {"data": "x"})
        client.send({"action": 99, "channel": channel, "new": much})
        client.send({"action": 10, "channel": channel, "new": much})
        assert client.expect(Action.ATTACHED)["channel"] == channel
        client.send({"action": 10, "channel": channel, "params": much})
        assert client.expect(Action.ERROR)["channel"] == channel
        client.send({"action": 14, "channel": channel, "msgSerial": client.next_serial, "presence": much})
        assert client.expect(Action.NACK)["msgSerial"] == client.next_serial
        # what nobody reads is no reason to refuse the rest
        client.next_serial += 1
        client.send(
            {
                "action": 15,
                "channel": channel,
                "new": much,
                "msgSerial": client.next_serial,
                "messages": [{"data": "y"}],
            }
        )
        assert client.expect(Action.ACK)["msgSerial"] == client.next_serial
        until_pong(client)


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
@pytest.mark.parametrize("path", ["/channels/room/messages", "/messages", "/keys/app1.key1/revokeTokens"])
def test_a_request_of_too_many_values_is_refused(server: Server, kind: str, path: str) -> None:
    value = {"channels": ["a"], "messages": [{"extras": {"a": [[]] * INPUT_VALUES}}]}
    body = json.dumps(value).encode() if kind == JSON else msgpack.packb(value)
    with RestClient(server.address) as rest:
        assert rest.ask("POST", path, body, content_type=kind).refusal == (400, 40009)
        assert rest.ask("GET", "/time").status == 200


def test_thousand_messages_with_all_members_are_published(server: Server, channel: str) -> None:
    messages = [{name: value for name, value in message.items() if name != "id"} for message in FULL]
    for kind in ("json", "msgpack"):
        with WsClient(server.address, format=kind) as client:
            assert len(client.publish(channel, *messages)) == 1000
    with RestClient(server.address) as rest:
        for number in range(2):
            body = {"channels": [f"{channel}:{n}" for n in range(100)], "messages": messages}
            told = rest.ask("POST", "/messages", body).value
            assert told["successCount"] == 100
            assert all(len(result["serials"]) == 1000 for result in told["results"]), number


@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_what_comes_behind_a_large_one_stays_behind_it(
    server: Server, secure: tuple[Server, ssl.SSLContext], channel: str, transport: str
) -> None:
    """It waits for its turn, while small ones could take the short way past it."""
    at, context = (server, None) if transport == "plain" else secure
    publisher = WsClient(at.address, tls=context)
    publisher.attach(channel)
    publisher.publish(channel, {"data": "opened"})
    large = {"headers": {"a": "x" * 5_000}}
    count = 4_000  # more than is read of one connection in one poll
    frames = [
        {
            "action": 15,
            "channel": channel,
            "msgSerial": number,
            "messages": [{"data": str(number), "extras": large} if number % 500 == 0 else {"data": str(number)}],
        }
        for number in range(1, count + 1)
    ]
    with publisher:
        publisher.send(*frames)  # at once: the server reads them in several gulps
        got: list[str] = []
        while len(got) <= count:
            got += [member["data"] for member in publisher.skip_to(15)["messages"]]
    assert got == ["opened", *map(str, range(1, count + 1))]


# while all of it comes in at once, somebody else notices nothing


class Sender(Peer):
    """Sends frames that were made before, and looks at nothing but the answer to its ping."""

    def __init__(self, address: Address, context: ssl.SSLContext | None) -> None:
        super().__init__(address, context)
        self.send(upgrade())
        self.hears(b'"action":4')

    def hears(self, mark: bytes) -> None:
        assert self.until(mark).endswith(mark), "the server has closed the connection"

    def send_all(self, names: Iterable[str]) -> None:
        """And wait until the server has dealt with all of them; where one ends its connection, there is a next one."""
        for name in names:
            self.send(framed(FRAMES[name]))
        self.send(framed('{"action":0,"id":"all done"}'))
        self.hears(b"all done")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Any) -> Iterator[tuple[Server, Any]]:
    with Server(tmp_path_factory.mktemp("secure"), arguments=authority[0]) as running:
        yield running, authority[1]
    assert not running.complaints(), running.complaints()


def posted(body: bytes, kind: str, query: dict[str, str]) -> bytes:
    more = "".join(f"?{name}={value}" for name, value in query.items())
    authorization = base64.b64encode(KEY.encode()).decode()
    return (
        f"POST /channels/costly/messages{more} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        f"Authorization: Basic {authorization}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body


def request_all(address: Address, context: ssl.SSLContext | None) -> None:
    """Each body over a connection of its own, all at once."""
    posts = []
    for body, kind, query in BODIES.values():
        posts.append(Peer(address, context))
        posts[-1].send(posted(body, kind, query))
    for post in posts:
        assert post.head()[0] in (201, *range(400, 500))
        post.close()


def in_threads(work: Callable[[Sender], None], senders: list[Sender]) -> None:
    threads = [threading.Thread(target=work, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def how_busy() -> float:
    """By how much the machine's other work stretches ours: 1, if there is none. So a busy one fails nothing."""
    began, own = time.perf_counter(), time.thread_time()
    while time.thread_time() - own < 0.05:
        pass
    return max(1.0, (time.perf_counter() - began) / 0.05)


def beside_all_of_it(address: Address, context: ssl.SSLContext | None) -> Canary:
    crowd = [Sender(address, context) for _ in range(40 if context is None else 12)]
    with Canary(address, pace_seconds=0.002, tls=context) as canary:
        for names in (["arrays"], ["as many arrays as are made"]):
            in_threads(lambda sender, names=names: sender.send_all(names), crowd)  # type: ignore[misc]
        others = [name for name in FRAMES if name not in ENDS]
        in_threads(lambda sender: sender.send_all(others[crowd.index(sender) :: 8]), crowd[:8])
        for name in ENDS:  # more than one of each: they are all that is sent then
            for sender in crowd[:5]:
                sender.send(framed(FRAMES[name]))
                sender.close()
            crowd = [*crowd[5:], *(Sender(address, context) for _ in range(5))]
        request_all(address, context)
    for sender in crowd:
        sender.close()
    return canary


@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_while_all_of_it_comes_in_a_canary_notices_nothing(
    server: Server, secure: tuple[Server, ssl.SSLContext], transport: str
) -> None:
    """It is in time, at the third try at the latest: a busy machine alone may make it late."""
    at, context = (server, None) if transport == "plain" else secure
    for _ in range(TRIES):
        stretch = how_busy()
        canary = beside_all_of_it(at.address, context)
        seconds = MOST_SECONDS * max(stretch, how_busy())
        if canary.in_time(seconds=seconds):
            break
    canary.check(seconds=seconds)
