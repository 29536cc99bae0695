"""The promises, one by one, against a real server: what is acknowledged, what is refused, and what it costs."""

from __future__ import annotations

import resource
import threading
import time

import pytest

from tests.checker import Outcome, PublisherLog, Sent, Stored, check, subscriber_log
from tests.harness import history, request, rss, wait_until
from tests.wsclient import WsClient

MIB = 1 << 20
SHORT = "[limits]\nwindow_seconds = 1\nconnection_state_seconds = 1\nmax_idle_interval_ms = 1000\n"


def test_concurrent_publishes_with_equal_ids_store_each_once(server, channel):
    """Promise 3, while the first one is still being written."""
    clients = [WsClient(server.address) for _ in range(20)]
    start, told = threading.Barrier(len(clients)), []

    def publish(client):
        start.wait()
        for n in range(50):
            client.pour(channel, "the same", id=f"shared-{n}")
        told.append(client.acked(50))

    threads = [threading.Thread(target=publish, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.socket.close()
    stored = history(server.address, channel)
    assert sorted(message["id"] for message in stored) == sorted(f"shared-{n}" for n in range(50))
    assert len(told) == 20
    assert all(serials == told[0] for serials in told)
    assert sorted(told[0]) == [message["serial"] for message in stored]


def test_an_id_stays_used_across_a_crash(make_server, channel):
    server = make_server()
    with WsClient(server.address) as client:
        client.pour(channel, "first", id="only-once")
        [serial] = client.acked(1)
    server.kill()
    server.start()
    with WsClient(server.address) as client:
        client.pour(channel, "first", id="only-once")
        assert client.acked(1) == [serial]
    assert [message["data"] for message in history(server.address, channel)] == ["first"]


def test_the_window_of_ids_ends(make_server, channel):
    server = make_server(config=SHORT)
    with WsClient(server.address) as client:
        client.pour(channel, "first", id="x")
        first = client.acked(1)

        def forgotten():
            client.pour(channel, "first", id="x")
            return client.acked(1) != first

        wait_until(forgotten, seconds=30, what="the end of the window")


def limited(megabytes):
    """For the child, before it becomes the server: no file may grow beyond this."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes * MIB, megabytes * MIB))

    return limit


def test_disk_refusals_are_told_and_the_rest_survives_a_crash(make_server, channel):
    """Promise 2: no log file may grow beyond 3 MB, so appends fail again and again, and the journal is reopened.

    What was acknowledged is stored, what was refused is not, readers see exactly the former, and nobody is thrown out.
    """
    server = make_server(before_exec=limited(3))
    sent = []
    with WsClient(server.address) as publisher, WsClient(server.address) as reader:
        heard = [reader.attach(channel)]
        for n in range(400):
            mark = str(n).ljust(30_000, ".")
            publisher.pour(channel, mark)
            answer = publisher.skip_to(1, 2)
            if answer["action"] == 2:
                assert (answer["error"]["code"], answer["error"]["statusCode"]) == (50003, 503)
                sent.append(Sent(mark, Outcome.NACKED))
            else:
                sent.append(Sent(mark, Outcome.ACKED, answer["res"][0]["serials"][0]))
        assert any(one.outcome is Outcome.NACKED for one in sent)
        heard += [reader.skip_to(15) for one in sent if one.outcome is Outcome.ACKED]
        reader.send({"action": 0, "id": "alive"})
        assert reader.skip_to(0)["id"] == "alive"
    server.kill()
    server.before_exec = None
    server.start()
    stored = [Stored(message["data"], message["serial"]) for message in history(server.address, channel)]
    report = check([PublisherLog("publisher", sent, all_answered=True)], [subscriber_log("reader", heard)], stored)
    assert not report.faults, str(report)
    assert report.stored == report.acked
    with WsClient(server.address) as publisher:
        publisher.publish(channel, {"data": "again"})


@pytest.mark.load
def test_thousand_absent_clients_cost_only_their_channels_log(make_server):
    """Promise 7, at a tenth of a real case: 1,000 clients away, 5 messages of 10 kB a second on each shared channel.

    The window is shortened to 20 s, so that the logs stop growing. Clients that are away cost what clients cost that
    have been there and have said goodbye: the logs.
    """
    config = "[limits]\nwindow_seconds = 20\nconnection_state_seconds = 60\n"
    channels, clients = 10, 1000

    def grown(*, away):
        server = make_server(config=config)
        with WsClient(server.address) as publisher:
            publisher.publish("warm", {"data": "up"})
            before = rss(server.pid)
            for n in range(clients):
                with WsClient(server.address) as client:
                    client.attach(f"shared-{n % channels}")
                    if not away:
                        client.send({"action": 7})
                        client.skip_to(8)
            for turn in range(20 * 5):  # the window's worth, as fast as it goes
                for n in range(channels):
                    publisher.pour(f"shared-{n}", str(turn).ljust(10_000, "."))
                publisher.acked(channels)
        result = rss(server.pid) - before
        server.stop()
        return result

    gone, away = grown(away=False), grown(away=True)
    assert away - gone < 6 * MIB, (gone >> 20, away >> 20)  # 50 MB if they had queues


def test_clients_that_were_away_get_exactly_what_they_missed(server, channel):
    with WsClient(server.address) as publisher:
        places = []
        for n in range(20):
            with WsClient(server.address) as client:
                places.append(client.attach(channel)["channelSerial"])
            publisher.publish(channel, {"data": str(n)})
        for n, place in enumerate(places):
            with WsClient(server.address) as client:
                assert client.attach(channel, channelSerial=place)["flags"] & 4
                missed = [client.skip_to(15)["messages"][0]["data"] for _ in range(20 - n)]
                assert missed == [str(m) for m in range(n, 20)]


def test_beyond_the_window_a_client_is_told_of_lost_continuity(make_server, channel):
    """Promise 5: never a silent gap."""
    server = make_server(config=SHORT)
    with WsClient(server.address) as client:
        place = client.attach(channel)["channelSerial"]
    with WsClient(server.address) as publisher:
        publisher.publish(channel, {"data": "missed"})

        def told():
            with WsClient(server.address) as client:
                attached = client.attach(channel, channelSerial=place)
                if attached["flags"] & 4:
                    assert client.skip_to(15)["messages"][0]["data"] == "missed"
                    return False
                assert attached["error"]["code"] == 90003
                return True

        wait_until(told, seconds=40, what="the end of the window")


def test_it_is_ready_soon_and_says_that_it_is_well(make_server):
    begun = time.monotonic()
    server = make_server()
    assert time.monotonic() - begun < 10
    status, health, _ = request(server.address, "GET", "/health")
    assert (status, health["status"]) == (200, "ok")
