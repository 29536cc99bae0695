"""The body that tells where a publish is stored: the short way writes it by itself, and as orjson and msgpack would."""

from __future__ import annotations

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.rest.publishing import published
from tests.posts_desk import JSON, MSGPACK, Desk, close_all, post, read_all

ENCODERS = {JSON: orjson.dumps, MSGPACK: msgpack.packb}
MANY = 110  # so that indexes have one, two and three digits, and an array another header
ODD = [
    "",
    'quo"te',
    "back\\slash/",
    "".join(map(chr, range(0x20))),
    "\x7f\x80\x9f\xa0",
    "h\u00e9 \u2713 \u2028\u2029 \ufeff \uffff \U0001f600",
    "[?rewind=1&x=\x01]room",
    "{}[],:",
]
LONG = [
    mark * size for mark in ("x", "\u00e9", '"') for size in (7, 8, 16, 31, 32, 33, 127, 128, 255, 256, 700, 65_536)
]


@pytest.fixture(autouse=True)
def _closed_in_the_end():
    yield
    close_all()


def bodies(desk, kind, messages):
    """What two such publishes are told: the first one is asked about, the other not."""
    peer = desk.connect(post(messages, kind))
    found = []
    for short in (0, 1):
        desk.turn()
        assert desk.posts.served == short
        head, _, body = read_all(peer, desk)[0].partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201"), body
        found.append(body)
        if not short:
            again = [message | {"id": f"again {message['id']}"} for message in messages]
            peer.sendall(post(again, kind))
    return found


def expected(desk, kind, channel, ids):
    return [
        ENCODERS[kind](published(channel, id, [message["serial"] for message in entry]))
        for id, entry in zip(ids, desk.log(), strict=True)
    ]


@pytest.mark.parametrize("kind", [JSON, MSGPACK], ids=["JSON", "msgpack"])
@pytest.mark.parametrize("channel", ODD + LONG, ids=lambda name: ascii(name[:12]) + str(len(name)))
def test_the_short_way_names_any_channel_as_the_libraries_do(kind, channel):
    desk = Desk(channel=channel)
    assert bodies(desk, kind, [{"id": "a", "data": ""}]) == expected(desk, kind, channel, ["a", "again a"])


@pytest.mark.parametrize("kind", [JSON, MSGPACK], ids=["JSON", "msgpack"])
@pytest.mark.parametrize("count", [1, 2, 15, 16, MANY])
def test_short_way_tells_one_serial_per_message(kind, count):
    desk = Desk(max_messages=MANY)
    messages = [{"id": f"a:{n}", "data": ""} for n in range(count)]
    ids = ["a:0", "again a:0"] if count == 1 else ["a", "again a"]
    assert bodies(desk, kind, messages) == expected(desk, kind, "one", ids)


@given(channel=st.text(max_size=50), id=st.text(min_size=1, max_size=50).map(lambda text: text.replace(":", ";")))
def test_short_way_encodes_channel_and_id_like_libraries(channel, id):
    for kind in ENCODERS:
        desk = Desk(channel=channel)
        assert bodies(desk, kind, [{"id": id, "data": ""}]) == expected(desk, kind, channel, [id, f"again {id}"])
        close_all()
