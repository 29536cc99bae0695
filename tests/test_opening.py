"""What a client asks for in its query is read as the library reads it."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.transport.opening import MAX_PARAMETERS, query_params, read_query

PIECES = st.sampled_from(["key", "v", "=", "&", "%3A", "%", "%zz", "%C3%A9", "%ff", "+", "#", "?", ";", "/", ""])


@given(st.lists(PIECES).map("".join))
def test_a_query_is_read_as_the_library_reads_it(text):
    target = f"/?{text}"
    assert query_params(target) == dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))


def test_no_more_parameters_are_read_than_may_be():
    most = "&".join(f"p{n}={n}" for n in range(MAX_PARAMETERS))
    assert len(query_params("/?" + most)) == MAX_PARAMETERS
    assert query_params(f"/?{most}&one=more") == {}


@pytest.mark.parametrize("target", ["", "/", "//[", "*", "http://[::1/?v=2", "/%zz", "/?%"])
def test_no_target_is_too_strange_to_be_read(target):
    assert read_query(target).params.get("v") in (None, "2")
