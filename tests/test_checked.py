"""What engine.checked promises: what fits a type is taken; of all else it is told where it is, and what it must be."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from engine.checked import Secret, Table, Wrong, checked, inside

SECRET, NUMBER = "app.key:topsecret", 90125


class Inner(Table, frozen=True):
    called: ClassVar[str] = "part"
    key: Secret
    count: Annotated[int, Meta(ge=1, le=5000)] = 1
    level: Literal["low", "high", "above"] = "low"
    on: bool | None = None
    more: Annotated[int, Meta(ge=1, le=9)] | Literal["unlimited"] = 1


class Outer(Table, frozen=True):
    name: str = ""
    several: tuple[Inner | Secret, ...] = ()
    one: Inner = Inner(key="")
    anything: Mapping[str, Inner] = {}
    time: Annotated[int | float | None, Meta(description="a time in ms")] = None
    words: Annotated[tuple[str, ...], Meta(max_length=2, description="one or two words")] = ()


class Lenient(Struct, rename="camel"):
    of_hours: int = 0


ONE = {"key": "k"}


def refusal(value: object, kind: type[Any] = Outer) -> str:
    with pytest.raises(Wrong) as refused:
        checked(value, kind)
    assert refused.value.__context__ is None, "msgspec's own text may hold a secret"
    return str(refused.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "must be a map, got 5"),
        ([], "must be a map, got an array"),
        (
            {"nam": 1},
            "nam: unknown setting; known settings are name, several, one, anything, time, words; did you mean name?",
        ),
        ({"one": {}}, "one.key: is missing"),
        ({"one": ONE | {"count": 0}}, "one.count: must be a whole number from 1 to 5,000, got 0"),
        ({"one": ONE | {"count": 1 << 70}}, f"one.count: must be a whole number from 1 to 5,000, got {1 << 70:,}"),
        ({"one": ONE | {"count": "5"}}, "one.count: must be a whole number from 1 to 5,000, got '5'"),
        ({"one": ONE | {"count": 2.0}}, "one.count: must be a whole number from 1 to 5,000, got 2.0"),
        ({"one": ONE | {"count": True}}, "one.count: must be a whole number from 1 to 5,000, got true"),
        ({"one": ONE | {"count": None}}, "one.count: must be a whole number from 1 to 5,000, got null"),
        (
            {"one": ONE | {"level": "hihg"}},
            "one.level: must be one of low, high, above, got 'hihg'; did you mean high?",
        ),
        ({"one": ONE | {"level": "x" * 99}}, f"one.level: must be one of low, high, above, got '{'x' * 40}'"),
        ({"one": ONE | {"on": 1}}, "one.on: must be true or false, got 1"),
        ({"one": ONE | {"more": 10}}, 'one.more: must be a whole number from 1 to 9, or "unlimited", got 10'),
        ({"several": ["k", ONE, 5]}, "several[2]: must be a map, or a string"),
        (
            {"several": ["k", ONE | {"counts": 1}]},
            "several[1].counts: unknown part; known parts are key, count, level, on, more",
        ),
        ({"several": {}}, "several: must be an array, got a map"),
        ({"anything": {"x": {"key": 5}}}, "anything: must be a map, got a map"),
        ({"words": ["a", "b", "c"]}, "words: must be one or two words, got an array"),
        ({"time": "x"}, "time: must be a time in ms, got 'x'"),
        ({"words": ["a", 5]}, "words[1]: must be a string, got 5"),
        ({"name": date(2024, 2, 3)}, "name: must be a string, got date"),
        ({"x - at `$.one.count": 1}, "x - at `$.one.count: unknown setting"),
        ({"x` - at `$.several[0]": 1, "several": ["y"]}, "x` - at `$.several[0]: unknown setting"),
    ],
)
def test_what_does_not_fit_is_named_with_what_it_must_be(value: object, said: str) -> None:
    assert refusal(value).startswith(said)


def test_fitting_values_are_taken_and_missing_ones_default() -> None:
    found = checked({"one": ONE | {"more": "unlimited"}, "several": ["a", ONE]}, Outer)
    assert found == Outer(one=Inner(key="k", more="unlimited"), several=("a", Inner(key="k")))
    assert checked({"ofHours": 5, "another": 6}, Lenient).of_hours == 5
    assert refusal({"ofHours": "x"}, Lenient) == "ofHours: must be a whole number, got 'x'"


@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        {"several": SECRET},
        {"several": {"one": SECRET}},
        {"several": [[SECRET]]},
        {"several": [SECRET, {"key": [SECRET]}]},
        {"several": [SECRET, {"key": SECRET, "count": 0}]},
        {"one": SECRET},
        {"one": {"key": {"is": SECRET}}},
        {"anything": SECRET},
        {"words": SECRET},
        {"name": [SECRET]},
        {"several": [NUMBER]},
        {"one": {"key": NUMBER}},
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(value: object) -> None:
    said = refusal(value)
    assert "topsecret" not in said
    assert str(NUMBER) not in said


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["low", "a`$.one[0]"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(Inner.__struct_fields__ + Outer.__struct_fields__), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(value=VALUES)
def test_whatever_comes_fits_or_is_refused_with_a_reason(value: object) -> None:
    try:
        checked(value, Outer)
    except Wrong as refused:
        assert refused.reason.startswith(("must be ", "unknown ", "is missing"))


def test_a_place_is_told_from_the_outside_in() -> None:
    with pytest.raises(Wrong) as refused, inside("apps[0]"), inside("keys[1]"), inside("limits"):
        checked({"count": 5}, Inner)
    assert (refused.value.where, refused.value.reason) == ("apps[0].keys[1].limits.key", "is missing")
