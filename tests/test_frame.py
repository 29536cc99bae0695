"""What ext.wire.frame promises: what arrives is what was sent, however it is cut; what RFC 6455 forbids is refused,
with the right code; and nothing is held beyond what has arrived. wsproto is the independent witness,
tests.models.frame the plain twin."""

import struct
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from ext.wire import frame as room
from ext.wire.frame import (
    BINARY,
    CLOSE,
    CONTINUATION,
    ERROR,
    PING,
    PONG,
    TEXT,
    FrameDecoder,
    encode_close,
    encode_frame,
)
from tests.models import frame as model
from tests.models.frame import Event, PlainDecoder, frame, mask

LIMIT = 70_000
KEY = b"\x37\xfa\x21\x3d"
LONGEST_HEADER = 14
CLASSES = [0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537]


def receive(decoder: FrameDecoder, data: bytes) -> list[Event]:
    return [Event(event.kind, event.payload, event.code) for event in decoder.receive(data)]


def decode(data: bytes, *, limit: int = LIMIT, client_side: bool = False) -> list[Event]:
    return receive(FrameDecoder(limit, client_side=client_side), data)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


class Witness:
    """wsproto, from its frames to the same events."""

    def __init__(self, *, client_side: bool) -> None:
        self._codec = FrameProtocol(client_side, [])
        self._message: list[bytes] = []
        self.ended = False

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        try:
            self._codec.receive_bytes(data)
            for found in self._codec.received_frames():
                self._take(found.opcode, found.payload, found.message_finished, events)
        except ParseFailed as error:
            self.ended = True
            events.append(Event(ERROR, b"", error.code))
        return events

    def _take(self, opcode: Opcode, payload: Any, finished: bool, events: list[Event]) -> None:
        if opcode is Opcode.CLOSE:
            self.ended = True
            events.append(Event(CLOSE, payload[1].encode(), payload[0]))
        elif opcode.iscontrol():
            events.append(Event(int(opcode), payload))
        else:
            self._message.append(payload.encode() if isinstance(payload, str) else payload)
            if finished:
                events.append(Event(int(opcode), b"".join(self._message)))
                self._message = []


def assert_agree(ours: list[Event], theirs: list[Event], witness: Witness) -> None:
    """The same events and the same end, but for four differences that are meant."""
    if ours and ours[-1].code == 1014 and theirs == [*ours[:-1], Event(ERROR, b"", 1002)]:
        return  # registered with IANA ("Bad Gateway") after wsproto's list was made
    if ours and ours[-1].code == 1009 and theirs[: len(ours) - 1] == ours[:-1]:
        return  # wsproto's codec has no limit
    if theirs and theirs[-1].code == 1007 and ours != theirs:
        # wsproto checks text as it comes, we when it is whole: meanwhile control frames are handed up, or it ends for
        # another reason. But no message is.
        assert ours[: len(theirs) - 1] == theirs[:-1]
        assert all(event.kind not in (TEXT, BINARY) for event in ours[len(theirs) - 1 :])
    elif ours and ours[-1] == Event(ERROR, b"", 1002) and not witness.ended:
        # We refuse with the second byte what wsproto refuses with the header's last, or with the payload's first.
        assert theirs + witness.receive(bytes(LONGEST_HEADER)) == ours
    else:
        assert ours == theirs


# ---- scripts: what a well-behaved peer sends, and what it should be heard as

keys = st.one_of(st.just(b"\0\0\0\0"), st.binary(min_size=4, max_size=4))
texts = st.text(max_size=40).map(str.encode)
controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))
sizes = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 128]))
binaries = st.one_of(st.binary(max_size=40), sizes.map(lambda size: bytes(n * 7 & 255 for n in range(size))))
messages = st.one_of(st.tuples(st.just(TEXT), texts), st.tuples(st.just(BINARY), binaries))


@st.composite
def conversations(draw: st.DrawFn, *, client_side: bool = False) -> tuple[bytes, list[Event]]:
    """Messages in fragments with control frames between them, perhaps a close: the bytes, and the events they mean."""
    sent, events = [], []

    def put(opcode: int, payload: bytes, fin: bool = True) -> None:
        sent.append(frame(opcode, payload, key=None if client_side else draw(keys), fin=fin))

    for opcode, payload in draw(st.lists(messages, max_size=6)):
        places = draw(st.lists(st.integers(0, 300), max_size=3))
        pieces = cut(payload, places) or [b""]
        pieces += [b""] * draw(st.integers(0, 2))
        for n, piece in enumerate(pieces):
            if draw(st.booleans()):
                control = draw(controls)
                put(*control)
                events.append(Event(*control))
            put(CONTINUATION if n else opcode, piece, n == len(pieces) - 1)
        events.append(Event(opcode, payload))
    if draw(st.booleans()):
        code, reason = draw(st.sampled_from([1000, 1001, 1011, 3000, 4999])), draw(st.text(max_size=30)).encode()
        put(CLOSE, code.to_bytes(2, "big") + reason)
        events.append(Event(CLOSE, reason, code))
    return b"".join(sent), events


cut_places = st.lists(st.integers(0, 5000), max_size=6)


@settings(deadline=None)
@given(conversations(), cut_places)
def test_a_server_hears_what_was_said_however_it_is_cut(said: tuple[bytes, list[Event]], cuts: list[int]) -> None:
    data, events = said
    decoder, witness = FrameDecoder(LIMIT), Witness(client_side=False)
    chunks = cut(data, cuts)
    assert [event for chunk in chunks for event in receive(decoder, chunk)] == events
    assert [event for chunk in chunks for event in witness.receive(chunk)] == events
    assert PlainDecoder(LIMIT).receive(data) == events
    assert decoder.buffered == 0


@settings(deadline=None)
@given(conversations(client_side=True), cut_places)
def test_a_client_hears_what_was_said_however_it_is_cut(said: tuple[bytes, list[Event]], cuts: list[int]) -> None:
    data, events = said
    decoder, witness = FrameDecoder(LIMIT, client_side=True), Witness(client_side=True)
    chunks = cut(data, cuts)
    assert [event for chunk in chunks for event in receive(decoder, chunk)] == events
    assert [event for chunk in chunks for event in witness.receive(chunk)] == events
    assert decoder.buffered == 0


@settings(deadline=None, max_examples=400)
@given(
    conversations(),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 7)), min_size=1, max_size=3),
    cut_places,
    st.sampled_from([0, 10, 100, 200, LIMIT]),
)
def test_flipped_bits_are_judged_like_the_model_and_wsproto(
    said: tuple[bytes, list[Event]], flips: list[tuple[int, int]], cuts: list[int], limit: int
) -> None:
    damaged = bytearray(said[0] or frame(PING, b""))
    for place, bit in flips:
        damaged[place % len(damaged)] ^= 1 << bit
    assert_all_agree(bytes(damaged), cuts, limit)


heads = st.tuples(st.integers(0, 255), st.integers(0, 255)).map(bytes)
bricks = st.sampled_from(
    [
        frame(TEXT, b"a"),
        frame(TEXT, b"b", fin=False),
        frame(CONTINUATION, b"c"),
        frame(PING, b"p"),
        frame(CONTINUATION, "€".encode()[:1], fin=False),
        frame(CONTINUATION, "€".encode()[1:]),
        frame(CLOSE, b"\3\xe8x"),
    ]
)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.one_of(heads, st.binary(max_size=20), bricks), max_size=8), cut_places)
def test_garbage_is_judged_like_the_model_and_like_wsproto(pieces: list[bytes], cuts: list[int]) -> None:
    assert_all_agree(b"".join(pieces), cuts, LIMIT)


def assert_all_agree(data: bytes, cuts: list[int], limit: int) -> None:
    decoder, witness = FrameDecoder(limit), Witness(client_side=False)
    chunks = cut(data, cuts)
    ours = [event for chunk in chunks for event in receive(decoder, chunk)]
    theirs = [event for chunk in chunks for event in witness.receive(chunk)]
    assert ours == PlainDecoder(limit).receive(data)
    assert_agree(ours, theirs, witness)
    assert decoder.buffered <= 2 * limit + 125 + LONGEST_HEADER


# ---- lengths, cuts, masks


@pytest.mark.parametrize("size", CLASSES)
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_every_class_of_lengths_arrives(size: int, kind: int) -> None:
    payload = bytes(n % 127 for n in range(size))
    for data, client_side in ((frame(kind, payload), False), (frame(kind, payload, key=None), True)):
        assert decode(data + data, client_side=client_side) == [Event(kind, payload)] * 2
        witness = Witness(client_side=client_side)
        assert witness.receive(data) == [Event(kind, payload)]


CONVERSATION = b"".join(
    [
        frame(TEXT, "grüß ".encode(), fin=False),
        frame(PING, b"?"),
        frame(CONTINUATION, b""[:0], fin=False),
        frame(CONTINUATION, "dich €".encode()[:-1], fin=False),
        frame(CONTINUATION, "€".encode()[-1:]),
        frame(BINARY, bytes(range(126))),
        frame(BINARY, b""),
        frame(PONG, b"!" * 125),
        frame(TEXT, b"x" * 300),
        frame(CLOSE, b"\x03\xe8bye"),
    ]
)
HEARD = [
    Event(PING, b"?"),
    Event(TEXT, "grüß dich €".encode()),
    Event(BINARY, bytes(range(126))),
    Event(BINARY, b""),
    Event(PONG, b"!" * 125),
    Event(TEXT, b"x" * 300),
    Event(CLOSE, b"bye", 1000),
]


def test_a_cut_at_any_byte_changes_nothing() -> None:
    for place in range(len(CONVERSATION) + 1):
        decoder = FrameDecoder(LIMIT)
        assert receive(decoder, CONVERSATION[:place]) + receive(decoder, CONVERSATION[place:]) == HEARD


def test_byte_by_byte_every_event_comes_with_its_last_byte() -> None:
    decoder, twin = FrameDecoder(LIMIT), PlainDecoder(LIMIT)
    for n in range(len(CONVERSATION)):
        assert receive(decoder, CONVERSATION[n : n + 1]) == twin.receive(CONVERSATION[n : n + 1])
    assert decoder.buffered == 0


def test_a_big_frame_in_pieces_arrives_with_its_follower() -> None:
    payload = bytes(n * 31 & 255 for n in range(66_000))
    data = frame(BINARY, payload) + frame(PING, b"after")
    for piece in (1447, 4096, 65_536):
        decoder = FrameDecoder(LIMIT)
        heard = [event for at in range(0, len(data), piece) for event in receive(decoder, data[at : at + piece])]
        assert heard == [Event(BINARY, payload), Event(PING, b"after")]


def test_unmasking_is_right_at_every_alignment_and_length() -> None:
    payload = bytes(range(100, 180))
    for before, size in product(range(16), range(80)):
        first, second = frame(BINARY, payload[:before], key=KEY), frame(BINARY, payload[:size], key=b"\x01\x80\xff\x00")
        assert decode(first + second) == [Event(BINARY, payload[:before]), Event(BINARY, payload[:size])]


def test_the_callers_bytes_are_left_as_they_were() -> None:
    data = bytearray(frame(TEXT, b"not yours to change"))
    copy = bytes(data)
    assert [event.payload for event in FrameDecoder(LIMIT).receive(data)] == [b"not yours to change"]
    assert [event.payload for event in FrameDecoder(LIMIT).receive(memoryview(data))] == [b"not yours to change"]
    assert data == copy


# ---- what is refused, and with what code

REFUSED = {
    "first reserved bit": (b"\xc1\x80" + KEY, 1002),
    "second reserved bit": (b"\xa1\x80" + KEY, 1002),
    "third reserved bit": (b"\x91\x80" + KEY, 1002),
    **{f"reserved opcode {op}": (bytes([0x80 | op, 0x80]) + KEY, 1002) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": (frame(PING, b"", fin=False), 1002),
    "fragmented close": (frame(CLOSE, b"", fin=False), 1002),
    "ping over 125": (frame(PING, bytes(126)), 1002),
    "close with a 64-bit length": (b"\x88\xff" + bytes(8) + KEY, 1002),
    "not masked": (frame(TEXT, b"x", key=None), 1002),
    "16-bit length for 125": (b"\x82\xfe\x00\x7d" + KEY + bytes(125), 1002),
    "64-bit length for 65535": (b"\x82\xff" + (65535).to_bytes(8, "big") + KEY, 1002),
    "64-bit length with the top bit": (b"\x82\xff\x80" + bytes(7) + KEY, 1002),
    "continues nothing": (frame(CONTINUATION, b"x"), 1002),
    "continues what has ended": (frame(TEXT, b"x") + frame(CONTINUATION, b"x"), 1002),
    "begins inside a message": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close with a code that is never sent": (frame(CLOSE, b"\x03\xed"), 1002),
    "close with a reason that is no text": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "no text": (frame(TEXT, b"caf\xe9"), 1007),
    "half a character": (frame(TEXT, b"\xe2\x82"), 1007),
    "half a character, continued wrongly": (frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"x"), 1007),
    "over the limit": (frame(BINARY, bytes(LIMIT + 1)), 1009),
    "together over the limit": (frame(BINARY, bytes(LIMIT), fin=False) + frame(CONTINUATION, b"x"), 1009),
    "the longest length there is": (b"\x82\xff\x7f" + b"\xff" * 7 + KEY, 1009),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_forbidden_ends_it_with_its_code_and_for_good(why: str) -> None:
    data, code = REFUSED[why]
    good = frame(TEXT, b"good")
    for chunks in ([good + data + good], [good, data, good], [bytes([byte]) for byte in good + data + good]):
        decoder = FrameDecoder(LIMIT)
        events = [event for chunk in chunks for event in receive(decoder, chunk)]
        assert events[0] == Event(TEXT, b"good")
        assert [event for event in events if event.kind == ERROR] == [events[-1]] == [Event(ERROR, b"", code)]
        assert receive(decoder, good) == []
        assert decoder.buffered == 0


def test_a_client_refuses_masked_frames() -> None:
    assert decode(frame(TEXT, b"x"), client_side=True) == [Event(ERROR, b"", 1002)]
    assert decode(frame(TEXT, b"x", key=None), client_side=True) == [Event(TEXT, b"x")]


def test_every_close_code_is_judged_like_wsproto_but_one() -> None:
    """1014 ("Bad Gateway") is registered with IANA; wsproto's list is older."""
    for code in range(65536):
        data, witness = frame(CLOSE, code.to_bytes(2, "big")), Witness(client_side=False)
        ours = decode(data)
        assert ours == ([Event(CLOSE, b"", code)] if model.may_be_sent(code) else [Event(ERROR, b"", 1002)])
        assert_agree(ours, witness.receive(data), witness)


def test_after_a_close_nothing_is_read_and_nothing_is_held() -> None:
    decoder = FrameDecoder(LIMIT)
    unfinished, late = frame(TEXT, b"x" * 1000, fin=False), frame(TEXT, b"late") + b"\xff"
    assert receive(decoder, unfinished + frame(CLOSE, b"") + late) == [Event(CLOSE, b"", 1005)]
    assert receive(decoder, b"garbage") == []
    assert decoder.buffered == 0


def test_text_is_checked_exactly_as_python_does() -> None:
    """Every lead byte with the bounds of every other byte, at every place in a word of eight."""
    bounds, tails = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF], [0x7F, 0x80, 0xBF, 0xC0]
    short = [bytes([a]) for a in range(256)] + [bytes(pair) for pair in product(range(0x80, 256), range(256))]
    long = [bytes(some) for some in product(range(0xDF, 0xF6), bounds, tails, tails)]
    cut_off = [some[:3] for some in long]
    placed = [b"12345678"[:n] + some + b"abcdefgh" for n in range(9) for some in long[::7]]
    for text in [*short, *long, *cut_off, *placed]:
        right = [Event(TEXT, text)] if model.is_text(text) else [Event(ERROR, b"", 1007)]
        assert decode(struct.pack("BB", 0x81, len(text)) + text, client_side=True) == right


# ---- bounds


def test_silent_sender_is_charged_for_what_it_sent() -> None:
    decoder = FrameDecoder(1 << 20)
    data = frame(BINARY, bytes(500_000))
    at, held = 0, 0
    for size in (4, 20, 1000, 1000, 60_000, 200_000):
        assert receive(decoder, data[at : at + size]) == []
        at += size
        assert at <= decoder.buffered <= max(256, 2 * at)
        assert decoder.buffered >= held
        held = decoder.buffered
    assert receive(decoder, data[at:]) == [Event(BINARY, bytes(500_000))]
    assert receive(decoder, b"") == []
    assert decoder.buffered == 0


def test_never_more_is_held_than_the_limit_allows() -> None:
    decoder = FrameDecoder(1000)
    assert receive(decoder, frame(BINARY, bytes(1000))[:-1]) == []
    assert decoder.buffered <= 1000 + LONGEST_HEADER
    assert receive(decoder, b"\0" + frame(TEXT, b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 400)[:-1])[1:] == []
    assert decoder.buffered <= 2 * 1000 + LONGEST_HEADER


@pytest.mark.parametrize("head", [b"\x82\xff" + (1001).to_bytes(8, "big"), b"\x82\xfe" + (1001).to_bytes(2, "big")])
def test_the_limit_is_checked_when_the_length_is_known(head: bytes) -> None:
    """Before the mask, before the payload, before any memory for it. (1001 needs no 64 bits: that is 1002.)"""
    decoder = FrameDecoder(1000)
    assert receive(decoder, head) == [Event(ERROR, b"", 1002 if len(head) == 10 else 1009)]
    assert decoder.buffered == 0


def test_fragments_too_large_in_sum_are_refused_before_the_last() -> None:
    decoder = FrameDecoder(1000)
    assert receive(decoder, frame(BINARY, bytes(900), fin=False)) == []
    assert receive(decoder, frame(CONTINUATION, bytes(101))[:2]) == [Event(ERROR, b"", 1009)]
    assert decoder.buffered == 0


@pytest.mark.parametrize("limit", [0, 1, 10, 124])
def test_control_frames_have_their_own_limit(limit: int) -> None:
    """A limit for messages that is smaller than a ping must not make the ping's place too small."""
    decoder = FrameDecoder(limit)
    data = frame(PING, b"p" * 125)
    assert receive(decoder, data[:-1]) == []
    assert len(data) - 1 <= decoder.buffered <= 125 + LONGEST_HEADER
    assert receive(decoder, data[-1:]) == [Event(PING, b"p" * 125)]
    assert decode(frame(BINARY, bytes(limit)), limit=limit) == [Event(BINARY, bytes(limit))]
    assert decode(frame(BINARY, bytes(limit + 1)), limit=limit) == [Event(ERROR, b"", 1009)]


def test_a_flood_of_empty_fragments_holds_nothing() -> None:
    decoder = FrameDecoder(LIMIT)
    assert receive(decoder, frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 10_000) == []
    assert decoder.buffered == 0
    assert receive(decoder, frame(CONTINUATION, b"")) == [Event(TEXT, b"")]


def test_a_limit_that_no_size_can_hold_is_refused() -> None:
    for limit in (-1, 1 << 31, 1 << 32, 1 << 64):
        with pytest.raises(ValueError):
            FrameDecoder(limit)
    assert decode(frame(TEXT, b"x"), limit=(1 << 31) - 1) == [Event(TEXT, b"x")]


def test_only_bytes_are_received() -> None:
    for wrong in (5, "text", None, [1, 2]):
        with pytest.raises(TypeError):
            FrameDecoder(LIMIT).receive(wrong)  # type: ignore[arg-type]  # that is the test


# ---- the other direction


@pytest.mark.parametrize("size", CLASSES)
def test_what_is_encoded_is_what_wsproto_writes_and_reads(size: int) -> None:
    payload = bytes(n & 127 for n in range(size))
    assert encode_frame(BINARY, payload) == FrameProtocol(False, []).send_data(payload)
    assert encode_frame(TEXT, payload) == FrameProtocol(False, []).send_data(payload.decode())
    assert Witness(client_side=True).receive(encode_frame(TEXT, payload)) == [Event(TEXT, payload)]
    if size <= 125:
        assert encode_frame(PING, payload) == FrameProtocol(False, []).ping(payload)
        assert encode_frame(PONG, payload) == FrameProtocol(False, []).pong(payload)


def test_a_frame_that_nobody_may_send_is_not_encoded() -> None:
    for opcode in (-1, 3, 7, 11, 15, 256):
        with pytest.raises(ValueError):
            encode_frame(opcode, b"")
    for opcode in (CLOSE, PING, PONG):
        with pytest.raises(ValueError):
            encode_frame(opcode, bytes(126))


REASONS = ["", "bye", "x" * 200, "é" * 100, "€" * 60, "x" + "€" * 60, "😀" * 40, "x" + "😀" * 40]


@pytest.mark.parametrize("reason", REASONS)
def test_close_has_its_code_and_whole_characters_of_its_reason(reason: str) -> None:
    (heard,) = decode(encode_close(1001, reason), client_side=True)
    assert (heard.kind, heard.code) == (CLOSE, 1001)
    assert reason.startswith(heard.payload.decode())
    assert len(reason.encode()) == len(heard.payload) or 120 <= len(heard.payload) <= 123
    assert Witness(client_side=True).receive(encode_close(1001, reason)) == [heard]


def test_a_close_code_that_may_not_be_sent_is_not_encoded() -> None:
    for code in (-1, 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65536 + 1000):
        with pytest.raises(ValueError):
            encode_close(code)


def test_events_are_values() -> None:
    first, second = FrameDecoder(LIMIT).receive(frame(TEXT, b"a") * 2)
    assert first == second == room.FrameEvent(TEXT, b"a", 0)
    assert hash(first) == hash(second)
    assert first != room.FrameEvent(BINARY, b"a", 0)
    assert first != (TEXT, b"a", 0)
    assert repr(first) == "FrameEvent(1, b'a', 0)"


def test_the_twins_opcodes_are_the_rooms() -> None:
    names = ["CONTINUATION", "TEXT", "BINARY", "CLOSE", "PING", "PONG", "ERROR"]
    assert [getattr(room, name) for name in names] == [getattr(model, name) for name in names]
    assert mask(mask(b"twice", KEY), KEY) == b"twice"
