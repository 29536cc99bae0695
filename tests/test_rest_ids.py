"""Message ids over HTTP: a publish that is sent again is one publish, whoever sends it again and how."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import Server, history
from tests.restclient import FORMATS, WAYS, RestClient
from tests.wsclient import RefusedError, WsClient, unique

pytestmark = [WAYS, FORMATS]


@pytest.fixture
def rest(server: Server, short: bool, packed: bool) -> Iterator[RestClient]:
    with RestClient(server.address, packed=packed, short=short) as made:
        yield made


def stored(server: Server, channel: str) -> list[tuple[str, str]]:
    return [(message["id"], message["data"]) for message in history(server.address, channel)]


def batch(rest: RestClient, channel: str, messages: Any) -> dict[str, Any]:
    answer = rest.ask("POST", "/messages", {"channels": channel, "messages": messages})
    assert answer.status == 201, answer
    (result,) = answer.value["results"]
    assert "error" not in result, result
    return dict(result)


@pytest.mark.parametrize(
    "ids", [["mine"], ["b+/=:0"], ["b:7"], ["b:0", "b:1", "b:2"], ["a:b:0", "a:b:1"], [":0", ":1"]]
)
def test_repeat_has_the_first_answer_and_is_stored_once(
    server: Server, channel: str, rest: RestClient, ids: list[str]
) -> None:
    messages = [{"id": name, "data": name} for name in ids]
    body = messages if len(ids) > 1 else messages[0]
    with WsClient(server.address) as reader:
        reader.attach(channel)
        first = rest.publish(channel, body)
        assert len(first["serials"]) == len(ids)
        assert rest.publish(channel, body) == first
        with RestClient(server.address, packed=not rest.packed) as other:
            assert other.publish(channel, messages) == first
        assert batch(rest, channel, messages) == first
        assert rest.publish(f"{channel}-beside", body)["serials"] != first["serials"], "each channel has its own"
        rest.publish(channel, {"data": "end"})
        heard = [message["data"] for message in reader.deliveries(channel, len(ids) + 1)]
    assert heard == [*ids, "end"]
    assert stored(server, channel)[:-1] == [(name, name) for name in ids]


def test_array_message_repeated_alone_is_known_by_its_place(server: Server, channel: str, rest: RestClient) -> None:
    first = rest.publish(channel, [{"id": f"b:{n}", "data": str(n)} for n in range(3)])
    for n in range(3):
        again = rest.publish(channel, {"id": f"b:{n}", "data": str(n)})
        assert again["serials"] == first["serials"][n : n + 1]
    start = [{"id": f"b:{n}", "data": str(n)} for n in range(2)]
    assert rest.publish(channel, start)["serials"] == first["serials"][:2]
    assert stored(server, channel) == [("b:0", "0"), ("b:1", "1"), ("b:2", "2")]


@pytest.mark.parametrize("size", [1, 3])
def test_an_id_is_the_same_over_http_and_on_a_connection(
    server: Server, channel: str, rest: RestClient, size: int
) -> None:
    def messages(base: str) -> list[dict[str, str]]:
        return [{"id": f"{base}:{n}", "data": base} for n in range(size)]

    with WsClient(server.address, format="msgpack" if rest.packed else "json") as client:
        client.attach(channel)
        there, here = rest.publish(channel, messages("http")), client.publish(channel, *messages("socket"))
        assert client.publish(channel, *messages("http")) == there["serials"]
        assert rest.publish(channel, messages("socket")) == {
            "channel": channel,
            "messageId": rest_id(size),
            "serials": here,
        }
        heard = [message["data"] for message in client.deliveries(channel, 2 * size)]
    assert heard == ["http"] * size + ["socket"] * size
    assert [data for _, data in stored(server, channel)] == heard


def rest_id(size: int) -> str:
    """What the answer to ``size`` messages of base "socket" calls messageId."""
    return "socket:0" if size == 1 else "socket"


def test_an_id_that_the_server_made_is_one_like_any_other(server: Server, channel: str, rest: RestClient) -> None:
    first = rest.publish(channel, {"data": "x"})
    assert rest.publish(channel, {"id": f"{first['messageId']}:0", "data": "x"})["serials"] == first["serials"]
    with WsClient(server.address) as client:
        own = client.publish(channel, {"data": "z"})
        again = {"id": f"{client.connection_id}:0:0", "data": "z", "connectionKey": client.connection_key}
        assert rest.publish(channel, again)["serials"] == own
    assert [data for _, data in stored(server, channel)] == ["x", "z"]


@pytest.mark.parametrize(
    "ids",
    [
        ["b:0", None],
        [None, "b:1"],
        ["b:1", "b:0"],
        ["b:0", "b:0"],
        ["b:0", "b:2"],
        ["b:1", "b:2"],
        ["b:0", "c:1"],
        ["b:00", "b:01"],
        ["b", "b"],
        ["0", "1"],
        ["b:0", "b:+1"],
        ["b:0", "b:1 "],
        ["b:0", ""],
        ["", ""],
        ["b:0", 1],
    ],
)
def test_ids_of_several_are_base_and_place_or_nothing_is_stored(
    server: Server, channel: str, rest: RestClient, ids: list[Any]
) -> None:
    messages = [{"data": "x"} if name is None else {"id": name, "data": "x"} for name in ids]
    assert rest.post(channel, messages).refusal == (400, 40031)
    answer = rest.ask("POST", "/messages", {"channels": [channel], "messages": messages})
    assert (answer.status, answer.value["results"][0]["error"]["code"]) == (201, 40031)
    with WsClient(server.address) as client, pytest.raises(RefusedError) as refused:
        client.publish(channel, *messages)
    assert refused.value.code == 40031
    assert stored(server, channel) == []


@pytest.mark.parametrize("ids", [["b:0", "b:1", "b:2", "b:3"], ["c:0", "c:1"]])
def test_partly_published_array_is_refused_whole(
    server: Server, channel: str, rest: RestClient, ids: list[str]
) -> None:
    rest.publish(channel, [{"id": f"b:{n}", "data": "first"} for n in range(3)])
    rest.publish(channel, {"id": "c:1", "data": "first"})
    assert rest.post(channel, [{"id": name, "data": "second"} for name in ids]).refusal == (400, 40031)
    assert [data for _, data in stored(server, channel)] == ["first"] * 4
    rest.publish(channel, {"id": ids[0].replace("b:0", "b:3"), "data": "not burnt by the refusal"})
    assert len(stored(server, channel)) == 5


def test_the_same_from_many_at_once_is_one_publish(server: Server, channel: str, short: bool, packed: bool) -> None:
    clients = [RestClient(server.address, packed=packed, short=short) for _ in range(6)]
    base, told = unique("b"), []

    def publish(client: RestClient) -> None:
        for number in range(20):
            messages = [{"id": f"{base}{number}:{n}", "data": str(number)} for n in range(1 + number % 3)]
            told.append((number, tuple(client.publish(channel, messages)["serials"])))
        client.close()

    run_all([lambda client=client: publish(client) for client in clients])
    assert len(told) == 120 and len(set(told)) == 20
    assert [data for _, data in stored(server, channel)] == sorted(
        [str(number) for number in range(20) for _ in range(1 + number % 3)], key=int
    )


def run_all(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
