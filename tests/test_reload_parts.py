"""What a reload does to keys, namespaces and the certificate, on plain and TLS ports, with clients that stay."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from engine.journal.entries import after
from engine.journal.rocks import RocksJournal
from engine.limits import Limits
from server.apps import AppsFile, new_key, stored_key
from tests.harness import Server, history, publish, wait_until
from tests.journals import floor
from tests.reloads import config_of, refused, reload, said_since
from tests.restclient import RestClient
from tests.wsclient import Action, WsClient

# keys

APPS = """
[[apps]]
id = "app2"
keys = [%s]
"""
ONE, TWO = "app2.one:secret", "app2.two:secret"
FULL = "{ key = '%s' }"
NARROW = "{ key = '%s', capability = { 'room' = ['subscribe'], 'mine' = ['*'] } }"


@pytest.fixture(params=["plain", "TLS"])
def keyed(request, make_server, authority) -> tuple[Server, dict[str, Any]]:
    """A server with the key ONE in its configuration, and how its clients come."""
    arguments, context = authority if request.param == "TLS" else ((), None)
    return make_server(config=APPS % FULL % ONE, arguments=arguments), {"tls": context}


def test_keys_come_and_go_with_their_clients(keyed) -> None:
    server, tls = keyed
    assert refused(lambda: WsClient(server.address, key=TWO, **tls)) == 40101
    with (
        WsClient(server.address, key=ONE, **tls) as gone,
        WsClient(server.address, **tls) as other,
        RestClient(server.address, key=ONE, **tls) as rest,
    ):
        gone.publish("room", {"data": "x"})
        rest.publish("room", {"data": "x"})
        reload(server, APPS % FULL % TWO)
        assert gone.expect(Action.ERROR)["error"]["code"] == 40131
        assert rest.post("room", {"data": "x"}).refusal == (401, 40101)
        other.publish("room", {"data": "x"})
    assert refused(lambda: WsClient(server.address, key=ONE, **tls)) == 40101
    with WsClient(server.address, key=TWO, **tls) as new:
        new.publish("room", {"data": "x"})
        reload(server, APPS % FULL % "app2.two:another")
        assert new.expect(Action.ERROR)["error"]["code"] == 40101
    with WsClient(server.address, key="app2.two:another", **tls) as new:
        reload(server, APPS % "{ key = 'app2.two:another', enabled = false }")
        assert new.expect(Action.ERROR)["error"]["code"] == 40131


def test_key_also_in_the_keys_file_continues_as_that_one(make_server) -> None:
    server = make_server(config="")
    made = new_key("app2")
    with AppsFile(server.data).changing() as apps:
        apps["app2"] = {"keys": [stored_key(made)]}
    reload(server, APPS % FULL % made.text)
    with WsClient(server.address, key=made.text) as client:
        reload(server, "")
        client.publish("room", {"data": "x"})
        assert refused(lambda: WsClient(server.address, key=made.text).close()) == 0


def test_other_capabilities_hold_for_clients_of_the_key_at_once(keyed) -> None:
    server, tls = keyed
    with WsClient(server.address, key=ONE, **tls) as client, RestClient(server.address, key=ONE, **tls) as rest:
        client.attach("room")
        client.publish("room", {"data": "x"})
        rest.publish("room", {"data": "x"})
        reload(server, APPS % NARROW % ONE)
        assert client.expect(Action.ATTACHED, channel="room")["error"]["code"] == 40160
        assert refused(lambda: client.publish("room", {"data": "x"})) == 40160
        assert rest.post("room", {"data": "x"}).refusal == (401, 40160)
        assert refused(lambda: client.attach("other")) == 40160
        client.publish("mine", {"data": "x"})
        reload(server, APPS % FULL % ONE)
        assert client.expect(Action.ATTACHED, channel="room")["flags"]
        client.publish("room", {"data": "x"})
        rest.publish("room", {"data": "x"})
        client.attach("other")


# namespaces

BASE = "[limits]\nwindow_seconds = 3\n"


def test_namespace_is_persisted_from_then_on_even_in_use(make_server) -> None:
    server = make_server(config=BASE)
    with WsClient(server.address) as reader:
        for room in ("chat:1", "other:1"):
            reader.attach(room)
            publish(server.address, room, {"name": "before"})
        assert "reloaded: namespaces" in reload(server, BASE + "[namespaces.chat]\npersisted = true\n")
        for room in ("chat:1", "other:1", "chat:2"):
            publish(server.address, room, {"name": "since"})
        wait_until(lambda: not history(server.address, "other:1"), what="the window to pass")
        assert "since" in [message["name"] for message in history(server.address, "chat:1")]
        assert [message["name"] for message in history(server.address, "chat:2")] == ["since"]
    server.restart()
    assert "since" in [message["name"] for message in history(server.address, "chat:1")]
    said = reload(server, BASE)
    assert "reloaded: namespaces" in said and "until a restart" not in said
    publish(server.address, "chat:1", {"name": "last"})
    wait_until(lambda: not history(server.address, "chat:1"), what="the window to pass")


def test_journal_doubts_entries_before_a_class_change_once(make_server) -> None:
    """By floors alone, for what was dropped of a channel's old class is not in that of its new one."""
    server = make_server(config="")
    publish(server.address, "chat:1", {"name": "before"})
    reload(server, "[namespaces.chat]\npersisted = true\n")
    reload(server)  # by then the first one is all over
    publish(server.address, "chat:1", {"name": "since"})
    assert server.stop() == 0
    journal = RocksJournal(server.data / "journal", window_ms=Limits().held_ms, layout="chat=24")
    before, since = (each.serial for each in after(journal, "app1:chat:1", 0, limit=9, budget=999))
    assert before <= floor(journal, "p24") < since, "raised by the reload, and not again by this start"
    journal.close()


@pytest.mark.parametrize("more", ["[limits.channel]\n%s\n", "[namespaces.chat]\nlimits = { %s }\n"])
def test_channels_that_are_in_use_have_other_limits(make_server, more: str) -> None:
    server = make_server(config="")
    room, other_room = "chat:room", "other:room"
    with WsClient(server.address) as reader, WsClient(server.address) as live:
        reader.attach(room)
        for each in (room, other_room):
            live.publish(each, {"data": "x" * 50})
        reload(server, more % "max_message_size = 10")
        assert refused(lambda: live.publish(room, {"data": "x" * 50})) == 40009
        assert refused(lambda: live.publish(other_room, {"data": "x" * 50})) == (40009 if "channel" in more else 0)
        reload(server, more % "messages_out = 1")
        live.publish(room, *[{"data": "many"}] * 60)  # a minute's worth, in one
        live.publish(room, {"data": "late"})
        assert reader.deliveries(room, 61)[-1]["data"] == "many"
        with pytest.raises(TimeoutError):
            reader.deliveries(room, 1, seconds=1.0)
        reload(server, more % "messages_in = 1")
        assert reader.deliveries(room, 1)[0]["data"] == "late"
        live.publish(room, *[{"data": "many"}] * 60)
        assert refused(lambda: live.publish(room, {"data": "x"})) == 42913
        reload(server, "")
        for _ in range(4):
            live.publish(room, {"data": "last"})
        while reader.deliveries(room, 1)[0]["data"] != "last":
            pass


def test_durability_in_use_waits_for_a_restart(make_server) -> None:
    server = make_server(config="")
    publish(server.address, "chat:1", {"name": "kept"})
    said = reload(server, "[namespaces.chat]\ndurability = 'memory'\n[namespaces.new]\ndurability = 'memory'\n")
    assert "namespaces.chat: stays as it was until a restart: some of its channels are in memory" in said
    assert "namespaces.new" not in said and "reloaded: namespaces" in said
    publish(server.address, "chat:1", {"name": "kept, too"})
    publish(server.address, "new:1", {"name": "not kept"})
    server.kill()
    config_of(server).write_text("")
    server.start()
    assert [message["name"] for message in history(server.address, "chat:1")] == ["kept", "kept, too"]
    assert not history(server.address, "new:1")


# the certificate


@pytest.fixture
def certificates(tmp_path) -> tuple[trustme.CA, Path, Path]:
    """An authority, and where a server's certificate and key are to be."""
    return trustme.CA(), tmp_path / "cert.pem", tmp_path / "key.pem"


def issue(root: trustme.CA, cert: Path | None, key: Path | None, **options: Any) -> bytes:
    """A new certificate, written where it is asked for; as DER."""
    made = root.issue_cert("127.0.0.1", **options)
    for path, blob in ((cert, made.cert_chain_pems[0]), (key, made.private_key_pem)):
        if path is not None:
            new = path.with_suffix(".new")
            blob.write_to_path(new)
            new.replace(path)
    return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())


def shown(server: Server) -> bytes:
    """The certificate that a new connection is shown."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(server.address, timeout=20))


@pytest.mark.parametrize("asked", [True, False], ids=["SIGHUP", "files"])
def test_new_handshakes_use_the_new_certificate(make_server, certificates, asked: bool) -> None:
    root, cert, key = certificates
    client = trusting(root)
    first = issue(root, cert, key)
    server = make_server(arguments=["--tls-cert", str(cert), "--tls-key", str(key)], config="")
    assert shown(server) == first
    with WsClient(server.address, tls=client) as before:
        before.attach("room")
        second = issue(root, cert, key)
        if asked:
            reload(server)
        wait_until(lambda: shown(server) == second, what="the new certificate")
        with WsClient(server.address, tls=client) as after:
            after.publish("room", {"data": "x"})
        assert before.deliveries("room", 1)


@pytest.mark.parametrize("asked", [True, False], ids=["SIGHUP", "files"])
def test_a_certificate_that_cannot_be_used_changes_nothing(make_server, certificates, asked: bool) -> None:
    root, cert, key = certificates
    first = issue(root, cert, key)
    server = make_server(arguments=["--tls-cert", str(cert), "--tls-key", str(key)], config="")
    before = len(server.stderr())
    issue(root, cert, None)
    if asked:
        config_of(server).write_text("[limits]\nmessages_per_publish = 2\n")
        assert "nothing has changed: tls_key: " in reload(server)
        with WsClient(server.address, tls=trusting(root)) as client:
            client.publish("room", *[{"data": "x"}] * 3)
    said = said_since(server, before, "was not reloaded: tls_key: ")
    assert "is not the key of the certificate" in said
    assert shown(server) == first
    second = issue(root, cert, key)
    wait_until(lambda: shown(server) == second, what="the new certificate")


def trusting(root: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    root.configure_trust(context)
    return context
