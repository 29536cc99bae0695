"""Status and enumeration of channels: counts that are right, pages that neither repeat nor skip."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.channel import Channel
from engine.directory import ChannelNames
from engine.policy import Policy
from server.realtime.actions import Flag
from server.realtime.attachment import Attachment
from server.rest.channels import metrics
from tests import harness
from tests.harness import request
from tests.rest_server import Server, code_of, value_of
from tests.test_sequencer import partition
from tests.wsclient import Action, WsClient

POLICY = Policy("synced", "w", 120_000, "abcd1234")


def named(server: Server, *names: str, app: str = "app1") -> None:
    for name in names:
        server.backend.channels[f"{app}:{name}"] = Channel(app, name, POLICY, partition())


def pages(server: Server, query: str, **headers: str) -> list[Any]:
    """All items, by following the links."""
    items: list[Any] = []
    for _ in range(100):
        response = server.ask("GET", f"/channels?{query}", **headers)
        assert response.status == 200, response.body
        page = value_of(response)
        items += page
        links = {value[-5:-1]: value[1:].partition(">")[0] for name, value in response.headers if name == "Link"}
        if "cursor=" in query:
            assert page, "the page before was the last one, and has a next one all the same"
            assert links["rent"] == f"./channels?{query}"  # the last letters of current
        if "next" not in links:
            return items
        assert len(page) == int(dict(parse_qsl(query))["limit"])
        query = links["next"].removeprefix("./channels?")
    raise AssertionError("the pages never end")


@given(
    names=st.sets(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=4), max_size=30
    ),
    limit=st.integers(1, 7),
    prefix=st.text(max_size=1),
)
@settings(deadline=None, max_examples=60)
def test_pages_joined_are_the_apps_channels_in_order(names: set[str], limit: int, prefix: str) -> None:
    server = Server()
    named(server, *names)
    named(server, *names, "more", app="app2")
    found = pages(server, f"limit={limit}&prefix={quote(prefix, safe='')}" if prefix else f"limit={limit}")
    assert found == sorted(name for name in names if name.startswith(prefix))


def test_channel_change_between_two_pages_moves_no_other() -> None:
    names, listed = [f"c{n:02}" for n in range(10)], ChannelNames()
    for name in names:
        listed.add(f"a:{name}")
    first = listed.after("a", "", "", 4)
    for name in names[:2]:
        listed.discard(f"a:{name}")
    for name in ("c00b", "c031"):
        listed.add(f"a:{name}")
    assert first + listed.after("a", "", first[-1], 100) == sorted([*names, "c031"])


@given(
    keys=st.sets(st.tuples(st.sampled_from(["a", "aa", "b"]), st.text("ab:\U0001f600\uffff", min_size=1, max_size=4))),
    prefix=st.text("ab:\U0001f600", max_size=2),
    after=st.text("ab:\U0001f600\uffff", max_size=3),
    most=st.integers(0, 9),
)
def test_names_are_found_as_if_all_had_been_looked_through(
    keys: set[tuple[str, str]], prefix: str, after: str, most: int
) -> None:
    listed = ChannelNames()
    for app, name in keys:
        listed.add(f"{app}:{name}")
    names = {f"{app}:{name}".removeprefix("a:") for app, name in keys if f"{app}:{name}".startswith("a:")}
    fitting = sorted(name for name in names if name.startswith(prefix) and name > after)
    assert listed.after("a", prefix, after, most) == fitting[:most]


def test_a_page_of_a_million_names_costs_what_it_holds() -> None:
    """Fails if all are looked through: that takes hundreds of milliseconds, and the loop for tens of them."""
    listed = ChannelNames()
    for n in range(200_000):
        listed.add(f"app1:{n:07}")
    fastest = 1.0
    for after in ("", "0100000", "0199999", "x"):
        begun = time.perf_counter()
        found = listed.after("app1", "", after, 100)
        fastest = min(fastest, time.perf_counter() - begun)
        assert found[:1] == ({"": ["0000000"], "0100000": ["0100001"]}.get(after, []))
    assert fastest < 0.005


def test_names_or_details_as_the_version_or_the_query_says() -> None:
    server = Server()
    named(server, "a", "b")
    assert pages(server, "limit=1", x_ably_version="3") == ["a", "b"]
    details = pages(server, "limit=1", x_ably_version="2")
    assert [item["channelId"] for item in details] == ["a", "b"]
    assert pages(server, "limit=1&by=value") == details
    assert pages(server, "limit=1&by=id", x_ably_version="1.2") == ["a", "b"]
    assert code_of(server.ask("GET", "/channels?by=name")) == (400, 40003)
    assert code_of(server.ask("GET", "/channels?limit=1001")) == (400, 40003)


def test_metadata_needs_its_operation() -> None:
    server = Server()
    assert code_of(server.ask("GET", "/channels", who="reader")) == (401, 40160)
    assert code_of(server.ask("GET", "/channels/a", who="reader")) == (401, 40160)
    assert code_of(server.ask("GET", "/channels/%3Aa")) == (400, 40010)
    assert value_of(server.ask("GET", "/channels/a"))["status"]["isActive"] is False


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["end", "modes"]), st.integers(0, 15))))
def test_metrics_count_the_attachments_that_there_are(steps: list[tuple[int, str, int]]) -> None:
    channel = Channel("app1", "a", POLICY, partition())
    attachments = [Attachment(None, channel) for _ in range(4)]  # type: ignore[arg-type]  # the name is not looked at
    for which, what, bits in steps:
        if what == "end":
            attachments[which].end()
        else:
            attachments[which].modes = bits << 16
    alive = [int(attachment.modes) for attachment in attachments if attachment.active and attachment.modes]
    counted = metrics(channel)
    assert counted["connections"] == len(alive)
    assert counted["publishers"] == sum(bool(modes & Flag.PUBLISH) for modes in alive)
    assert counted["subscribers"] == sum(bool(modes & Flag.SUBSCRIBE) for modes in alive)
    assert counted["presenceConnections"] == sum(bool(modes & Flag.PRESENCE) for modes in alive)


def shown_metrics(server: harness.Server, channel: str) -> dict[str, int]:
    status, body, _ = request(server.address, "GET", f"/channels/{channel}")
    assert status == 200
    found: dict[str, int] = body["status"]["occupancy"]["metrics"]
    return found


def test_status_follows_who_attaches_and_who_leaves(server: harness.Server, channel: str) -> None:
    with WsClient(server.address) as both, WsClient(server.address) as reader:
        both.attach(channel)
        reader.attach(channel, flags=int(Flag.SUBSCRIBE))
        found = shown_metrics(server, channel)
        assert (found["connections"], found["publishers"], found["subscribers"]) == (2, 1, 2)
        assert (found["presenceConnections"], found["presenceMembers"], found["objectPublishers"]) == (0, 0, 0)
        reader.attach(channel, flags=int(Flag.PUBLISH))
        found = shown_metrics(server, channel)
        assert (found["connections"], found["publishers"], found["subscribers"]) == (2, 2, 1)
        both.send({"action": Action.DETACH, "channel": channel})
        both.expect(Action.DETACHED)
        assert shown_metrics(server, channel)["connections"] == 1
        assert channel in request(server.address, "GET", f"/channels?prefix={channel}")[1]
    harness.wait_until(lambda: shown_metrics(server, channel)["connections"] == 0)


def test_a_batch_is_stored_and_delivered_on_each_channel(server: harness.Server, channel: str) -> None:
    names = [f"{channel}:{n}" for n in range(20)]
    with WsClient(server.address) as client:
        client.attach(names[7])
        body = [{"channels": names, "messages": [{"data": "x"}, {"data": "y"}]}, {"channels": names[7], "messages": {}}]
        status, told, _ = request(server.address, "POST", "/messages", body)
        assert (status, [spec["failureCount"] for spec in told]) == (201, [0, 0])
        assert [message.get("data") for message in client.deliveries(names[7], 3)] == ["x", "y", None]
    serials = [result["serials"] for result in told[0]["results"]]
    kept = [[message["serial"] for message in harness.history(server.address, name)] for name in names]
    assert [found[:2] for found in kept] == serials
    listed = request(server.address, "GET", f"/channels?limit=1000&prefix={channel}:")[1]
    assert listed == sorted(names), json.dumps(listed)


@pytest.mark.parametrize("method", ["PUT", "TRACE"])
def test_a_wrong_method_says_which_are_right(server: harness.Server, method: str) -> None:
    status, body, _ = request(server.address, method, "/channels/a")
    assert (status, body["error"]["code"]) == (405, 40500)
