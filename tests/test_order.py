"""A publish with several faults is refused for the first of them, in the protocol's order, by every way to publish."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PubSubError
from engine.message import publish_from
from ext.text.values import Unread
from ext.wire.encoder import JSON, MSGPACK
from tests.harness import token
from tests.ways import Way, refusal, ways
from tests.wsclient import Served

SIZE = 65_536

OF_ANOTHER = [{"id": "connection:0:0"}, {"id": "connection:0:1"}]  # whose it is, is known where it is published

# In the protocol's order: two messages that have this fault alone, in the first of them or the second.
FAULTS: dict[int, list[list[dict[str, Any]]]] = {
    40012: [[{"clientId": "other"}, {}], [{}, {"clientId": "*"}], [{}, {"clientId": ""}], [{"clientId": 1}, {}]],
    40031: [[{"id": "a:0"}, {"id": "a:2"}], [{}, {"id": "a:1"}], [{"id": 1}, {}], OF_ANOTHER],
    40032: [[{"extras": []}, {}], [{}, {"extras": "text"}]],
    40013: [[{"data": 1}, {}], [{}, {"data": True}], [{"encoding": 1}, {}], [{}, {"data": {}, "encoding": "json"}]],
    40009: [[{"name": "x" * (SIZE + 1)}, {}], [{}, {"name": "x" * (SIZE + 1)}]],
}
UPDATE = [[{"action": 1, "serial": "x"}, {}], [{}, {"action": 2}], [{}, {"action": 5}]]  # 40000: there are none here


def both(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """A publish that has both faults; None: they are in one and the same member."""
    if any(a.keys() & b.keys() for a, b in zip(one, other, strict=True)):
        return None
    return [a | b for a, b in zip(one, other, strict=True)]


def pairs() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    for (first, ones), (_, others) in itertools.combinations(FAULTS.items(), 2):
        for one, other in itertools.product(ones, others):
            together = both(one, other)
            if together is not None:
                yield first, together
    for one, other in itertools.product(FAULTS[40012], UPDATE):
        together = both(one, other)
        if together is not None:
            yield 40012, together


@pytest.fixture
def ways_of_me(served: Served) -> Iterator[list[Way]]:
    """Every way to publish with a token that says who it is for, and may not publish everywhere."""
    rights = {"order:*": ["publish"], "other": ["subscribe"]}
    bearer = token(served.server.address, rights, client_id="me", tls=served.tls)
    with ways(served.server, served.tls, bearer) as each:
        yield each


def test_the_first_fault_counts_on_every_way_in(ways_of_me: list[Way], channel: str) -> None:
    name = f"order:{channel}"
    wrong = [
        (way.name, expected, code, messages)
        for expected, messages in pairs()
        for way in ways_of_me
        if (code := refusal(way, name, *messages)) != expected
    ]
    assert not wrong, wrong[:5]


@pytest.mark.parametrize(
    ("channel_name", "expected"), [("other", 40160), (":bad", 40010), ("[bad", 40010)], ids=["no right", "name", "open"]
)
def test_the_channel_counts_before_the_messages(ways_of_me: list[Way], channel_name: str, expected: int) -> None:
    for way in ways_of_me:
        if "short=True" in way.name:
            continue  # nothing is granted there
        for messages in itertools.chain.from_iterable([*FAULTS.values(), UPDATE]):
            assert refusal(way, channel_name, *messages) == expected, (way.name, messages)


@pytest.mark.parametrize("wire_format", [JSON, MSGPACK])
def test_kind_of_fault_decides_not_the_place_of_its_message(wire_format: int) -> None:
    for (first, ones), (second, others) in itertools.combinations(FAULTS.items(), 2):
        if second == 40009 or first == 40012:
            continue
        for one, other in itertools.product(ones, others):
            if OF_ANOTHER in (one, other):
                continue
            for messages in (one + other, other + one):
                with pytest.raises(PubSubError) as caught:
                    publish_from("c", 0, messages, wire_format)
                assert caught.value.code == first, messages


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(st.characters(), max_size=4)  # half surrogate pairs, too
    | st.binary(max_size=4)
    | st.sampled_from(["base64", "json", "x" * 1100, Unread("has too many values in it")]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3) | st.binary(max_size=2), inner),
    max_leaves=4,
)
MEMBERS = st.sampled_from(["id", "clientId", "name", "data", "encoding", "extras", "action", "serial", "connectionKey"])


@given(messages=st.lists(st.dictionaries(MEMBERS, VALUES) | VALUES, max_size=3), wire_format=st.sampled_from([0, 1]))
def test_whatever_is_wrong_is_named(messages: list[Any], wire_format: int) -> None:
    try:
        publish = publish_from("c", 0, messages, wire_format)
    except PubSubError as error:
        assert str(error).startswith("messages")
    else:
        assert publish.count == len(messages)
