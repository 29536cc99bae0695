"""The codec of our own clients, with wsproto as the judge: they are the witnesses of all that is said of the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from tests.peer import BINARY, CLOSE, PING, PONG, TEXT, frame, taken_apart

LENGTHS = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70_000])
SAID = st.one_of(
    LENGTHS.map(lambda size: (TEXT, TextMessage("x" * size))),
    LENGTHS.map(lambda size: (BINARY, BytesMessage(b"\xff" * size))),
    st.binary(max_size=125).map(lambda payload: (PING, Ping(payload))),
    st.binary(max_size=125).map(lambda payload: (PONG, Pong(payload))),
)


@given(said=st.lists(SAID, max_size=5), cuts=st.lists(st.integers(0, 400_000), max_size=5))
def test_server_frames_decode_wherever_they_are_cut(said: list[tuple[int, Event]], cuts: list[int]) -> None:
    server = Connection(ConnectionType.SERVER)
    sent = b"".join(server.send(event) for _, event in said) + server.send(CloseConnection(1000, "grüße"))
    found: list[tuple[int, bytes]] = []
    left, before = b"", 0
    for cut in [*sorted(min(cut, len(sent)) for cut in cuts), len(sent)]:
        some, left = taken_apart(left + sent[before:cut])
        found, before = found + some, cut
    payloads = [getattr(event, "data", b"") or getattr(event, "payload", b"") for _, event in said]
    expected = [
        (opcode, each.encode() if isinstance(each, str) else bytes(each))
        for (opcode, _), each in zip(said, payloads, strict=True)
    ]
    assert (found, left) == ([*expected, (CLOSE, b"\x03\xe8" + "grüße".encode())], b"")


@given(payload=st.binary(max_size=300), long=st.booleans(), mask=st.binary(min_size=4, max_size=4))
def test_what_a_client_frames_is_what_a_server_reads(payload: bytes, long: bool, mask: bytes) -> None:
    sent = payload * (300 if long else 1)
    server = Connection(ConnectionType.SERVER)
    server.receive_data(frame(BINARY, sent, mask=mask))
    [event] = server.events()
    assert isinstance(event, BytesMessage) and event.message_finished
    assert event.data == sent


@pytest.mark.parametrize(
    "wrong",
    [
        frame(TEXT, b"{}"),
        frame(TEXT, b"{}", masked=False, fin=False),
        frame(TEXT, b"{}", masked=False, reserved=4),
        frame(0, b"{}", masked=False),
        frame(3, b"{}", masked=False),
        frame(PING, b"x" * 126, masked=False),
        b"\x81\x7e\0\5hello",
        b"\x81\x7f" + (65535).to_bytes(8, "big") + b"x" * 65535,
        frame(CLOSE, b"\3", masked=False),
        frame(CLOSE, (1005).to_bytes(2, "big"), masked=False),
        frame(CLOSE, (2000).to_bytes(2, "big"), masked=False),
        frame(CLOSE, b"\x03\xe8\xff", masked=False),
    ],
    ids=["masked", "a fragment", "a reserved bit", "a continuation", "no opcode", "a long ping", "a long length",
         "a longer one", "half a code", "a code that is never sent", "a code of nobody", "a reason that is no text"],
)  # fmt: skip
def test_a_frame_that_a_server_must_not_send_is_noticed(wrong: bytes) -> None:
    with pytest.raises((AssertionError, UnicodeDecodeError)):
        taken_apart(wrong)
