"""What ext.text.serial promises: serials only grow, their texts sort as they count, and each text has one value."""

import re
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ext.text import serial as room
from ext.text.serial import (
    SerialClock,
    connection_id,
    connection_origin,
    message_serial_text,
    new_series,
    parse_message_serial,
    parse_serial,
    serial_text,
)
from tests.models import serial as model

NOW = 1_700_000_000_123
SERIES = "k3J9s0fA"
TEXT = "001700000000123-00042@k3J9s0fA"
MESSAGE_TEXT = TEXT + ":007"
LARGEST = 2**64 - 1

serials = st.one_of(
    st.integers(0, LARGEST),
    st.integers(0, 64).flatmap(lambda bits: st.sampled_from([max(0, (1 << bits) - 1), min(LARGEST, 1 << bits)])),
    st.integers(0, 14).flatmap(lambda digits: st.sampled_from([(10**digits) << 16, (10**digits - 1) << 16])),
)
series_names = st.text(string.ascii_letters + string.digits, min_size=8, max_size=8)
steps = st.one_of(
    st.tuples(st.just("step"), st.integers(-100_000, 100_000)),
    st.tuples(st.just("stand"), st.integers(1, 5)),
    st.tuples(st.just("restore"), st.integers(0, (NOW + 50_000) << 16)),
)


# ---- the clock


@given(st.lists(steps, max_size=60))
def test_serials_only_grow_whatever_the_wall_clock_does(sequence: list[tuple[str, int]]) -> None:
    clock, twin, now, before = SerialClock(), model.PlainSerialClock(), NOW, 0
    for kind, amount in sequence:
        if kind == "restore":
            clock.restore(amount)
            twin.restore(amount)
            before = max(before, amount)
            continue
        now += amount if kind == "step" else 0
        for _ in range(amount if kind == "stand" else 1):
            serial = clock.next(now)
            assert serial == twin.next(now)
            assert serial > before
            assert clock.last == serial
            before = serial


@given(ms=st.integers(0, 2**48 - 1), counter=st.integers(0, 65_535))
def test_serials_of_a_millisecond_stay_within_it(ms: int, counter: int) -> None:
    serial = ms * 65_536 + counter
    assert room.serial_ms(serial) == ms
    assert room.first_serial(ms) <= serial <= room.last_serial_before(ms + 1) == room.first_serial(ms + 1) - 1
    assert room.last_serial_before(0) == room.last_serial_before(-1) == 0
    clock = SerialClock(serial)
    clock.end_millisecond()
    assert clock.last == room.last_serial_before(ms + 1)


def test_a_serial_carries_its_milliseconds() -> None:
    assert SerialClock().next(NOW) == NOW << 16


def test_first_serial_is_above_zero_at_the_beginning_of_time() -> None:
    assert SerialClock().last == 0
    assert SerialClock().next(0) == 1


def test_a_clock_that_steps_back_or_stands_counts_on() -> None:
    clock = SerialClock()
    first = clock.next(NOW)
    assert [clock.next(now) for now in (NOW, NOW - 3_600_000, 0, NOW)] == [first + n for n in (1, 2, 3, 4)]
    assert clock.next(NOW + 1) == (NOW + 1) << 16


def test_excess_serials_carry_into_the_next_millisecond() -> None:
    clock = SerialClock()
    given_out = [clock.next(NOW) for _ in range(65_536 * 2 + 5)]
    assert given_out == list(range(NOW << 16, (NOW << 16) + 65_536 * 2 + 5))
    assert given_out[-1] >> 16 == NOW + 2
    assert clock.next(NOW + 1) == given_out[-1] + 1  # the wall clock has not caught up yet
    assert clock.next(NOW + 3) == (NOW + 3) << 16


def test_a_restored_clock_gives_out_nothing_it_had_given_out() -> None:
    clock = SerialClock(NOW << 16)
    assert clock.next(NOW - 5) == (NOW << 16) + 1
    clock.restore((NOW + 9) << 16)
    clock.restore(7)  # an older one does not set it back
    assert clock.last == (NOW + 9) << 16
    assert clock.next(NOW) == ((NOW + 9) << 16) + 1


@pytest.mark.parametrize("now_ms", [-1, 2**48, 2**63, 2**64, -(2**70), 1 << 20_000], ids=int.bit_length)
def test_time_outside_48_bits_is_refused_and_changes_nothing(now_ms: int) -> None:
    clock = SerialClock(41)
    with pytest.raises(ValueError, match=r"now_ms must be 0 to 281474976710655"):
        clock.next(now_ms)
    assert clock.last == 41
    assert clock.next(2**48 - 1) == (2**48 - 1) << 16


def test_the_last_serial_is_given_out_once_and_then_none() -> None:
    clock = SerialClock(LARGEST - 1)
    assert clock.next(NOW) == LARGEST
    for _ in range(2):
        with pytest.raises(OverflowError, match="no serial is left"):
            clock.next(2**48 - 1)
    assert clock.last == LARGEST


@pytest.mark.parametrize("serial", [-1, 2**64])
def test_a_clock_is_not_set_to_what_is_no_serial(serial: int) -> None:
    with pytest.raises(ValueError, match="last must be 0 to"):
        SerialClock(serial)
    with pytest.raises(ValueError, match="serial must be 0 to"):
        SerialClock().restore(serial)


@pytest.mark.parametrize("value", [1.5, "3", None])
def test_only_whole_numbers_are_taken(value: object) -> None:
    calls: tuple[Callable[[Any], object], ...] = (SerialClock, SerialClock().next, SerialClock().restore, connection_id)
    for call in calls:
        with pytest.raises(TypeError, match="must be an int"):
            call(value)


# ---- texts


@given(serials, series_names, st.integers(0, 999))
@example(0, SERIES, 0)
@example(LARGEST, SERIES, 999)
def test_a_text_is_what_it_says_and_reads_back(serial: int, series: str, index: int) -> None:
    text, message_text = serial_text(serial, series), message_serial_text(serial, series, index)
    assert text == model.serial_text(serial, series)
    assert message_text == model.message_serial_text(serial, series, index)
    assert (len(text), len(message_text)) == (30, 34)
    assert parse_serial(text) == (serial, series)
    assert parse_message_serial(message_text) == (serial, series, index)


@given(st.tuples(serials, st.integers(0, 999)), st.tuples(serials, st.integers(0, 999)))
def test_texts_sort_as_they_count(a: tuple[int, int], b: tuple[int, int]) -> None:
    assert (message_serial_text(a[0], SERIES, a[1]) < message_serial_text(b[0], SERIES, b[1])) == (a < b)
    assert (serial_text(a[0], SERIES) < serial_text(b[0], SERIES)) == (a[0] < b[0])


@given(st.data())
def test_text_with_one_changed_character_reads_like_its_twin(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([MESSAGE_TEXT, model.message_serial_text(LARGEST, "zzzzZZ99", 999)]))
    at = data.draw(st.integers(0, 33))
    other = data.draw(st.one_of(st.characters(), st.sampled_from(":;/@-_ \x00٣09azAZ[`{")))
    broken = text[:at] + other + text[at + 1 :]
    for parse, plain, candidate in (
        (parse_serial, model.parse_serial, broken[:30]),
        (parse_message_serial, model.parse_message_serial, broken),
    ):
        expected = plain(candidate)
        if expected is None:
            with pytest.raises(ValueError, match="serial"):
                parse(candidate)
        else:
            assert parse(candidate) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "30 characters, got 0"),
        (TEXT[:-1], "30 characters, got 29"),
        (TEXT + " ", "30 characters, got 31"),
        (MESSAGE_TEXT, "30 characters, got 34"),
        ("x" * 1_000_000, "30 characters, got 1000000"),
        ("+" + TEXT[1:], "first 15 characters of a serial are digits"),
        (" " + TEXT[1:], "first 15 characters of a serial are digits"),
        ("٠" + TEXT[1:], "ASCII"),
        ("\ud800" + TEXT[1:], "ASCII"),
        ("281474976710656" + TEXT[15:], "milliseconds of a serial are at most 281474976710655"),
        (TEXT.replace("-", "_"), "character 16 of a serial is a '-'"),
        (TEXT.replace("00042", "0004a"), "counter of a serial is 5 digits"),
        (TEXT.replace("00042", "65536"), "counter of a serial is at most 65535"),
        (TEXT.replace("@", ":"), "character 22 of a serial is a '@'"),
        (TEXT.replace("k3", "k-"), "series of a serial is letters and digits"),
        (TEXT.replace("fA", "f\n"), "series of a serial is letters and digits"),
    ],
)
def test_a_text_that_is_no_serial_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_serial(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT, "34 characters, got 30"),
        (TEXT + ":0007", "34 characters, got 35"),
        (TEXT + "-007", "character 31 of a message serial is a ':'"),
        (TEXT + ":00x", "index of a message serial is 3 digits"),
        (TEXT + ":-07", "index of a message serial is 3 digits"),
        (TEXT + ":٠٠٧", "ASCII"),
        ("x" + MESSAGE_TEXT[1:], "first 15 characters of a serial are digits"),
    ],
)
def test_invalid_serial_text_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_message_serial(text)


@pytest.mark.parametrize("series", ["", "k3J9s0f", "k3J9s0fAA", "k3J9s0f-", "k3J9s0f_", "k3J9s0fé", "k3J9s0f\x00"])
def test_what_is_no_series_gets_into_no_text(series: str) -> None:
    with pytest.raises(ValueError, match="a series"):
        serial_text(1, series)
    with pytest.raises(ValueError, match="a series"):
        message_serial_text(1, series, 0)


@pytest.mark.parametrize(("serial", "index"), [(-1, 0), (2**64, 0), (1, -1), (1, 1000), (1, 2**40)])
def test_numbers_that_do_not_fit_a_text_are_refused(serial: int, index: int) -> None:
    with pytest.raises(ValueError, match="must be 0 to"):
        message_serial_text(serial, SERIES, index)


def test_no_parser_takes_none() -> None:
    parsers: tuple[Callable[[Any], object], ...] = (parse_serial, parse_message_serial, connection_origin)
    for parse in parsers:
        with pytest.raises(TypeError):
            parse(None)


def test_other_rooms_find_the_writer_in_c() -> None:
    assert "write_serial" in room.__dict__["__pyx_capi__"]


# ---- series


def test_a_series_is_8_letters_and_digits_and_a_serial_takes_it() -> None:
    for random in (bytes(8), b"\xff" * 8, bytes(range(16)), b"\xff" * 64):
        series = new_series(random)
        assert re.fullmatch("[A-Za-z0-9]{8}", series)
        assert parse_serial(serial_text(1, series)) == (1, series)


@given(st.binary(min_size=8, max_size=20))
def test_a_series_takes_all_the_random_bytes_into_account(random: bytes) -> None:
    rest = int.from_bytes(random, "big") % 62**8
    assert new_series(random) == "".join(model.ALPHABET[rest // 62**place % 62] for place in range(7, -1, -1))


def test_too_little_randomness_makes_no_series() -> None:
    with pytest.raises(ValueError, match="at least 8 random bytes, got 7"):
        new_series(bytes(7))


# ---- connection ids


@given(st.integers(1, 2**60 - 1))
@example(1)
@example(2**60 - 1)
def test_a_connection_id_and_its_origin_are_one_to_one(origin: int) -> None:
    text = connection_id(origin)
    assert text == model.connection_id(origin)
    assert connection_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hZ2kQ9w1A",
        "hZ2kQ9w1Abc",
        "hZ2kQ9w1A+",
        "hZ2kQ9w1A/",
        "hZ2kQ9w1A=",
        "hZ2kQ9w1Aé",
        "hZ2kQ9w1:b",
        "hZ2kQ9w1A\x00",
        "AAAAAAAAAA",
    ],
)
def test_what_is_no_connection_id_has_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match="connection"):
        connection_origin(text)


@pytest.mark.parametrize("origin", [0, -1, 2**60, 2**64])
def test_what_is_no_origin_has_no_connection_id(origin: int) -> None:
    with pytest.raises(ValueError, match="origin"):
        connection_id(origin)
