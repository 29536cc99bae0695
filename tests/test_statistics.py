"""Statistics: nothing is counted twice, nothing is lost by being kept, and every interval is the sum of its minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import JournalUnavailable
from engine.journal.memory import MemoryJournal
from engine.journal.rocks import RocksJournal
from engine.statistics import DAY_MS, HOUR_MS, KEPT_MS, MINUTE_MS, UNITS, Statistics, interval_id, parse_interval
from ext.log.counters import Meter
from server.realtime.actions import Flag
from tests.harness import request
from tests.models.statistics import ModelStatistics
from tests.rest_server import MSGPACK, NOW, Server, code_of, value_of
from tests.test_apps import make_app
from tests.wsclient import WsClient

BEGIN = 1_706_972_705_000  # 2024-02-03 15:05:05
FIXTURE = {
    "intervalId": "2024-02-03:15:05",
    "inbound": {"realtime": {"messages": {"count": 70, "data": 7000}}},
    "outbound": {"realtime": {"messages": {"count": 40, "data": 4000}}},
    "persisted": {"presence": {"count": 20, "data": 2000}},
    "connections": {"tls": {"peak": 20, "opened": 10}},
    "channels": {"peak": 50, "opened": 30},
    "apiRequests": {"succeeded": 50, "failed": 10},
    "tokenRequests": {"succeeded": 60, "failed": 20},
}


def told(statistics: Statistics, app_id: str, unit: str) -> dict[str, dict[str, int]]:
    page = statistics.page(app_id, unit, 0, BEGIN * 2, limit=10_000, backwards=False)
    assert [item.begin_ms for item in page] == sorted({item.begin_ms for item in page})
    return {interval_id(unit, item.begin_ms): item.entries for item in page}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["n1", "n2"]),
            st.sampled_from([0, 1, 30_000, MINUTE_MS, HOUR_MS, DAY_MS, 31 * DAY_MS]),
            st.booleans(),
        ),
        max_size=40,
    )
)
@settings(deadline=None, max_examples=60)
def test_every_interval_is_the_sum_of_what_was_counted_in_it(steps: list[tuple[str, str, int, bool]]) -> None:
    statistics, model, now_ms = Statistics(MemoryJournal(), {}, prune=False), ModelStatistics(), BEGIN
    for app_id, name, wait_ms, keep in steps:
        now_ms += wait_ms
        statistics.count(app_id, name, now_ms)
        model.count(app_id, name, now_ms)
        if keep:
            statistics.take()
            statistics.keep(now_ms)
    for app_id in ("a", "b", "c"):
        for unit in UNITS:
            assert told(statistics, app_id, unit) == model.intervals(app_id, unit)


class FailingJournal(MemoryJournal):
    fails = False

    def note(self, *arguments: Any, **options: Any) -> None:
        if self.fails:
            raise JournalUnavailable("planted")
        super().note(*arguments, **options)


def test_what_could_not_be_kept_is_shown_and_kept_the_next_time() -> None:
    journal = FailingJournal()
    statistics = Statistics(journal, {})
    journal.fails = True
    for _ in range(2):
        statistics.count("a", "n", BEGIN)
        statistics.take()
        with pytest.raises(JournalUnavailable):
            statistics.keep(BEGIN)
        assert told(statistics, "a", "hour")["2024-02-03:15"]["n"] in (1, 2)
    journal.fails = False
    statistics.keep(BEGIN)
    assert told(Statistics(journal, {}), "a", "minute") == {"2024-02-03:15:05": {"n": 2}}


def test_meters_are_read_as_differences_with_peaks() -> None:
    meter = Meter()
    statistics = Statistics(MemoryJournal(), {"a": meter})
    for _ in range(5):
        meter.connections.add()
    for _ in range(4):
        meter.connections.remove()
    statistics.look(BEGIN)
    statistics.look(BEGIN + 1000)
    meter.connections.remove()
    statistics.look(BEGIN + MINUTE_MS)  # it was the last one: its minute was active still
    statistics.look(BEGIN + 2 * MINUTE_MS)
    found = told(statistics, "a", "minute")
    first = found["2024-02-03:15:05"]
    assert (first["connections.all.peak"], first["connections.all.opened"]) == (5, 5)
    assert (first["connections.all.total"], first["connections.all.samples"]) == (2, 2)
    assert "2024-02-03:15:07" not in found
    meter.connections.add()
    statistics.look(BEGIN + 3 * MINUTE_MS)
    assert told(statistics, "a", "minute")["2024-02-03:15:08"]["connections.all.peak"] == 1
    assert told(statistics, "a", "day")["2024-02-03"]["connections.all.peak"] == 5


def test_minutes_and_hours_are_let_go_of_in_time_and_days_stay() -> None:
    statistics = Statistics(MemoryJournal(), {})
    statistics.put("a", [(BEGIN, {"n": 1})], BEGIN)
    later = BEGIN + KEPT_MS["minute"] + HOUR_MS
    statistics.put("a", [(later, {"n": 2})], later)
    assert [len(told(statistics, "a", unit)) for unit in UNITS] == [1, 2, 2, 2]
    later = BEGIN + KEPT_MS["hour"] + HOUR_MS
    statistics.put("a", [(later, {"n": 2})], later)
    assert [len(told(statistics, "a", unit)) for unit in UNITS] == [1, 2, 3, 3]


def test_an_app_that_is_forgotten_takes_only_its_own_along() -> None:
    statistics = Statistics(MemoryJournal(), {})
    statistics.put("a", [(BEGIN, {"n": 1})], BEGIN)
    statistics.put("ab", [(BEGIN, {"n": 1})], BEGIN)
    statistics.count("a", "n", BEGIN)
    statistics.forget("a")
    assert told(statistics, "a", "minute") == {}
    assert told(statistics, "ab", "month") == {"2024-02": {"n": 1}}


def test_notes_are_kept_by_a_journal_across_its_lives(tmp_path: Path) -> None:
    journal = RocksJournal(tmp_path / "journal")
    model = MemoryJournal()
    for one in (journal, model):
        one.note({bytes([n]): b"v%d" % n for n in range(10)})
        one.note({b"\x03": b"new"}, [(b"\x05", b"\x07")])
    journal.close()
    journal = RocksJournal(tmp_path / "journal")
    for begin, end, limit in (
        (b"", b"\xff", 100),
        (b"\x02", b"\x08", 100),
        (b"\x02", b"\x09", 2),
        (b"\x09", b"\x01", 9),
    ):
        for backwards in (False, True):
            found = journal.noted(begin, end, limit=limit, backwards=backwards)
            assert found == model.noted(begin, end, limit=limit, backwards=backwards)
    journal.close()
    with pytest.raises(JournalUnavailable):
        journal.noted(b"", b"\xff", limit=1)
    with pytest.raises(JournalUnavailable):
        journal.note({b"a": b"b"})


@pytest.mark.parametrize(
    "text", ["2024", "2024-2", "2024-02-30", "2024-02-03:24", "x", "", "2024-02-03:15:5", "0000-01"]
)
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an interval"):
        parse_interval(text)


# as clients ask for them


def test_a_fixture_is_found_by_its_time_with_all_its_roll_ups() -> None:
    server = Server(dev=True)
    assert server.ask("POST", "/stats", [FIXTURE]).status == 201
    (item,) = value_of(server.ask("GET", "/stats?start=2024-02-03:15:05&end=2024-02-03:15:05"))
    assert (item["intervalId"], item["unit"], item["appId"]) == ("2024-02-03:15:05", "minute", "app1")
    assert "inProgress" not in item
    assert value_of(server.ask("GET", "/stats?start=2024-02-03:15:05&end=2024-02-03:15:05&v=3")) == [item]
    entries = item["entries"]
    for name in (
        "messages.inbound.realtime.all",
        "messages.inbound.realtime.messages",
        "messages.inbound.all.messages",
        "messages.inbound.all.all",
    ):
        assert (entries[f"{name}.count"], entries[f"{name}.data"]) == (70, 7000)
    assert entries["messages.outbound.realtime.all.count"] == entries["messages.outbound.all.messages.count"] == 40
    assert (entries["messages.persisted.all.count"], entries["messages.persisted.all.data"]) == (20, 2000)
    assert (entries["messages.all.messages.count"], entries["messages.all.messages.data"]) == (110, 11000)
    assert (entries["connections.all.peak"], entries["connections.all.opened"]) == (20, 10)
    assert (entries["channels.peak"], entries["channels.opened"]) == (50, 30)
    assert (entries["apiRequests.other.succeeded"], entries["apiRequests.other.failed"]) == (50, 10)
    assert (entries["apiRequests.tokenRequests.succeeded"], entries["apiRequests.all.failed"]) == (60, 30)
    (nested,) = value_of(server.ask("GET", "/stats?start=2024-02-03:15:05&end=2024-02-03:15:05&v=2"))
    assert nested["inbound"]["realtime"]["messages"]["count"] == nested["inbound"]["all"]["all"]["count"] == 70
    assert (nested["apiRequests"]["succeeded"], nested["tokenRequests"]["failed"]) == (50, 20)
    assert nested["all"]["messages"]["count"] == 110 and "entries" not in nested


def test_larger_units_sum_up_and_take_the_largest_peak() -> None:
    server = Server(dev=True)
    fixtures = [FIXTURE | {"intervalId": f"2024-02-03:15:{n:02}", "channels": {"peak": n}} for n in (3, 9, 5)]
    fixtures.append(FIXTURE | {"intervalId": "2024-03-01:00:00"})
    server.ask("POST", "/stats", fixtures, content_type=MSGPACK)
    for unit, start, name in (("hour", "2024-02-03:15", "2024-02-03:15"), ("day", "2024-02-03", "2024-02-03")):
        (item,) = value_of(server.ask("GET", f"/stats?unit={unit}&start={start}&end={start}"))
        assert (item["intervalId"], item["entries"]["messages.inbound.all.all.count"]) == (name, 210)
        assert item["entries"]["channels.peak"] == 9
    months = value_of(server.ask("GET", "/stats?unit=month&start=2024-02&end=2024-03&direction=forwards"))
    assert [item["intervalId"] for item in months] == ["2024-02", "2024-03"]
    inside = BEGIN + 40_000  # a start within an interval is that of its beginning
    (item,) = value_of(server.ask("GET", f"/stats?by=hour&start={inside}&end={inside}"))
    assert item["intervalId"] == "2024-02-03:15"


def test_what_is_not_over_names_its_last_minute_in_every_unit() -> None:
    server = Server(dev=True)
    server.ask("POST", "/stats", FIXTURE | {"intervalId": "2023-10-02:03:04"})
    for unit in UNITS:
        now, before = value_of(server.ask("GET", f"/stats?unit={unit}&end={NOW}"))
        assert now["inProgress"] == interval_id("minute", NOW)
        assert (now["intervalId"], "inProgress" in before) == (interval_id(unit, NOW), False)


def test_what_begins_later_than_now_has_not_happened() -> None:
    server = Server()
    server.ask("GET", "/time")
    response = server.ask("GET", f"/stats?start={NOW + DAY_MS}")
    assert (response.status, value_of(response)) == (200, [])
    assert all(f"end={NOW + DAY_MS}" in value for name, value in response.headers if name == "Link")


@given(st.sets(st.integers(0, 59), max_size=12), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=30)
def test_pages_joined_are_all_intervals(minutes: set[int], limit: int, backwards: bool) -> None:
    server = Server(dev=True)
    server.ask("POST", "/stats", [FIXTURE | {"intervalId": f"2024-02-03:15:{n:02}"} for n in minutes])
    direction = "backwards" if backwards else "forwards"
    target = f"/stats?start=2024-02-03&end=2024-02-04&limit={limit}&direction={direction}"
    found: list[int] = []
    for _ in range(20):
        response = server.ask("GET", target)
        page = value_of(response)
        found += [int(item["intervalId"][-2:]) for item in page]
        links = {
            relation: url for url, relation in (value[1:].split(">") for n, value in response.headers if n == "Link")
        }
        if "cursor=" in target:
            assert page, "the page before was the last one, and has a next one all the same"
            assert links['; rel="current"'] == f".{target}"
        if '; rel="next"' not in links:
            break
        target = links['; rel="next"'].removeprefix(".")
    assert found == sorted(minutes, reverse=backwards)


def test_requests_count_by_outcome_and_the_interval_is_open() -> None:
    server = Server()
    server.ask("GET", "/channels/requestToken")
    for _ in range(2):
        server.ask("GET", "/channels/room:1/messages?limit=0")
    server.ask("GET", "/channels/room:1/messages", who="writer")
    server.ask("GET", "/nothing", who=None)
    server.ask("POST", "/keys/app1.key1/requestToken", {}, who=None)
    server.ask("POST", "/keys/else.key1/requestToken", {}, who=None)
    (item,) = value_of(server.ask("GET", f"/stats?end={NOW}"))
    assert item["inProgress"] == item["intervalId"]
    entries = item["entries"]
    names = ("other.succeeded", "other.failed", "other.refused", "tokenRequests.succeeded", "all.succeeded")
    assert [entries[f"apiRequests.{name}"] for name in names] == [1, 2, 1, 1, 2]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("unit=second", 40003),
        ("direction=up", 40003),
        ("limit=0", 40003),
        ("start=x", 40003),
        ("end=2024-13", 40003),
        ("start=2&end=1", 40003),
        ("cursor=x", 40011),
    ],
)
def test_a_parameter_that_is_none_is_refused(query: str, code: int) -> None:
    assert code_of(Server().ask("GET", f"/stats?{query}")) == (400, code)


@pytest.mark.parametrize(
    "body",
    [
        7,
        [7],
        {},
        {"intervalId": "2024-02-03:15"},
        {"intervalId": "2024-02-03:15:05", "channels": {"peak": -1}},
        {"intervalId": "2024-02-03:15:05", "channels": {"peak": 1 << 60}},
        {"intervalId": "2024-02-03:15:05", "channels": {"peak": "x"}},
        {"intervalId": "2024-02-03:15:05", "a": {"b": {"c": {"d": {"e": 1}}}}},
        [{}] * 1001,
    ],
)
def test_fixtures_that_are_none_are_refused_whole(body: object) -> None:
    server = Server(dev=True)
    assert code_of(server.ask("POST", "/stats", body)) == (400, 40000)
    assert server.ask("POST", "/stats", [FIXTURE] * 1000).status == 201


def test_statistics_need_their_operation_and_fixtures_need_dev() -> None:
    assert code_of(Server().ask("GET", "/stats", who="reader")) == (401, 40160)
    assert code_of(Server().ask("POST", "/stats", [FIXTURE])) == (405, 40500)


def test_running_server_counts_and_remembers_over_a_restart(make_server: Any) -> None:
    server = make_server(arguments=["--dev"])
    app = make_app(server, {"namespaces": [{"id": "p", "persisted": True}]})
    key = app["keys"][0]["keyStr"]
    with WsClient(server.address, key=key) as publisher, WsClient(server.address, key=key) as reader:
        reader.attach("p:x", flags=int(Flag.SUBSCRIBE))
        publisher.publish("p:x", {"data": "a"}, {"data": "b"})
        publisher.publish("other", {"data": {"slow": "way"}})
        assert request(server.address, "POST", "/channels/p:x/messages", {"data": "c"}, key=key)[0] == 201
        reader.deliveries("p:x", 3)
        assert len(request(server.address, "GET", "/channels/p:x/messages?limit=2", key=key)[1]) == 2
        for life in range(2):
            found = request(server.address, "GET", "/stats?unit=month", key=key)[1][0]["entries"]
            assert found["messages.inbound.realtime.messages.count"] == 3
            assert found["messages.inbound.rest.messages.count"] == 1
            assert found["messages.inbound.all.messages.count"] == 4
            assert found["messages.outbound.realtime.messages.count"] == 3
            assert found["messages.outbound.rest.messages.count"] == 2
            assert found["messages.outbound.all.messages.count"] == 5
            assert found["messages.outbound.rest.messages.data"] > 0
            assert found["messages.persisted.all.count"] == 3
            assert (found["connections.all.peak"], found["connections.all.opened"]) == (2, 2)
            assert (found["channels.peak"], found["channels.opened"]) == (2, 2)
            assert found["apiRequests.other.succeeded"] == 2 + life
            if not life:
                assert server.stop() == 0
                server.start()
    assert request(server.address, "DELETE", f"/apps/{app['appId']}", key=key)[0] == 204
