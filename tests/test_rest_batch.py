"""Many channels in one request: each is answered for itself, whatever becomes of the others."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import JournalUnavailable
from tests.rest_server import JSON, MSGPACK, Server, code_of, header, value_of


@pytest.fixture
def server() -> Server:
    return Server()


def publish(server: Server, body: object, version: str = "5", status: int = 201, **options: Any) -> Any:
    response = server.ask("POST", "/messages", body, x_ably_version=version, **options)
    assert response.status == status, response.body
    return value_of(response)


def stored(server: Server) -> list[tuple[str, int]]:
    return [(channel.name, content.count) for channel, content, *_ in server.backend.published]


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_a_spec_is_published_on_each_of_its_channels(server: Server, kind: str) -> None:
    body = {"channels": ["room:1", "room:2"], "messages": [{"data": "x"}, {"data": "y"}]}
    told = publish(server, body, content_type=kind, accept=kind)
    assert (told["successCount"], told["failureCount"]) == (2, 0)
    assert [result["channel"] for result in told["results"]] == ["room:1", "room:2"]
    assert all(len(result["serials"]) == 2 and result["messageId"] for result in told["results"])
    assert sorted(stored(server)) == [("room:1", 2), ("room:2", 2)]


def test_one_channel_and_one_message_need_no_arrays(server: Server) -> None:
    told = publish(server, {"channels": "room:1", "messages": {"id": "mine", "data": "x"}})
    (result,) = told["results"]
    assert (result["channel"], result["messageId"], len(result["serials"])) == ("room:1", "mine", 1)


def test_binary_follows_the_rules_of_its_format(server: Server) -> None:
    publish(server, {"channels": "room:1", "messages": {"data": b"\x00\xff"}}, content_type=MSGPACK)
    publish(server, {"channels": "room:1", "messages": {"data": "AP8=", "encoding": "base64"}})
    assert [message["data"] for message in server.history(accept=MSGPACK)] == [b"\x00\xff"] * 2


def test_an_array_of_specs_is_answered_with_an_array(server: Server) -> None:
    specs = [{"channels": [f"room:{n}"], "messages": {"data": str(n)}} for n in range(3)]
    told = publish(server, specs)
    assert [of_spec["results"][0]["channel"] for of_spec in told] == ["room:0", "room:1", "room:2"]
    assert len(publish(server, specs[:1])) == 1
    assert [name for name, _ in stored(server)] == ["room:0", "room:1", "room:2", "room:0"]


def test_what_fails_on_one_channel_is_no_others_business(server: Server) -> None:
    server.backend.refuses_on["room:3"] = JournalUnavailable("full")
    body = {"channels": ["room:1", "other", ":bad", "room:3", "room:2"], "messages": {"data": "x"}}
    told = publish(server, body, who="writer")
    assert (told["successCount"], told["failureCount"]) == (2, 3)
    assert ["error" in result for result in told["results"]] == [False, True, True, True, False]
    errors = [(result["error"]["statusCode"], result["error"]["code"]) for result in told["results"][1:4]]
    assert errors == [(401, 40160), (400, 40010), (503, 50003)]
    assert not any({"messageId", "serials"} & set(result) for result in told["results"] if "error" in result)
    assert sorted(stored(server)) == [("room:1", 1), ("room:2", 1)]


def test_a_batch_that_fails_entirely_is_an_answer_all_the_same(server: Server) -> None:
    told = publish(server, {"channels": ["a", "b"], "messages": [{"data": 7}]})
    assert [result["error"]["code"] for result in told["results"]] == [40013, 40013]
    assert not server.backend.published


def test_a_channel_named_twice_gets_both_in_order(server: Server) -> None:
    told = publish(server, {"channels": ["room:1", "room:1"], "messages": {"data": "x"}})
    assert told["results"][0]["serials"] < told["results"][1]["serials"]


def test_older_clients_get_the_flat_form(server: Server) -> None:
    specs = [{"channels": ["room:1", "room:2"], "messages": {"data": "x"}}, {"channels": "a", "messages": {}}]
    told = publish(server, specs, version="1.2")
    assert [result["channel"] for result in told] == ["room:1", "room:2", "a"]
    assert all(set(result) == {"channel", "messageId"} for result in told)
    response = server.ask("POST", "/messages", specs, who="writer", x_ably_version="2")
    assert (response.status, header(response, "x-ably-errorcode")) == (400, "40020")
    value = value_of(response)
    assert (value["error"]["code"], value["error"]["statusCode"]) == (40020, 400)
    assert [result.get("error", {}).get("code") for result in value["batchResponse"]] == [None, None, 40160]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", 40001),
        ([], 40000),
        ("text", 40000),
        ([[]], 40000),
        ({}, 40000),
        ({"channels": "a"}, 40000),
        ({"messages": {}}, 40000),
        ({"channels": [], "messages": {}}, 40000),
        ({"channels": "", "messages": []}, 40000),
        ({"channels": [7], "messages": {}}, 40000),
        ({"channels": "a", "messages": "x"}, 40000),
        ({"channels": ["a"] * 101, "messages": {}}, 40000),
        ([{"channels": ["a"] * 91, "messages": {}}] * 11, 40000),  # 1001 publishes
        ([{"channels": "a", "messages": [{}] * 1000}, {"channels": "a", "messages": {}}], 40034),
    ],
)
def test_what_is_no_batch_is_refused_whole(server: Server, body: object, code: int) -> None:
    assert code_of(server.ask("POST", "/messages", body, content_type=JSON)) == (400, code)
    assert not server.backend.published


def test_a_batch_may_have_so_much_of_each(server: Server) -> None:
    publish(server, {"channels": ["a"] * 100, "messages": [{}] * 1000})
    publish(server, [{"channels": [f"c{n}" for n in range(100)], "messages": {}}] * 10)
    assert len(stored(server)) == 100 + 1000


def test_results_with_errors_came_with_version_3(server: Server) -> None:
    spec = {"channels": "a", "messages": {}}
    assert publish(server, spec, version="3")["successCount"] == 1
    assert [result["channel"] for result in publish(server, spec, version="2.9")] == ["a"]


def test_a_batch_needs_credentials_before_it_is_read(server: Server) -> None:
    assert code_of(server.ask("POST", "/messages", b"{", who=None)) == (401, 40101)
