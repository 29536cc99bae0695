"""What engine.names promises: a channel name is taken apart exactly, or refused with 40010 and the reason."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import limits
from engine.errors import BadRequest
from engine.names import namespace, parse_channel

readable = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30)
plain = readable.filter(lambda name: name[0] not in ":[")


@given(plain)
def test_a_plain_name_is_itself(name: str) -> None:
    found = parse_channel(name)
    assert (found.name, found.full, dict(found.params)) == (name, name, {})


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("[?rewind=1]room:1", "room:1", {"rewind": "1"}),
        ("[?rewind=2m&echo=false]room", "room", {"rewind": "2m", "echo": "false"}),
        ("[?a=%5Bx%5D%26+y]room", "room", {"a": "[x]& y"}),
        ("[?a=%C3%A9]r\u00e9", "r\u00e9", {"a": "\u00e9"}),
        ("[?a=1&a=2]room", "room", {"a": "2"}),
        ("[?a=&b]room", "room", {"a": "", "b": ""}),
        ("[?]room", "room", {}),
        ("[?a=1]room]x", "room]x", {"a": "1"}),
        ("a:[b]", "a:[b]", {}),
    ],
)
def test_params_are_split_from_the_name_and_the_text_is_kept(text: str, name: str, params: dict[str, str]) -> None:
    found = parse_channel(text)
    assert (found.name, found.full, dict(found.params)) == (name, text, params)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (":hell", "begins with a colon"),
        ("::", "begins with a colon"),
        ("[?rewind=1]", "empty"),
        ("[?rewind=1]:a", "begins with a colon"),
        ("[?rewind=1", "not closed"),
        ("[", "not closed"),
        ("[]room", "not available"),
        ("[meta]log", "not available"),
        ("[meta?x=1]log", "not available"),
        ("[filter=YQ==]room", "not available"),
        ("[x]room", "not available"),
        ("[?a=1][?b=2]room", "two qualifiers"),
        ("a\nb", "control characters"),
        ("a\x00", "control characters"),
        ("a\x7f", "control characters"),
        ("a\x85", "control characters"),
        ("\ud800", "Unicode"),
        ("[?" + "&".join(f"p{n}=1" for n in range(21)) + "]room", "20 params"),
        ("\u20ac" * 683, "2049 bytes"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as refused:
        parse_channel(text)
    assert (refused.value.code, refused.value.status) == (40010, 400)
    assert str(refused.value).isprintable()


@given(st.text(max_size=40))
def test_no_text_passes_with_forbidden_characters(text: str) -> None:
    try:
        found = parse_channel(text)
    except BadRequest as refused:
        assert refused.code == 40010
        return
    assert found.full == text
    assert text.endswith(found.name)
    assert found.name
    assert found.name[0] not in ":["
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in found.name)


def test_a_name_may_have_exactly_as_many_bytes_as_the_limit() -> None:
    assert parse_channel("a" * limits.CHANNEL_NAME_BYTES).name
    with pytest.raises(BadRequest):
        parse_channel("a" * (limits.CHANNEL_NAME_BYTES + 1))


@pytest.mark.parametrize(("name", "expected"), [("chat:1:2", "chat"), ("chat", ""), ("chat:", "chat")])
def test_the_namespace_is_what_stands_before_the_first_colon(name: str, expected: str) -> None:
    assert namespace(name) == expected
