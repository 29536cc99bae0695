"""What ext.text.values promises: what two well-kept libraries say of an input it says as well, within its bounds; and
of what only one format can say, it says what the other says in its place."""

from __future__ import annotations

import json
import random
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.text.values import DEEPEST, Unread, decode, decode_message, is_json
from ext.wire.encoder import is_msgpack
from ext.wire.neutral import is_finite
from tests.models.wire import spelled
from tests.test_wire import texts

MANY = 1 << 40
FEW = 8
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), texts,
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)  # fmt: skip


def items(value: Any) -> int:
    """How many there are in it, itself and keys included."""
    if isinstance(value, dict):
        return 1 + sum(1 + items(inner) for inner in value.values())
    return 1 + sum(map(items, value)) if isinstance(value, list) else 1


@given(values, st.randoms(use_true_random=False))
def test_json_is_read_as_it_was_meant_however_it_is_spelled(value: Any, choice: random.Random) -> None:
    text = spelled(value, choice).encode()
    assert decode(text, 0, most=MANY) == value == orjson.loads(text)
    assert is_json(text, most=MANY)


@given(values)
def test_msgpack_is_read_as_it_was_meant(value: Any) -> None:
    assert decode(msgpack.packb(value), 1, most=MANY) == value


@given(values, st.data())
def test_what_is_no_json_any_more_is_told_from_what_still_is(value: Any, data: st.DataObject) -> None:
    text = bytearray(orjson.dumps(value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 1))] = data.draw(
            st.sampled_from(
                [
                    b"",
                    b'"',
                    b",",
                    b"[",
                    b"]",
                    b"{",
                    b"}",
                    b"0",
                    b".",
                    b"e",
                    b"-",
                    b"\\",
                    b"\\u0041",
                    b"\xff",
                    b"\n",
                    b":",
                ]
            )
        )
    try:
        expected = orjson.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            decode(bytes(text), 0, most=MANY)
        assert not is_json(bytes(text), most=MANY)
    else:
        assert decode(bytes(text), 0, most=MANY) == expected


@given(values, st.data())
def test_bytes_that_are_no_msgpack_any_more_are_told(value: Any, data: st.DataObject) -> None:
    packed = bytearray(msgpack.packb(value))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] = data.draw(st.integers(0, 255))
    if is_msgpack(bytes(packed)):
        decode(bytes(packed), 1, most=MANY)
    else:
        with pytest.raises(ValueError):
            decode(bytes(packed), 1, most=MANY)


@given(values, st.sampled_from([0, 1]))
def test_more_values_than_may_be_are_not_made(value: Any, kind: int) -> None:
    payload = orjson.dumps(value) if kind == 0 else msgpack.packb(value)
    count = items(value)
    assert decode(payload, kind, most=MANY) == value
    if isinstance(value, float):
        return  # one that takes long counts for several
    if count > FEW and not _has_floats(value):
        with pytest.raises(OverflowError):
            decode(payload, kind, most=FEW)
    elif not _has_floats(value):
        assert decode(payload, kind, most=FEW) == value


def _has_floats(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_floats, value.values()))
    return any(map(_has_floats, value)) if isinstance(value, list) else isinstance(value, float)


@given(st.dictionaries(texts, values.filter(lambda value: not _has_floats(value)), max_size=6), st.sampled_from([0, 1]))
def test_small_members_of_an_oversized_frame_are_still_made(message: dict[str, Any], kind: int) -> None:
    payload = orjson.dumps(message) if kind == 0 else msgpack.packb(message)
    found, _ = decode_message(payload, kind, most=FEW)
    assert list(found) == list(message)
    left = FEW
    for name, value in message.items():
        if items(message) <= FEW or items(value) <= left:
            left -= items(value)
            assert found[name] == value
        else:
            assert isinstance(found[name], Unread)


@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_too_deep_stands_there_unread(kind: int) -> None:
    value: Any = 1
    for _ in range(DEEPEST + 5):
        value = [value]
    payload = json.dumps(value).encode() if kind == 0 else msgpack.packb(value)
    found = decode(payload, kind, most=MANY)
    for _ in range(DEEPEST):
        (found,) = found
    assert isinstance(found, Unread) and str(DEEPEST) in found.why


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e999", None), ("-1e999", None), ("NaN", None), ("-Infinity", None), ("Infinity", None), ("-0", 0),
        ("18446744073709551615", (1 << 64) - 1), ("18446744073709551616", 18446744073709551616.0),
        ("-9223372036854775808", -(1 << 63)), ("-9223372036854775809", -9223372036854775809.0), ("1E2", 100.0),
        ("123456789012345678901234567890", 123456789012345678901234567890.0), ('"\\ud83d"', "\ufffd"),
        ('"\\ud83d\\ud83d\\ude00"', "\ufffd\U0001f600"),
        ('"\\ude00\\ud83d"', "\ufffd\ufffd"),
        ('"\\ud83d\\n"', "\ufffd\n"),
    ],
)  # fmt: skip
def test_odd_values_of_json(text: str, value: Any) -> None:
    found = decode(text.encode(), 0, most=MANY)
    assert (type(found), found) == (type(value), value)


def test_a_number_of_many_digits_is_not_made() -> None:
    assert isinstance(decode(b"1" * 5000, 0, most=MANY), Unread)
    assert isinstance(decode(b"[0." + b"1" * 5000 + b"]", 0, most=MANY)[0], Unread)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": [{"b": -float("inf")}]}])
def test_what_is_not_finite_is_found_wherever_it_is(value: Any) -> None:
    assert not is_finite(value)
    assert is_finite({"a": [1, 1.5, "x", None, {"b": []}]})
