"""What every client SDK may expect of the server, in JSON and in msgpack. test_sdk_*.py run it, each with its SDK.

Where a library can't do something, its class says so; nothing here knows one library from another."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from tests.checker import Kind, PublisherLog, Report, Sent, SubscriberLog, check
from tests.harness import Server, history, publish, request, token, wait_until
from tests.proxy import ChaosProxy
from tests.returning import marks_of
from tests.sdk.driving import Client, Driver, SdkError, binary, require, structure, text
from tests.sdk.issuing import Issuer
from tests.wsclient import WsClient

MakeServer = Callable[..., Server]
MakeProxy = Callable[[Server], ChaosProxy]

FLOOD = 4000  # messages of one publisher, 200 every 30 ms

PAYLOADS = {
    "plain text": text("hello"),
    "empty text": text(""),
    "unicode": text("žluťoučký kůň, 日本語, 🦄, \u2028\u2029"),
    "control characters": text('line\nbreak\ttab\r\\ "quoted" \u0001\u007f'),
    "text like json": text('{"not": "decoded"}'),
    "all bytes": binary(bytes(range(256))),
    "no bytes": binary(b""),
    "bytes that are utf-8": binary(b"could be text"),
    "object": structure({"a": [1, 2.5, None, True, {"b": "č"}], "": {}}),
    "array": structure([1, "two", []]),
    "empty object": structure({}),
    "large": text("x" * 60_000),
}


class SdkContract:
    """Tests of one SDK; ``command`` starts its driver."""

    command: ClassVar[tuple[str, ...]]
    tells_why_a_channel_is_not_resumed: ClassVar[bool] = True  # when it becomes attached; not only that it is not
    recovers_channels: ClassVar[bool] = True  # a recovery key has the positions in the channels in it, too
    pairs_acks_after_a_cut: ClassVar[bool] = True  # with the right calls, even if more was published meanwhile
    resends_in_order: ClassVar[bool] = True  # what was in flight when a connection was lost, before what is new

    @staticmethod
    def missing() -> str | None:
        """Why the SDK is not here."""
        raise NotImplementedError

    @staticmethod
    def recovery(key: str, connection_key: str) -> dict[str, Any]:
        """The options that make a new client continue a connection."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def process(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
        require(cls.missing())
        with Driver(cls.command, tmp_path_factory.mktemp("driver") / "stderr.log") as made:
            yield made

    @pytest.fixture
    def driver(self, process: Driver) -> Iterator[Driver]:
        yield process
        process.close_clients()

    @pytest.fixture(params=[False, True], ids=["json", "msgpack"])
    def packed(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    # connections

    def test_it_connects_and_pings_and_closes(self, driver, server, packed):
        client = driver.connect(server.port, binary=packed)
        state = client.connection()
        assert state["id"] and state["key"] and "error" not in state
        assert client.ping() >= 0
        client.close()
        with WsClient(server.address, resume=state["key"]) as again:
            assert again.connection_id != state["id"], "CLOSE ends the connection's state"

    def test_a_wrong_key_fails_it_for_good(self, driver, server, packed):
        client = driver.client(server.port, binary=packed, key="app1.key1:wrong", basic=True)
        state = client.connect()
        assert (state["state"], state["error"]["code"], state["error"]["statusCode"]) == ("failed", 40101, 401)

    def test_a_client_id_goes_with_the_messages(self, driver, server, channel, packed):
        client = driver.connect(server.port, binary=packed, clientId="alice", basic=True)
        client.subscribe(channel)
        client.publish(channel, {"name": "n", "data": text("x")})
        assert client.messages(channel, 1)[0]["clientId"] == "alice"

    # messages

    def test_hundreds_of_messages_come_once_and_in_order(self, driver, server, channel, packed):
        publisher = driver.connect(server.port, binary=packed)
        readers = [driver.connect(server.port, binary=each) for each in (False, True)]
        for reader in readers:
            reader.subscribe(channel)
        publisher.flood(channel, "p", 400)
        publishers = [publisher.flooded(channel, "p")]
        logs = [_whole(reader, channel, 400) for reader in readers]
        report = check(publishers, logs, marks_of(history(server.address, channel)))
        assert not report.faults, str(report)
        assert report.acked == 400 and report.delivered == 800

    def test_payloads_are_equal_live_and_in_history(self, driver, server, channel, packed):
        publisher = driver.connect(server.port, binary=packed)
        readers = [driver.connect(server.port, binary=each) for each in (False, True)]
        for reader in readers:
            reader.subscribe(channel)
        for name, data in PAYLOADS.items():
            publisher.publish(channel, {"name": name, "data": data})
        for reader in readers:
            live = reader.messages(channel, len(PAYLOADS))
            stored, _ = reader.history(channel, direction="forwards")
            for messages in (live, stored):
                assert {message["name"]: message["data"] for message in messages} == PAYLOADS
                assert not any("encoding" in message for message in messages), "all decoded"

    def test_payloads_published_by_rest_are_the_same(self, driver, server, channel, packed):
        reader = driver.connect(server.port, binary=not packed)
        reader.subscribe(channel)
        serials = [
            driver.rest_publish(server.port, channel, {"name": name, "data": data}, binary=packed)
            for name, data in PAYLOADS.items()
        ]
        got = reader.messages(channel, len(PAYLOADS))
        assert {message["name"]: message["data"] for message in got} == PAYLOADS
        assert [[message["serial"]] for message in got] == serials

    def test_a_publish_by_rest_needs_no_task_on_the_server(self, driver, server, channel, packed):
        def served() -> int:
            _, health, _ = request(server.address, "GET", "/health")
            return int(health["plainPublishes"] + health["askedPublishes"])

        before = served()
        for n in range(3):
            driver.rest_publish(server.port, channel, {"name": str(n), "data": text("x")}, binary=packed)
        driver.rest_publish(server.port, channel, *[{"name": "n", "data": text("x")}] * 3, binary=packed)
        assert served() == before + 4
        assert [message["name"] for message in history(server.address, channel)] == ["0", "1", "2", "n", "n", "n"]

    def test_absent_stays_absent_and_empty_stays_empty(self, driver, server, channel, packed):
        publisher = driver.connect(server.port, binary=packed)
        reader = driver.connect(server.port, binary=not packed)
        reader.subscribe(channel)
        publisher.publish(channel, {"data": text("no name")})
        publisher.publish(channel, {"name": "no data"})
        publisher.publish(channel, {"name": "", "data": text("")})
        publisher.publish(channel, {"name": "n", "extras": {"headers": {"k": "v", "n": 1}}})
        unnamed, empty, blank, extra = reader.messages(channel, 4)
        assert "name" not in unnamed and "data" not in empty
        assert (blank["name"], blank["data"]) == ("", text(""))
        assert extra["extras"] == {"headers": {"k": "v", "n": 1}}

    def test_messages_are_filled_in(self, driver, server, channel, packed):
        publisher = driver.connect(server.port, binary=packed)
        reader = driver.connect(server.port, binary=packed)
        reader.subscribe(channel)
        several = [{"name": f"n{n}", "data": text("x")} for n in range(3)]
        serials = publisher.publish(channel, {"name": "first"}) + publisher.publish(channel, *several)
        live = reader.messages(channel, 4)
        stored, _ = reader.history(channel, direction="forwards")
        connection = publisher.connection()["id"]
        for messages in (live, stored):
            assert [message["serial"] for message in messages] == serials
            assert [message["id"] for message in messages] == [
                f"{connection}:0:0", f"{connection}:1:0", f"{connection}:1:1", f"{connection}:1:2",
            ]  # fmt: skip
            for message in messages:
                assert message["connectionId"] == connection
                assert message["action"] == "message.create"
                assert message["timestamp"] > 1_600_000_000_000
                assert message["version"] == {"serial": message["serial"], "timestamp": message["timestamp"]}
        assert serials == sorted(set(serials))
        assert len({message["timestamp"] for message in live[1:]}) == 1

    def test_an_id_of_ones_own_comes_back_and_works_once(self, driver, server, channel, packed):
        publisher = driver.connect(server.port, binary=packed)
        publisher.subscribe(channel)
        first = publisher.publish(channel, {"id": "mine+/=", "name": "a"})
        assert publisher.publish(channel, {"id": "mine+/=", "name": "a"}) == first
        with pytest.raises(SdkError) as refused:
            publisher.publish(channel, {"id": "mine+/=", "name": "b"})
        assert refused.value.code == 40031
        publisher.publish(channel, {"name": "c"})
        assert [(message["name"]) for message in publisher.messages(channel, 2)] == ["a", "c"]
        assert publisher.messages(channel, 2)[0]["id"] == "mine+/="

    def test_it_publishes_without_being_attached(self, driver, server, channel, packed):
        publisher = driver.connect(server.port, binary=packed)
        (serial,) = publisher.publish(channel, {"name": "transient", "data": text("x")})
        assert [message["serial"] for message in history(server.address, channel)] == [serial]

    def test_with_echo_off_it_gets_all_but_its_own(self, driver, server, channel, packed):
        quiet = driver.connect(server.port, binary=packed, echo=False)
        other = driver.connect(server.port, binary=packed)
        quiet.subscribe(channel)
        quiet.publish(channel, {"name": "own"})
        other.publish(channel, {"name": "theirs"})
        quiet.publish(channel, {"name": "own again"})
        other.publish(channel, {"name": "end"})
        assert [message["name"] for message in quiet.messages(channel, last="end")] == ["theirs", "end"]

    def test_after_detach_nothing_comes_any_more(self, driver, server, channel, packed):
        reader = driver.connect(server.port, binary=packed)
        reader.subscribe(channel)
        reader.detach(channel)
        publish(server.address, channel, {"name": "missed"})
        assert reader.attach(channel)["resumed"] in (False, None)
        publish(server.address, channel, {"name": "seen"})
        assert [message["name"] for message in reader.messages(channel, last="seen")] == ["seen"]

    # history, rewind

    @pytest.mark.parametrize("direction", ["forwards", "backwards"])
    def test_history_comes_in_pages(self, driver, server, channel, packed, direction):
        client = driver.connect(server.port, binary=packed)
        names = [f"m{number:02d}" for number in range(25)]
        for first in range(0, 25, 5):
            client.publish(channel, *({"name": name, "data": text(name)} for name in names[first : first + 5]))
        items, pages = client.history(channel, direction=direction, limit=10)
        assert [item["name"] for item in items] == (names if direction == "forwards" else names[::-1])
        assert pages == 3

    @pytest.mark.parametrize(("rewind", "expected"), [("3", 3), ("100", 10), ("60s", 10), ("2m", 10)])
    def test_rewind_begins_with_what_was_before(self, driver, server, channel, packed, rewind, expected):
        names = [f"old{number}" for number in range(10)]
        for name in names:
            publish(server.address, channel, {"name": name, "data": "x"})
        reader = driver.connect(server.port, binary=packed)
        reader.subscribe(channel, params={"rewind": rewind})
        publish(server.address, channel, {"name": "new"})
        assert [message["name"] for message in reader.messages(channel, last="new")] == [*names[-expected:], "new"]

    def test_rewind_counts_messages_and_continues_after_a_cut(self, driver, server, make_proxy, channel, packed):
        publish(server.address, channel, [{"name": f"old{number}"} for number in range(1000)])
        proxy = make_proxy(server)
        reader = driver.connect(proxy.port, binary=packed)
        reader.subscribe(channel, params={"rewind": "2"})
        reader.messages(channel, last="old999")
        proxy.cut()
        _wait_for_next_attach(reader, channel, 1)
        publish(server.address, channel, {"name": "new"})
        got = reader.messages(channel, last="new")
        assert [message["name"] for message in got] == ["old998", "old999", "new"]
        stored = history(server.address, channel)[-3:]
        assert [(message["id"], message["serial"]) for message in got] == [
            (message["id"], message["serial"]) for message in stored
        ]

    def test_rewind_does_not_repeat_when_the_connection_is_cut(self, driver, server, make_proxy, channel, packed):
        publish(server.address, channel, {"name": "old"})
        proxy = make_proxy(server)
        reader = driver.connect(proxy.port, binary=packed)
        reader.subscribe(channel, params={"rewind": "10"})
        reader.messages(channel, last="old")
        proxy.cut()
        _wait_for_next_attach(reader, channel, 1)
        publish(server.address, channel, {"name": "new"})
        assert [message["name"] for message in reader.messages(channel, last="new")] == ["old", "new"]

    # rights

    def test_what_the_token_does_not_permit_fails_alone(self, driver, server, packed):
        rights = {"open:*": ["*"], "read:*": ["subscribe"]}
        client = driver.connect(server.port, binary=packed, token=token(server.address, rights))
        with pytest.raises(SdkError) as refusal:
            client.attach("closed:a")
        assert (refusal.value.code, refusal.value.status) == (40160, 401)
        client.attach("read:a")
        with pytest.raises(SdkError) as refusal:
            client.publish("read:a", {"name": "n"})
        assert refusal.value.code == 40160
        client.subscribe("open:a")
        client.publish("open:a", {"name": "works"})
        assert client.messages("open:a", last="works")
        assert client.connection()["state"] == "connected"

    def test_bad_channel_name_fails_only_the_channel(self, driver, server, channel, packed):
        client = driver.connect(server.port, binary=packed)
        with pytest.raises(SdkError) as refusal:
            client.attach(":hell")
        assert (refusal.value.code, refusal.value.status) == (40010, 400)
        client.attach(channel)

    def test_right_taken_and_restored_costs_no_message(self, driver, server, channel, packed):
        full = {"*": ["*"]}
        with Issuer(server.address, capability=full) as issuer:
            client = driver.connect(server.port, binary=packed, authCallback=issuer.url("request"))
            before = client.connection()["id"]
            client.subscribe(channel)
            publish(server.address, channel, {"name": "1"})
            client.messages(channel, last="1")
            issuer.claims = {"capability": {channel: ["publish"]}}
            client.authorize()
            wait_until(lambda: len(client.attachments(channel)) > 1, what="to be told")
            told = client.attachments(channel)[1]  # a library may attach anew by itself after that
            assert (told["error"]["code"], told["error"]["statusCode"]) == (40160, 401)
            for name in ("2", "3"):
                publish(server.address, channel, {"name": name})
            client.publish(channel, {"name": "own"})
            assert [message["name"] for message in client.messages(channel)] == ["1"]
            issuer.claims = {"capability": full}
            assert client.authorize()["id"] == before
            publish(server.address, channel, {"name": "4"})
            names = [message["name"] for message in client.messages(channel, last="4")]
            assert names == ["1", "2", "3", "own", "4"]

    # continuity

    def test_options_that_change_under_load_lose_and_repeat_nothing(self, driver, server, channel, packed):
        """Each time that they change the channel attaches anew, with what comes all the time on its way."""
        reader = driver.connect(server.port, binary=packed)
        publisher = driver.connect(server.port, binary=not packed)
        reader.subscribe(channel)
        publisher.flood(channel, "p", FLOOD, every=200, pause=30)
        changes = 0
        while len(reader.messages(channel)) < FLOOD:
            changes += 1
            reader.set_options(channel, {"rewind": str(changes)})
        assert changes > 3, "else they were not made under load"
        publishers = [publisher.flooded(channel, "p")]
        report = check(publishers, [reader.log(channel)], marks_of(history(server.address, channel)))
        assert not report.faults, str(report)
        assert len(reader.messages(channel)) == FLOOD
        assert len(reader.attachments(channel)) == 1, "it stayed attached"

    def test_restored_backup_tells_clients_that_saw_more(self, make_server, driver, channel, packed):
        server = make_server()
        reader = driver.connect(server.port, binary=packed)
        reader.subscribe(channel)
        before = reader.connection()
        publish(server.address, channel, {"name": "kept"})
        reader.messages(channel, last="kept")
        backup = server.directory / "backup"
        shutil.copytree(server.data, backup)
        publish(server.address, channel, {"name": "lost"})
        reader.messages(channel, last="lost")
        server.kill()
        shutil.rmtree(server.data)
        backup.rename(server.data)
        server.start()
        _wait_for_next_attach(reader, channel, 1)
        told = reader.attachments(channel)[-1]
        assert not told.get("resumed")
        assert not self.tells_why_a_channel_is_not_resumed or told["error"]["code"] == 90003
        assert reader.connection()["id"] == before["id"], "the backup knows the connection"
        publish(server.address, channel, {"name": "new"})
        assert [message["name"] for message in reader.messages(channel, last="new")] == ["kept", "lost", "new"]
        server.restart()
        _wait_for_next_attach(reader, channel, 2)
        assert reader.attachments(channel)[-1]["resumed"], "a restart is none of that"

    def test_cut_inside_a_frame_is_resumed_without_loss(self, driver, server, make_proxy, channel, packed):
        """Publishes from elsewhere go on all the time; the cuts come at byte counts that lie within frames."""
        proxy = make_proxy(server)
        reader = driver.connect(proxy.port, binary=packed)
        reader.subscribe(channel)
        before = reader.connection()
        elsewhere = driver.connect(server.port, binary=not packed)
        elsewhere.flood(channel, "p", 500, pause=20, every=5)
        for size in (777, 1501):
            connections, attachments = proxy.connections, len(reader.attachments(channel))
            proxy.cut_after(downstream=size)
            _wait_for_next_connection(proxy, connections)
            proxy.cut_after()
            _wait_for_next_attach(reader, channel, attachments)
        publishers = [elsewhere.flooded(channel, "p")]
        log = _whole(reader, channel, 500)
        report = check(publishers, [log], marks_of(history(server.address, channel)))
        assert not report.faults, str(report)
        after = reader.connection()
        assert after["id"] == before["id"] and after["key"] != before["key"]
        assert all(attached["resumed"] for attached in reader.attachments(channel)[1:])

    def test_publishes_around_a_cut_are_stored_once_in_order(self, driver, server, make_proxy, channel, packed):
        proxy = make_proxy(server)
        publisher = driver.connect(proxy.port, binary=packed)
        reader = driver.connect(server.port, binary=not packed)
        reader.subscribe(channel)
        publisher.flood(channel, "p", 400, pause=20, every=5)
        reader.messages(channel, 100)
        connections = proxy.connections
        proxy.cut_after(downstream=401)
        _wait_for_next_connection(proxy, connections)
        proxy.cut_after()
        publishers = [self._answers(publisher.flooded(channel, "p"))]
        log = _whole(reader, channel, 400)
        report = check(publishers, [log], marks_of(history(server.address, channel)))
        self._check_resent(report)
        assert report.stored == report.delivered == 400

    def test_publish_with_lost_ack_gets_its_first_serial(self, driver, server, make_proxy, channel, packed):
        proxy = make_proxy(server)
        publisher = driver.connect(proxy.port, binary=packed)
        publisher.publish(channel, {"name": "before"})
        connections = proxy.connections
        proxy.cut_after(downstream=1)
        publisher.flood(channel, "once", 1)
        _wait_for_next_connection(proxy, connections)
        proxy.cut_after()
        (sent,) = publisher.flooded(channel, "once").sent
        stored = history(server.address, channel)
        assert [message["name"] for message in stored] == ["before", sent.mark]
        assert sent.serial == stored[1]["serial"]

    def test_new_instance_recovers_the_connection_of_a_dead_one(self, driver, server, channel, packed, tmp_path):
        doomed = Driver(self.command, tmp_path / "stderr.log")
        first = doomed.connect(server.port, binary=packed)
        first.subscribe(channel)
        first.publish(channel, {"name": "seen"})
        first.messages(channel, last="seen")
        known = first.connection()
        doomed.kill()
        publish(server.address, channel, {"name": "missed"})
        second = driver.connect(server.port, binary=packed, **self.recovery(known.get("recoveryKey", ""), known["key"]))
        now = second.connection()
        assert now["id"] == known["id"] and now["key"] != known["key"]
        second.subscribe(channel)
        publish(server.address, channel, {"name": "live"})
        names = [message["name"] for message in second.messages(channel, last="live")]
        assert names == (["missed", "live"] if self.recovers_channels else ["live"])
        if self.recovers_channels:  # and with them, how far it had counted
            (further,) = second.publish(channel, {"name": "further"})
        else:  # it counts from 0 again, under the same connection: that number stands for another message
            with pytest.raises(SdkError) as refused:
                second.publish(channel, {"name": "further"})
            assert refused.value.code == 40031
            (further,) = second.publish(channel, {"name": "further"})
        assert history(server.address, channel)[-1]["serial"] == further

    def test_wrong_recovery_key_is_told_and_a_new_connection_works(self, driver, server, channel, packed):
        key = "_____!ablyjs_test_fake-key____"
        recovery = json.dumps({"connectionKey": key, "msgSerial": 3, "channelSerials": {}})
        client = driver.connect(server.port, binary=packed, **self.recovery(recovery, key))
        state = client.connection()
        told = [change["error"]["code"] for change in state["states"] if change["state"] == "connected"]
        assert told == [80018]
        client.subscribe(channel)
        client.publish(channel, {"name": "works"})
        assert client.messages(channel, last="works")

    def test_kill_9_under_load_is_survived(self, make_server, driver, channel, packed):
        """Publisher and reader are both this SDK; the server crashes twice while messages are in flight."""
        server = make_server()
        publisher = driver.connect(server.port, binary=packed)
        reader = driver.connect(server.port, binary=not packed)
        reader.subscribe(channel)
        publisher.flood(channel, "p", 600, pause=20, every=5)
        for seen in (100, 300):
            reader.messages(channel, seen)
            server.restart()
        publishers = [self._answers(publisher.flooded(channel, "p"))]
        log = _whole(reader, channel, 600)
        report = check(publishers, [log], marks_of(history(server.address, channel)))
        self._check_resent(report)
        assert report.stored == report.delivered == 600

    def _answers(self, log: PublisherLog) -> PublisherLog:
        """What can be believed of what the library says its publishes were answered, after a connection was lost."""
        if self.pairs_acks_after_a_cut:
            return log
        return PublisherLog(log.name, [Sent(sent.mark) for sent in log.sent])

    def _check_resent(self, report: Report) -> None:
        """Nothing is wrong; but a library that is known to send again out of order may have stored in that order."""
        allowed = set() if self.resends_in_order else {Kind.PUBLISHER_ORDER}
        assert not report.kinds() - allowed, str(report)


def _whole(reader: Client, channel: str, count: int) -> SubscriberLog:
    """The reader's log, once so many messages are there; if they don't come, the checker says what is missing."""
    with contextlib.suppress(SdkError):
        reader.messages(channel, count)
    return reader.log(channel)


def _wait_for_next_connection(proxy: ChaosProxy, known: int) -> None:
    wait_until(lambda: proxy.connections > known, what="the cut, and the next connection")


def _wait_for_next_attach(client: Client, channel: str, known: int) -> None:
    wait_until(lambda: len(client.attachments(channel)) > known, what="the client to come back")
