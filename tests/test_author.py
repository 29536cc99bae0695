"""What ext.log.author promises: which ids and which client ids a message may have."""

from __future__ import annotations

import pytest

from ext.log.author import Author

OTHER = "AAAAAAAAAB"


@pytest.mark.parametrize(
    ("message_id", "whose"),
    [
        ("hZ2kQ9w1Ab:7:0", "hZ2kQ9w1Ab"),
        ("hZ2kQ-_1Ab:0:999", "hZ2kQ-_1Ab"),
        ("hZ2kQ9w1Ab:007:00", "hZ2kQ9w1Ab"),
        (f"hZ2kQ9w1Ab:{10**30}:{10**9}", "hZ2kQ9w1Ab"),
        ("hZ2kQ9w1Ab:7", None),
        ("hZ2kQ9w1Ab:7:", None),
        ("hZ2kQ9w1Ab::0", None),
        ("hZ2kQ9w1Ab:7:0:0", None),
        ("hZ2kQ9w1Ab:7:x", None),
        ("hZ2kQ9w1Ab:-7:0", None),
        ("hZ2kQ9w1A:7:0", None),
        ("hZ2kQ9w1Abc:7:0", None),
        ("hZ2kQ9w1A+:7:0", None),
        ("hZ2kQ9w1Aé:7:0", None),
        ("mine", None),
        ("", None),
    ],
)
def test_an_id_in_counted_form_is_for_its_connection(message_id: str, whose: str | None) -> None:
    assert Author(OTHER, None).permits_id(message_id) is (whose is None)
    assert Author(None, None, wildcard=True).permits_id(message_id) is (whose is None)
    if whose is not None:
        assert Author(whose, None).permits_id(message_id)


@pytest.mark.parametrize(
    ("own", "wildcard", "named", "permitted"),
    [
        (None, False, None, True),
        ("ann", False, None, True),
        ("ann", False, "ann", True),
        ("ann", False, "bob", False),
        (None, False, "bob", False),
        (None, True, "bob", True),
        (None, True, "*", False),
        (None, True, "", False),
        ("*", False, "*", False),
        ("ann", False, "", False),
    ],
)
def test_a_message_names_its_author_or_with_a_wildcard_anyone(
    own: str | None, wildcard: bool, named: str | None, permitted: bool
) -> None:
    assert Author(OTHER, own, wildcard=wildcard).permits_client_id(named) is permitted
    assert Author(None, own, wildcard=wildcard).permits_client_id(named) is permitted


def test_an_author_knows_its_connections_origin() -> None:
    assert Author(None, None).origin == 0
    assert Author(OTHER, None).origin == 1
