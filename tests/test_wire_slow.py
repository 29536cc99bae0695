"""What server.realtime.wire promises: every protocol message goes out without nulls and comes back; bytes that are none
are a protocol error, whatever they are."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PubSubError
from ext.wire.encoder import JSON, MSGPACK, is_msgpack
from server.realtime import wire
from tests.test_wire import formats, texts

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), texts, st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


@given(values, st.binary(min_size=1, max_size=3))
def test_whole_msgpack_value_is_distinguished_from_part_or_more(value: Any, more: bytes) -> None:
    packed = msgpack.packb(value)
    assert is_msgpack(packed)
    assert not is_msgpack(packed + more)
    assert not any(is_msgpack(packed[:end]) for end in range(len(packed)))


@given(st.dictionaries(texts, values, max_size=5), formats)
def test_protocol_messages_come_back_without_nulls_in_maps(message: dict[str, Any], wire_format: int) -> None:
    def present(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: present(item) for key, item in value.items() if item is not None}
        if isinstance(value, list):
            return [present(item) for item in value]
        return None if wire_format == JSON and value in (float("inf"), -float("inf")) else value

    assert wire.decode(wire.encode(message, wire_format), wire_format) == present(message)


@pytest.mark.parametrize(
    ("payload", "wire_format"),
    [
        (b"", JSON), (b"[]", JSON), (b"null", JSON), (b"{", JSON), (b'{"a":NaN}', JSON), (b'{"a":"\\ud800"}', JSON),
        (b"\xff", JSON), (b"[" * 5000, JSON), (b'{"a":1}x', JSON), (b"", MSGPACK), (b"\x90", MSGPACK),
        (b"\xc0", MSGPACK),
        (b"\x81\xa1a", MSGPACK), (b"\x81\x01\x01", MSGPACK), (b"\x80\x80", MSGPACK), (b"\xc1", MSGPACK),
        (b"\x81\xa1a" + b"\x91" * 5000 + b"\xc0", MSGPACK), (b"\x81\xa1a" + b"\x91" * 101 + b"\xc0", MSGPACK),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", MSGPACK), (b"\x81\xa1a\xd6\xff\0\0\0\0", MSGPACK),
        (b"\x81\x90\x01", MSGPACK),
    ],
)  # fmt: skip
def test_frame_without_a_protocol_message_is_a_protocol_error(payload: bytes, wire_format: int) -> None:
    with pytest.raises(PubSubError) as caught:
        wire.decode(payload, wire_format)
    assert (caught.value.code, caught.value.status) == (80013, 400)


def test_text_that_is_no_utf8_is_decoded_as_bytes() -> None:
    assert wire.decode(b"\x82\xa4data\xa2\xff\xfe\xa4name\xa2\xc3\xa4", MSGPACK) == {"data": b"\xff\xfe", "name": "ä"}
