"""What GET /health says while the journal can't be read, and that nobody is told where on disk it lies."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from engine.errors import JournalCorrupted, JournalUnavailable
from engine.journal.failing import DAMAGED, Failing
from engine.journal.rocks import RocksJournal
from engine.journal.store import RocksStore, StoreError
from server.node.readwatch import DAMAGE_TOLD_MS, HUNG_MS, ReadWatch
from tests.failing_disk import FailingDisk
from tests.harness import Server, channel_path, publish, request, wait_until
from tests.wsclient import Action, WsClient

MakeServer = Callable[..., Server]


def health(server: Server) -> tuple[int, list[str]]:
    status, body, _ = request(server.address, "GET", "/health")
    assert body["status"] == ("ok" if status == 200 else "degraded")
    assert str(server.directory) not in str(body)
    return status, body["reasons"]


def told_of_reads(server: Server) -> bool:
    status, reasons = health(server)
    return status == 503 and any(reason.startswith("stored messages cannot be read") for reason in reasons)


def asked_by_rest(server: Server, channel: str) -> str:
    status, body, _ = request(server.address, "GET", channel_path(channel))
    assert (status, body["error"]["code"]) == (503, 50003)
    return str(body["error"]["message"])


def asked_by_rewind(server: Server, channel: str) -> str:
    with WsClient(server.address) as client:
        client.send({"action": Action.ATTACH, "channel": channel, "params": {"rewind": "10"}})
        return str(client.receive())


@pytest.mark.parametrize("ask", [asked_by_rest, asked_by_rewind])
def test_failing_reads_keep_health_bad_even_if_nobody_asks(
    make_server: MakeServer, tmp_path: Path, channel: str, ask: Callable[[Server, str], str]
) -> None:
    disk = FailingDisk(tmp_path)
    server = make_server(executable=disk.executable)
    publish(server.address, channel, {"data": "x"})
    server.restart()  # what is in memory needs no disk
    assert health(server) == (200, [])
    disk.fail_reads()
    assert str(server.directory) not in ask(server, channel)
    wait_until(lambda: told_of_reads(server), what="the reason")
    failed = disk.failed_reads()
    wait_until(lambda: disk.failed_reads() >= failed + 2, what="two more tries")
    assert told_of_reads(server)
    disk.mend()
    wait_until(lambda: health(server) == (200, []), what="a server that is well")
    assert request(server.address, "GET", channel_path(channel))[0] == 200


def test_hanging_reads_are_refused_until_the_disk_answers(
    make_server: MakeServer, tmp_path: Path, channel: str
) -> None:
    disk = FailingDisk(tmp_path)
    server = make_server(executable=disk.executable)
    serials = publish(server.address, channel, {"data": "x"})["serials"]
    server.restart()  # what is in memory needs no disk
    disk.hang_reads()
    begun = time.monotonic()
    assert "the disk does not answer" in asked_by_rest(server, channel)  # it waited, and waits no longer
    assert time.monotonic() - begun > 1
    assert told_of_reads(server)
    assert "the disk does not answer" in asked_by_rest(server, channel)
    disk.mend()
    wait_until(lambda: health(server) == (200, []), what="a server that is well")
    status, body, _ = request(server.address, "GET", channel_path(channel))
    assert status == 200 and [message["serial"] for message in body] == serials


def test_only_one_read_that_does_not_end_counts_as_hung() -> None:
    failing = Failing()
    watch = ReadWatch(failing)

    async def main() -> None:
        for now_ms in range(0, 10 * HUNG_MS, 1000):  # there is always one under way, never the same for long
            with failing.watched(lambda: None):
                await watch.look(now_ms)
                assert not watch.hung
        with failing.watched(lambda: None):
            await watch.look(0)
            with failing.watched(lambda: None):
                await watch.look(HUNG_MS - 1)
                assert not watch.hung
            await watch.look(HUNG_MS)
            assert watch.hung and watch.reason == "the disk does not answer"
        await watch.look(HUNG_MS + 1)
        assert not watch.hung and watch.reason is None

    trio.run(main)


def test_damage_makes_health_bad_without_naming_channel_or_file(make_server: MakeServer, channel: str) -> None:
    server = make_server()
    publish(server.address, channel, [{"data": "x" * 1000}] * 40)
    server.restart()  # its log becomes tables
    server.kill()
    for table in (server.data / "journal").glob("*.sst"):
        table.write_bytes(table.read_bytes().replace(b"xxxx", b"yxxx"))
    server.start()
    status, body, _ = request(server.address, "GET", channel_path(channel))
    assert (status, body["error"]["code"]) == (500, 50001)
    assert str(server.directory) not in body["error"]["message"]
    assert health(server) == (503, [f"stored messages cannot be read: {DAMAGED}"])


def test_damage_is_reported_until_unseen_for_a_while() -> None:
    failing = Failing()
    watch = ReadWatch(failing)

    def meet() -> None:
        with pytest.raises(JournalCorrupted), failing.watched(lambda: None):
            raise JournalCorrupted("room", "crc")

    async def main() -> None:
        meet()
        for now_ms in (0, DAMAGE_TOLD_MS - 1):
            await watch.look(now_ms)
            assert failing.newest is not None
        meet()
        for now_ms in (DAMAGE_TOLD_MS, 2 * DAMAGE_TOLD_MS - 1):
            await watch.look(now_ms)
            assert failing.newest is not None
        await watch.look(2 * DAMAGE_TOLD_MS)
        assert failing.newest is None

    trio.run(main)


def test_failed_read_extends_and_good_read_does_not() -> None:
    failing = Failing()
    works: list[bool] = []

    def read() -> None:
        if not works:
            raise JournalUnavailable("no disk")

    with pytest.raises(JournalUnavailable), failing.watched(read):
        read()
    failing.try_again()
    assert failing.newest is not None and "no disk" in failing.newest.reason
    works.append(True)
    failing.try_again()
    assert failing.newest is None


def test_what_a_store_says_does_not_name_the_place_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("no directory")
    with pytest.raises(StoreError) as refused:
        RocksStore(tmp_path / "journal")
    assert str(tmp_path) not in str(refused.value) and "journal" in str(refused.value)
    store = RocksStore(tmp_path / "other")
    try:
        with pytest.raises(StoreError) as refused:
            RocksStore(tmp_path / "other")  # it is locked
        assert str(tmp_path) not in str(refused.value) and "other/LOCK" in str(refused.value)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("status", "told"),
    [("IO error: x", JournalUnavailable), ("Corruption: x", JournalCorrupted)],
    ids=["disk", "damage"],
)
def test_errors_among_silent_channels_are_journal_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, told: type[Exception]
) -> None:
    """Anything else would end the server: nobody expects RocksDB's own errors."""

    def fail(*_: object) -> None:
        raise StoreError(status)

    journal = RocksJournal(tmp_path / "journal")
    try:
        monkeypatch.setattr(journal._state.silent, "find", fail)
        for ask in (lambda: journal.last_serial("a:b"), lambda: journal.continuous("a:b", "w", 1)):
            with pytest.raises(told):
                ask()
            assert journal.failing.newest is not None
        monkeypatch.setattr(journal._state.store, "rows", fail)
        with pytest.raises(JournalUnavailable):
            journal.noted(b"a", b"b", limit=1)
    finally:
        monkeypatch.undo()
        journal.close()


def test_unusable_own_file_is_named_only_in_the_log(make_server: MakeServer) -> None:
    server = make_server(arguments=["--dev"])
    apps = server.data / "apps.json"
    apps.write_text("{")
    for method, path in (("POST", "/apps"), ("DELETE", "/apps/app1")):
        status, body, _ = request(server.address, method, path, {})
        assert (status, body["error"]["code"]) == (500, 50000)
        assert str(server.directory) not in str(body)
    assert str(apps) in server.stderr()
