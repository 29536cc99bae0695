"""What engine.auth.capability promises: exactly what is written is allowed, and an intersection is exact."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import limits
from engine.auth.capability import ALL, FULL_TEXT, NAMES, Capability, Operation
from engine.errors import AuthError, BadRequest
from tests.models import capability as model

EVERY = frozenset(NAMES)
FEW = ("publish", "subscribe", "history")

segments = st.sampled_from(["a", "b", "*", "", "a*"])
names = st.lists(segments, min_size=1, max_size=4).map(":".join)
qualifiers = st.sampled_from(["", "", "", "[meta]", "[filter]"])
resources = st.one_of(
    st.sampled_from(["*", "[*]*", "[meta]*", "a:*", "*:a", "a:*:b"]),
    st.tuples(qualifiers, names).map("".join).filter(bool),
)
params = st.sampled_from(["", "", "", "[meta]", "[meta?x=1]", "[?rewind=1]", "[filter=YQ==]", "[filter=YQ==?x=1]"])
channels = st.tuples(params, names).map("".join)
operations = st.one_of(st.just(("*",)), st.lists(st.sampled_from(FEW), min_size=1, max_size=3, unique=True).map(tuple))
capabilities = st.dictionaries(resources, operations, max_size=6)


def mask(words: frozenset[str]) -> int:
    return sum(NAMES[word] for word in words)


def parse(value: dict[str, list[str]]) -> Capability:
    return Capability.parse(json.dumps(value))


@settings(max_examples=400)
@given(written=capabilities, channel=channels)
def test_channel_gets_the_union_of_all_matching_resources(written: dict[str, tuple[str, ...]], channel: str) -> None:
    allowed = parse({name: list(words) for name, words in written.items()}).operations(channel)
    assert allowed == mask(model.allowed(written, channel, EVERY))


@settings(max_examples=400)
@given(own=capabilities, wanted=capabilities, tried=st.lists(channels, max_size=8))
def test_intersection_allows_only_what_both_allow(
    own: dict[str, tuple[str, ...]], wanted: dict[str, tuple[str, ...]], tried: list[str]
) -> None:
    try:
        both = Capability(own).intersect(Capability(wanted)).operations
    except AuthError:

        def both(channel: str) -> int:
            return 0

    for channel in tried:
        expected = model.allowed(own, channel, EVERY) & model.allowed(wanted, channel, EVERY)
        assert both(channel) == mask(expected), channel


@given(own=capabilities, wanted=capabilities)
def test_an_intersection_survives_being_written_and_read(
    own: dict[str, tuple[str, ...]], wanted: dict[str, tuple[str, ...]]
) -> None:
    try:
        both = Capability(own).intersect(Capability(wanted))
    except AuthError:
        return
    assert Capability.parse(both.text) == both
    assert all(both.resources.values())


@pytest.mark.parametrize(
    ("own", "wanted", "expected"),
    [
        ({"channel2": ["publish", "subscribe"]}, {"channel2": ["*"]}, {"channel2": ["publish", "subscribe"]}),
        ({"channel6": ["*"]}, {"channel6": ["publish", "subscribe"]}, {"channel6": ["publish", "subscribe"]}),
        (
            {"channel2": ["publish", "subscribe"]},
            {"channel2": ["presence", "subscribe"], "channelx": ["presence", "subscribe"]},
            {"channel2": ["subscribe"]},
        ),
        ({"*": ["subscribe"]}, {"cansubscribe:*": ["subscribe"]}, {"cansubscribe:*": ["subscribe"]}),
        ({"canpublish:*": ["publish"]}, {"canpublish:check": ["publish"]}, {"canpublish:check": ["publish"]}),
        ({"a:*": ["publish"]}, {"*:b": ["publish"]}, {"a:b": ["publish"]}),
        ({"a:*:c": ["publish"]}, {"*:b:*": ["publish"]}, {"a:b:c": ["publish"]}),
        ({"[*]*": ["publish"]}, {"[meta]*": ["*"]}, {"[meta]*": ["publish"]}),
        ({"*": ["*"]}, {"*": ["*"]}, {"*": ["*"]}),
        ({"*": ["*"]}, {"c": ["subscribe", "publish"]}, {"c": ["subscribe", "publish"]}),
    ],
)
def test_intersections_that_the_protocol_gives(
    own: dict[str, list[str]], wanted: dict[str, list[str]], expected: dict[str, list[str]]
) -> None:
    found = json.loads(parse(own).intersect(parse(wanted)).text)
    assert list(found.items()) == list(expected.items())


def test_operations_come_in_the_requested_order() -> None:
    text = '{"canpublish:*":["publish"],"canpublish:andpresence":["presence","publish"]}'
    assert Capability.parse(text).intersect(Capability.parse(text)).text == text


def test_what_is_not_narrowed_keeps_its_text_to_the_byte() -> None:
    text = '{ "a" : [ "publish" ] }'
    assert Capability.parse(FULL_TEXT).intersect(Capability.parse(text)).text == text
    assert Capability.parse(text).text == text


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ({"canpublish:*": ["publish"]}, {"canpublish:test": ["subscribe"]}),
        ({"channel0": ["publish"]}, {"channelx": ["publish"]}),
        ({"*": ["*"]}, {"[meta]*": ["subscribe"]}),
        ({"*": ["*"]}, {}),
        ({}, {"a": ["*"]}),
    ],
)
def test_an_empty_intersection_is_refused(own: dict[str, list[str]], wanted: dict[str, list[str]]) -> None:
    with pytest.raises(AuthError) as refused:
        parse(own).intersect(parse(wanted))
    assert (refused.value.code, refused.value.status) == (40160, 401)


@pytest.mark.parametrize(
    ("resource", "channel", "expected"),
    [
        ("*", "a", True),
        ("*", "a:b:c", True),
        ("*", "[meta]log", False),
        ("[meta]*", "[meta]stats:minute", True),
        ("[*]*", "[meta]log", True),
        ("[*]*", "a:b", True),
        ("ns:*", "ns:a", True),
        ("ns:*", "ns:a:b", True),
        ("ns:*", "ns", False),
        ("ns:*", "nsx:a", False),
        ("a:*:c", "a:b:c", True),
        ("a:*:c", "a:b:x:c", False),
        ("a:*:c", "a:c", False),
        ("a:*:c:*", "a:b:c:d", True),
        ("a:*:c:*", "a:b:c:d:e", True),
        ("a:*:c:*", "a:b:c", False),
        ("foo*", "foobar", False),
        ("foo*", "foo*", True),
        ("room", "[?rewind=1]room", True),
        ("[meta]log", "[meta?x=1]log", True),
        ("[filter]*", "[filter=bmFtZQ==?rewind=1]room", True),
        ("[*]room", "[meta]room", False),  # only [*]* reaches across qualifiers
    ],
)
def test_resources_match_as_the_protocol_says(resource: str, channel: str, expected: bool) -> None:
    assert parse({resource: ["publish"]}).permits(channel, Operation.PUBLISH) is expected
    assert not parse({resource: ["publish"]}).permits(channel, Operation.SUBSCRIBE)


def test_operations_on_everything_concern_the_app() -> None:
    capability = parse({"*": ["stats"], "[*]*": ["channel-metadata"], "a:*": ["publish"]})
    assert capability.everywhere() == Operation.STATS | Operation.CHANNEL_METADATA


def test_mask_is_an_integer_with_one_bit_per_operation() -> None:
    assert type(Operation.PUBLISH) is int
    assert Capability.parse(FULL_TEXT).operations("a") == ALL == (1 << len(NAMES)) - 1
    assert len(NAMES) == 17


@pytest.mark.parametrize(
    "given_",
    [
        "",
        "nonsense",
        "[]",
        "null",
        '"*"',
        '{"c":["publish_"]}',
        '{"c":["*","publish"]}',
        '{"c":[]}',
        '{"c":"*"}',
        '{"c":null}',
        '{"c":[1]}',
        '{"c":[null]}',
        '{"":["*"]}',
        '{"c":["*"]',
        '{"c":["*"]}x',
        "{" * 5000,
        '{"a":' * 1000 + "1" + "}" * 1000,
        '{"\ud800":["*"]}',
        5,
        None,
        ["a"],
        {5: ["*"]},
        {"\ud800": ["*"]},
        {"a": ("*",)},
    ],
)
def test_what_is_no_capability_is_refused_as_a_bad_request(given_: object) -> None:
    with pytest.raises(BadRequest) as refused:
        Capability.parse(given_)
    assert (refused.value.code, refused.value.status) == (40000, 400)
    assert "capability" in str(refused.value)


def test_a_map_is_as_good_as_its_text() -> None:
    assert Capability.parse({"a": ["publish"]}) == Capability.parse('{"a":["publish"]}')
    assert Capability.parse({"a": ["publish"]}).text == '{"a":["publish"]}'


def test_the_bounds_hold_for_texts_maps_resources_and_segments() -> None:
    most = {f"r{n}": ["*"] for n in range(limits.CAPABILITY_RESOURCES)}
    assert parse(most).permits("r0", Operation.PUBLISH)
    deepest = ":".join("a" * limits.CAPABILITY_SEGMENTS)
    assert parse({deepest: ["*"]}).permits(deepest, Operation.PUBLISH)
    for too_much in (
        {**most, "one more": ["*"]},
        {deepest + ":a": ["*"]},
        {"x" * limits.CAPABILITY_BYTES: ["*"]},
        {"\u20ac" * (limits.CAPABILITY_BYTES // 3): ["*"]},
    ):
        with pytest.raises(BadRequest):
            Capability.parse(too_much)
        with pytest.raises(BadRequest):
            Capability.parse(json.dumps(too_much, ensure_ascii=False))


def test_intersection_too_large_for_a_token_is_refused() -> None:
    many = range(limits.CAPABILITY_RESOURCES)
    with pytest.raises(BadRequest, match="too many places"):
        Capability({f"a{n}:*": ("*",) for n in many}).intersect(Capability({f"*:b{n}": ("*",) for n in many}))
    wide = Capability({f"{'x' * 60}{n}:*": ("*",) for n in range(10)})
    with pytest.raises(BadRequest, match="too many places"):
        wide.intersect(Capability({f"*:{'y' * 60}{n}": ("*",) for n in range(10)}))


def test_short_texts_share_one_object() -> None:
    assert Capability.parse('{"room:*":["publish"]}') is Capability.parse('{"room:*":["publish"]}')
