"""The REST clients of both SDKs, method by method, in JSON and in msgpack."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness import KEY, Server, history, request, token
from tests.sdk.driving import SDKS, Driver, SdkError, binary, driver_of, structure, text
from tests.test_apps import make_app
from tests.wsclient import WsClient

pytestmark = [pytest.mark.sdk, pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])]

FORMS = ("name and data", "message", "array")


@pytest.fixture(scope="module", params=SDKS)
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with driver_of(request.param, tmp_path_factory.mktemp("driver")) as made:
        yield made


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("sdk"), arguments=["--dev"]) as running:
        yield running
    assert not running.complaints(), running.complaints()


def publish(driver: Driver, server: Server, packed: bool, channel: str, *messages: Any, **more: Any) -> list[str]:
    told = driver.rest("publish", server.port, packed, channel=channel, messages=messages, **more)
    return list(told["serials"])


def in_pages(driver: Driver, server: Server, packed: bool, channel: str, **query: Any) -> tuple[list[Any], int]:
    told = driver.rest("history", server.port, packed, channel=channel, query=query)
    return told["items"], told["pages"]


def test_a_publish_in_any_form_is_stored_as_meant(driver: Driver, server: Server, channel: str, packed: bool) -> None:
    data = [text("ž"), binary(b"\x00\xff"), structure({"a": [1, None]}), text(""), structure([])]
    serials = [
        serial
        for form in FORMS
        for number, each in enumerate(data)
        for serial in publish(driver, server, packed, channel, {"name": f"{form} {number}", "data": each}, form=form)
    ]
    full = {"name": "n", "data": text("x"), "clientId": "me", "id": f"{channel}/own", "extras": {"headers": {"k": "v"}}}
    me = {"key": KEY, "clientId": "me"}
    serials += publish(driver, server, packed, channel, full, form="message", credentials=me)
    again = publish(driver, server, packed, channel, full, form="message", credentials=me)
    assert again == serials[-1:], "sent again"
    several = [{"name": str(n), "data": text(str(n))} for n in range(3)]
    serials += publish(driver, server, packed, channel, *several, params={"quickAck": True})
    for reader in (False, True):
        items, _ = in_pages(driver, server, reader, channel, direction="forwards")
        assert [item["serial"] for item in items] == serials
        assert [item["data"] for item in items[:15]] == data * 3
        assert {name: items[15].get(name) for name in full} == full
        assert [item["name"] for item in items[16:]] == ["0", "1", "2"]
        bases = {item["id"].rpartition(":")[0] for item in items[16:]}
        assert len(bases) == 1 and [item["id"].rpartition(":")[2] for item in items[16:]] == ["0", "1", "2"]
    with pytest.raises(SdkError) as refused:
        publish(driver, server, packed, channel, several[0], form="message", params={"_forceNack": True})
    assert (refused.value.code, refused.value.status) == (40099, 400)


def test_history_comes_in_pages_between_two_times(driver: Driver, server: Server, channel: str, packed: bool) -> None:
    for first in (0, 10):
        publish(driver, server, packed, channel, *[{"name": f"m{n:02}"} for n in range(first, first + 10)])
        time.sleep(0.002)  # so that the two have times of their own
    stored = history(server.address, channel)
    names = [message["name"] for message in stored]
    for direction, expected in (("forwards", names), ("backwards", names[::-1])):
        for limit in (3, 10, 1000):
            items, pages = in_pages(driver, server, packed, channel, direction=direction, limit=limit)
            assert [item["name"] for item in items] == expected
            assert pages == -(-len(names) // limit)
    later = stored[10]["timestamp"]
    assert [item["name"] for item in in_pages(driver, server, packed, channel, start=later)[0]] == names[:9:-1]
    assert [item["name"] for item in in_pages(driver, server, packed, channel, end=later - 1)[0]] == names[9::-1]


def test_statistics_come_in_pages(driver: Driver, dev: Server, packed: bool) -> None:
    app = make_app(dev, {})
    key = app["keys"][0]["keyStr"]
    minutes = [f"2024-02-03:15:{n:02}" for n in (1, 4, 9)]
    fixtures = [
        {"intervalId": name, "inbound": {"realtime": {"messages": {"count": 5, "data": 50}}}} for name in minutes
    ]
    assert request(dev.address, "POST", "/stats", fixtures, key=key)[0] == 201

    def stats(**query: Any) -> Any:
        return driver.rest("stats", dev.port, packed, credentials={"key": key}, query=query)

    span = {"start": 1706918400000, "end": 1707004799000}
    told = stats(**span, unit="minute", limit=2, direction="forwards")
    assert ([item["intervalId"] for item in told["items"]], told["pages"]) == (minutes, 2)
    told = stats(**span, unit="minute", limit=1)
    assert ([item["intervalId"] for item in told["items"]], told["pages"]) == (minutes[::-1], 3)
    for unit, name in (("hour", "2024-02-03:15"), ("day", "2024-02-03")):
        (item,) = stats(**span, unit=unit)["items"]
        assert (item["intervalId"], item["unit"]) == (name, unit)
        assert item["entries"]["messages.inbound.all.messages.count"] == 15
        assert item["entries"]["messages.inbound.realtime.all.data"] == 150
    now = stats(unit="month")["items"][0]
    assert now["entries"]["apiRequests.other.succeeded"] >= 4
    assert request(dev.address, "DELETE", f"/apps/{app['appId']}", key=key)[0] == 204


def test_a_channels_status_says_who_is_there(driver: Driver, server: Server, channel: str, packed: bool) -> None:
    with WsClient(server.address) as both, WsClient(server.address) as reader:
        both.attach(channel)
        reader.attach(channel, flags=1 << 18)
        told = driver.rest("status", server.port, packed, channel=channel)
    assert (told["channelId"], told["isActive"]) == (channel, True)
    counts = {name: told["metrics"][name] for name in ("connections", "publishers", "subscribers")}
    assert counts == {"connections": 2, "publishers": 1, "subscribers": 2}


def test_the_time_is_the_servers(driver: Driver, server: Server, packed: bool) -> None:
    assert abs(driver.rest("time", server.port, packed) - time.time() * 1000) < 60_000


def test_a_token_that_was_asked_for_is_good_for_what_was_asked(
    driver: Driver, server: Server, channel: str, packed: bool
) -> None:
    wanted = {"ttl": 600_000, "clientId": "alice", "capability": {channel: ["publish"]}}
    details = driver.rest("token", server.port, packed, wanted=wanted)
    assert (details["expires"] - details["issued"], details["clientId"]) == (600_000, "alice")
    credentials = {"token": details["token"]}
    publish(driver, server, packed, channel, {"name": "n"}, credentials=credentials)
    assert history(server.address, channel)[0]["clientId"] == "alice"
    for refused in (
        lambda: publish(driver, server, packed, f"{channel}-other", {"name": "n"}, credentials=credentials),
        lambda: driver.rest("history", server.port, packed, channel=channel, query={}, credentials=credentials),
    ):
        with pytest.raises(SdkError) as error:
            refused()
        assert (error.value.code, error.value.status) == (40160, 401)
    name, _, _ = KEY.partition(":")
    with pytest.raises(SdkError) as error:
        driver.rest("token", server.port, packed, wanted={}, credentials={"key": f"{name}:wrong"})
    assert error.value.status == 401


def test_any_request_can_be_made(driver: Driver, server: Server, channel: str, packed: bool) -> None:
    def ask(method: str, path: str, **more: Any) -> Any:
        return driver.rest("request", server.port, packed, method=method, path=path, **more)

    path = f"/channels/{channel}/messages"
    for n in range(5):
        told = ask("POST", path, body={"name": f"n{n}", "data": "x"})
        assert (told["status"], told["success"], len(told["items"][0]["serials"])) == (201, True, 1)
    told = ask("GET", path, params={"limit": "2", "direction": "forwards"})
    assert ([item["name"] for item in told["items"]], told["pages"]) == ([f"n{n}" for n in range(5)], 3)
    assert (told["status"], told["success"]) == (200, True)
    names = [f"{channel} a,{n}+" for n in range(3)]  # a link's parameters go through the library's own parser
    for name in names:
        assert ask("POST", f"/channels/{quote(name)}/messages", body={"data": "x"})["status"] == 201
    told = ask("GET", "/channels", params={"prefix": f"{channel} ", "limit": "1"})
    assert (told["items"], told["pages"]) == (names, 3)
    told = ask("GET", "/nothing")
    assert (told["status"], told["success"], int(told["errorCode"]), told["items"]) == (
        404,
        False,
        40400,
        told["items"],
    )
    assert "unknown route" in told["errorMessage"]
    told = ask("POST", path, body={"data": 7})
    assert (told["status"], int(told["errorCode"])) == (400, 40013)
    assert ask("GET", "/time")["items"][0] > 1_600_000_000_000


def test_a_batch_tells_of_each_channel(driver: Driver, server: Server, channel: str, packed: bool) -> None:
    mine = {"token": token(server.address, {f"{channel}:*": ["publish", "subscribe"]})}
    specs = [
        {"channels": [f"{channel}:a", "elsewhere", f"{channel}:b"], "messages": [{"name": "1"}, {"name": "2"}]},
        {"channels": [f"{channel}:a"], "messages": [{"name": "3", "data": "x"}]},
    ]
    with contextlib.ExitStack() as readers:
        reader = readers.enter_context(WsClient(server.address))
        reader.attach(f"{channel}:a")
        if driver.speaks("rest_batch"):
            told = driver.rest("batch", server.port, packed, credentials=mine, specs=specs)
        else:
            told = driver.rest(
                "request", server.port, packed, credentials=mine, method="POST", path="/messages", body=specs
            )["items"]
        assert [message["name"] for message in reader.deliveries(f"{channel}:a", 3)] == ["1", "2", "3"]
    assert [(each["successCount"], each["failureCount"]) for each in told] == [(2, 1), (1, 0)]
    good, bad, _ = told[0]["results"]
    assert (good["channel"], len(good["serials"]), bad["channel"], bad["error"]["code"]) == (
        f"{channel}:a", 2, "elsewhere", 40160,
    )  # fmt: skip
    assert [len(history(server.address, f"{channel}:{name}")) for name in "ab"] == [3, 2]
