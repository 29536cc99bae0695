"""The OpenAPI document is true: it has every route, and what is asked as it says is answered as it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks

from server.rest.openapi import document
from tests import harness
from tests.rest_server import MSGPACK, Server, value_of

load_all_checks()


@schemathesis.serializer(MSGPACK)
def as_msgpack(context: Any, value: Any) -> bytes:
    return bytes(msgpack.packb(_within(value)))


def _within(value: Any) -> Any:
    """The same, less the numbers that msgpack has no room for."""
    if isinstance(value, dict):
        return {key: _within(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_within(item) for item in value]
    return float(value % 10**9) if isinstance(value, int) and abs(value) >= 1 << 63 else value


@schemathesis.deserializer(MSGPACK)
def from_msgpack(context: Any, response: Any) -> Any:
    return msgpack.unpackb(response.content)


EXAMPLES = 6  # of each operation, and what covers each parameter; all together take some ten seconds
DOCUMENT = document(dev=True)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
METHODS = {path: {method.upper() for method in methods} for path, methods in DOCUMENT["paths"].items()}
CHECKED = CHECKS.get_by_names(
    ["not_a_server_error", "content_type_conformance", "response_headers_conformance", "response_schema_conformance"]
)


@pytest.mark.parametrize("dev", [True, False])
def test_the_document_has_the_routes_that_there_are(dev: bool) -> None:
    server = Server(dev=dev)
    served = {(method.lower(), path) for path, methods in server.rest.routes.paths.items() for method in methods}
    told = value_of(server.ask("GET", "/openapi.json", who=None))
    assert {(method, path) for path, methods in told["paths"].items() for method in methods} == served
    assert value_of(server.ask("GET", "/openapi.json", who=None, accept=MSGPACK)) == told
    assert told["openapi"].startswith("3.1")


def test_times_of_statistics_are_those_that_the_document_has() -> None:
    (start,) = [each for each in DOCUMENT["paths"]["/stats"]["get"]["parameters"] if each["name"] == "start"]
    number, text = start["schema"]["anyOf"]

    def within(schema: dict[str, int], time: int) -> bool:
        return schema["minimum"] <= time <= schema["maximum"]

    times = [0, 999, 1000, 9999, 10_000, "2024-02-03:15:05", "2024-02-03:15", "2024-02-03", "2024-02", "2024", "x", -1]
    for time in times:
        if isinstance(time, int):
            told = within(number, time) and not within(number["not"], time)
        else:
            told = re.search(text["pattern"], time) is not None
        assert told == (Server().ask("GET", f"/stats?start={time}").status == 200), time


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Server]:
    with harness.Server(tmp_path_factory.mktemp("openapi"), arguments=["--dev"]) as running:
        yield running
    assert not running.complaints(), running.complaints()


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_what_is_asked_as_the_document_says_is_answered_so(asked: harness.Server, case: Any) -> None:
    for name in ("key", "access_token"):  # generated ones let nobody in
        case.query.pop(name, None)
    response = case.call(base_url=asked.url, headers={"Authorization": "Basic YXBwMS5rZXkxOnNlY3JldA=="})
    if case.method == "OPTIONS":
        assert response.status_code == 204
    elif case.query.get("envelope") in ("json", "msgpack"):  # the answer is within the answer
        assert response.status_code == 200
        value = response.json() if case.query["envelope"] == "json" else msgpack.unpackb(response.content)
        assert {"statusCode", "headers"} <= set(value)
    else:
        if case.method in METHODS[case.path]:
            case.validate_response(response, checks=CHECKED)
        else:
            assert response.status_code in (404, 405)
        assert ("x-ably-errorcode" in response.headers) == (response.status_code >= 400)
