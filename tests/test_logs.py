"""What the server tells its operator: one line for each event, as words or as JSON; what clients cause is summed up."""

from __future__ import annotations

import base64
import json
import logging
import secrets
import shlex
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import limits
from engine.auth.authenticator import Authenticator
from engine.auth.keys import Key, Keyring
from engine.auth.tokens import TokenSeal
from engine.limits import REFUSED_KEYS
from engine.settings import Settings, load
from server.announce import differing
from server.http.refusals import MINUTE_MS, Refusals
from server.logs import TEXT, JsonFormatter, TextFormatter, facts
from server.node.disk import LOW_BYTES, DiskWatch
from server.node.heap import machine_bytes
from tests.failing_disk import FailingDisk
from tests.harness import KEY, Server, publish, request, wait_until
from tests.jwts import jwt
from tests.wsclient import RefusedError, WsClient

NAME = KEY.partition(":")[0]


def record(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("unbroken.test", logging.INFO, __file__, 1, message, arguments, more.pop("exc_info", None))
    made.__dict__.update(more)
    return made


def events(server: Server) -> list[dict[str, Any]]:
    """Those of its log, in which every line is an object."""
    lines = [json.loads(line) for line in server.stderr().splitlines()]
    assert all({"ts", "level", "logger", "message"} <= set(line) for line in lines)
    return [line for line in lines if "event" in line]


def of_kind(server: Server, event: str) -> list[dict[str, Any]]:
    return [line for line in events(server) if line["event"] == event]


# the forms


@pytest.mark.parametrize("text", ["two\nlines", "cr\r\nlf", "half \ud83d of a pair", 'quotes " and \\', "\x1b[31m", ""])
def test_an_event_is_one_line_in_either_form_whatever_is_in_it(text: str) -> None:
    shown = TextFormatter(TEXT).format(record("got %s", text))
    assert "INFO unbroken.test: got " in shown
    assert len(shown.splitlines()) == 1
    line = JsonFormatter().format(record("got %s", text))
    assert len(line.splitlines()) == 1
    told = json.loads(line)
    assert told["message"] == "got " + text.encode("utf-8", "backslashreplace").decode()
    assert (told["level"], told["logger"]) == ("info", "unbroken.test")


def test_json_has_the_facts_the_time_and_the_traceback() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        made = record("x", exc_info=sys.exc_info(), created=1_700_000_000.25, **facts("start", path=Path("a"), n=5))
    told = json.loads(JsonFormatter().format(made))
    assert told.pop("exception").endswith("ValueError: why")
    assert told == {
        "ts": "2023-11-14T22:13:20.250Z", "level": "info", "logger": "unbroken.test", "message": "x",
        "event": "start", "path": "a", "n": 5,
    }  # fmt: skip


def test_logged_settings_are_the_changed_ones_without_secrets(tmp_path: Path) -> None:
    memory = machine_bytes() or limits.MEMORY_UNKNOWN
    assert differing(Settings().within(memory)) == {}
    file = tmp_path / "unbroken.toml"
    file.write_text(
        """
        listen = "[::1]:80"
        data = "elsewhere"
        log_format = "json"
        [limits]
        window_seconds = 5
        ring_bytes = 99999999
        connections = 100000
        [limits.key]
        messages_in = 7
        [limits.app]
        connections = "unlimited"
        [namespaces.chat]
        persisted = true
        limits = { messages_in = 9 }
        [[apps]]
        id = "shop"
        limits = { connections = 3 }
        keys = ["shop.a:topsecret", "shop.b:topsecret"]
        """
    )
    assert differing(load(file).within(memory)) == {
        "data": "elsewhere", "log_format": "json", "limits.window_seconds": 5, "limits.ring_bytes": 99999999,
        "limits.key.messages_in": 7, "namespaces.chat.persisted_hours": 24, "namespaces.chat.limits.messages_in": 9,
        "apps.shop.limits.connections": 3, "keys": 2,
    }  # fmt: skip


# refusals


def told(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, int]]:
    found = {each.facts["key"]: each.facts["codes"] for each in caplog.records}  # type: ignore[attr-defined]
    caplog.clear()
    return found


def test_refusals_are_one_line_for_each_key_and_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusals = Refusals(lambda params, authorization: params.get("name"))

    def note(name: str | None, status: int, code: int, times: int = 1) -> None:
        for _ in range(times):
            refusals.note({} if name is None else {"name": name}, None, status, code)

    refusals.tick(0)
    note("a.b", 401, 40101, 5)
    note("a.b", 429, 42910, 2)
    note("a.c", 403, 40300)
    note(None, 401, 40101, 3)
    note("a.b", 404, 40400)
    note("a.b", 500, 50000)
    refusals.tick(1_000)
    refusals.tick(999 + MINUTE_MS)
    assert told(caplog) == {}
    refusals.tick(1_000 + MINUTE_MS)
    assert "refusals for a.b within a minute: 7 (40101: 5, 42910: 2)" in caplog.text
    expected = {"a.b": {"40101": 5, "42910": 2}, "a.c": {"40300": 1}, "no known key": {"40101": 3}}
    assert told(caplog) == expected
    refusals.tick(2_000 + MINUTE_MS)
    note("a.b", 401, 40101)
    refusals.tick(2_001 + MINUTE_MS)
    refusals.tick(2_000 + 2 * MINUTE_MS)
    assert told(caplog) == {}, "the minute begins with the first of them"
    refusals.tell()
    assert told(caplog) == {"a.b": {"40101": 1}}


def test_refusals_of_very_many_keys_are_told_together(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusals = Refusals(lambda params, authorization: params["name"])
    for number in range(10 * REFUSED_KEYS):
        refusals.note({"name": f"a.{number}"}, None, 401, 40101)
    refusals.tell()
    found = told(caplog)
    assert len(found) == REFUSED_KEYS + 1
    assert found["other keys"] == {"40101": 9 * REFUSED_KEYS}


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


SEAL = TokenSeal(bytes(32))
SEALED = SEAL.seal(Key("app1", "key1", "secret"), 0, 1, None, "{}", b"nonce")


@pytest.mark.parametrize(
    ("params", "authorization", "expected"),
    [
        ({}, None, None),
        ({"key": f"{NAME}:wrong"}, None, NAME),
        ({"key": f" {NAME}:wrong\n"}, None, NAME),
        ({"key": NAME}, None, NAME),
        ({"key": "topsecret"}, None, None),
        ({"key": "app1.nokey:topsecret"}, None, None),
        ({}, basic(f"{NAME}:wrong"), NAME),
        ({}, basic("topsecret"), None),
        ({}, "Basic topsecret", None),
        ({}, f"Nonsense {KEY}", None),
        ({"access_token": jwt(ttl=-5)}, None, NAME),
        ({"accessToken": jwt(key=f"{NAME}:wrong")}, None, NAME),
        ({"access_token": jwt(key="app1.nokey:topsecret")}, None, None),
        ({"access_token": jwt(header={"kid": ["app1.key1"]})}, None, None),
        ({"access_token": "a.b.c"}, None, None),
        ({"access_token": SEALED}, None, NAME),  # which has expired
        ({"access_token": SEALED[:-3] + "AAA"}, None, NAME),
        ({"access_token": SEALED[:20]}, None, None),
        ({"access_token": "app1." + "kZGR" * 40_000}, None, None),  # arrays in arrays
        ({"access_token": "app1.topsecret"}, f"Bearer {SEALED}", None),  # what is looked at first counts
        ({}, f"Bearer {SEALED}", NAME),
        ({}, f"  Bearer  {SEALED} ", NAME),
        ({}, f"Bearer {base64.b64encode(SEALED.encode()).decode()}", NAME),
        ({}, f"bearer {jwt()}", NAME),
        ({}, "Bearer topsecret", None),
    ],
)
def test_the_key_that_is_refused_is_one_that_there_is_or_none(
    params: dict[str, str], authorization: str | None, expected: str | None
) -> None:
    authenticator = Authenticator(Keyring([Key("app1", "key1", "secret")]), SEAL)
    assert authenticator.key_named(params, authorization) == expected


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_refusals_are_counted_on_every_way_in(
    make_server: Callable[..., Server], authority: tuple[tuple[str, ...], ssl.SSLContext], tls: bool
) -> None:
    config = 'log_format = "json"\n[[apps]]\nid = "slow"\nkeys = [{ key = "slow.k:s", limits = { messages_in = 1 } }]'
    server = make_server(config=config, arguments=authority[0] if tls else ())
    context = authority[1] if tls else None

    def ask(method: str, path: str, body: Any = None, *, key: str) -> int:
        return request(server.address, method, path, body, key=key, tls=context)[0]

    secret = secrets.token_hex(8)
    assert ask("POST", "/channels/x/messages", {"data": "x"}, key=KEY) == 201
    assert ask("POST", "/channels/x/messages", {"data": "x"}, key=f"{NAME}:{secret}") == 401
    assert ask("GET", "/channels/x/messages", key=f"{NAME}:{secret}") == 401
    assert ask("GET", "/channels/x/messages?envelope=json", key=f"{NAME}:{secret}") == 200
    assert ask("GET", "/channels/x/messages", key=f"{secret}.{secret}:{secret}") == 401
    assert ask("GET", "/nowhere", key=KEY) == 404
    statuses = [ask("POST", "/channels/x/messages", {"data": "x"}, key="slow.k:s") for _ in range(20)]
    late = statuses.count(429)
    assert set(statuses) == {201, 429}
    for key in (f"{NAME}:{secret}", f"app1.{secret}:{secret}"):
        with pytest.raises(RefusedError):
            WsClient(server.address, key=key, tls=context)
    with pytest.raises(RefusedError):
        WsClient(server.address, key=None, access_token=jwt(ttl=-5), tls=context)
    server.stop()
    found = {line["key"]: line["codes"] for line in of_kind(server, "refusals")}
    assert found.pop("slow.k") == {"42910": late}
    assert found == {NAME: {"40101": 4, "40142": 1}, "no known key": {"40101": 2}}
    assert secret not in server.stderr()


# the life of a server


def keys(server: Server, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("unbroken")), "keys", *arguments, "--data", str(server.data)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_start_keys_and_drain_are_told_once_each(make_server: Callable[..., Server]) -> None:
    server = make_server(config='log_format = "json"\n[limits]\nwindow_seconds = 60', arguments=["--dev"])
    made = keys(server, "create", "--app", "shop")
    name = made.partition(":")[0]
    wait_until(lambda: any(line["key"] == name for line in of_kind(server, "key_made")), what="the new key")
    keys(server, "revoke", name)
    wait_until(lambda: bool(of_kind(server, "key_revoked")), what="the end of the key")
    app = request(server.address, "POST", "/apps", {"keys": [{}, {}]})[1]
    names = [key["keyName"] for key in app["keys"]]
    assert request(server.address, "DELETE", f"/apps/{app['appId']}", key=app["keys"][0]["keyStr"])[0] == 204
    last = keys(server, "create", "--app", "last").partition(":")[0]  # once it is known, so is what came before
    wait_until(lambda: any(line["key"] == last for line in of_kind(server, "key_made")), what="the last key")
    with WsClient(server.address):
        server.stop()
    told = [(line["event"], line.get("key")) for line in events(server)]
    assert told == [
        ("start", None), ("key_made", name), ("key_revoked", name), *(("key_made", each) for each in names),
        *(("key_revoked", each) for each in names), ("key_made", last), ("drain_begin", None), ("drain_end", None),
    ]  # fmt: skip
    start, *_, begin, end = events(server)
    assert start["settings"] == {
        "data": str(server.data), "dev": True, "log_format": "json", "limits.window_seconds": 60, "keys": 1,
    }  # fmt: skip
    assert start["url"] == server.url
    assert (begin["clients"], end["left"]) == (1, 0)
    assert all(line["level"] == "info" for line in events(server))
    for secret in (KEY, made, *(key["keyStr"] for key in app["keys"])):
        assert secret.partition(":")[2] not in server.stderr().replace("secrets", "")


def test_a_log_level_hides_what_is_less_and_text_is_for_people(make_server: Callable[..., Server]) -> None:
    quiet, loud = make_server(arguments=["--log-level", "warning"]), make_server(arguments=["--log-level", "debug"])
    for server in (quiet, loud):
        request(server.address, "GET", "/channels/x/messages", key=f"{NAME}:wrong")
        server.stop()
    assert quiet.stderr() == ""
    assert " INFO unbroken: unbroken 0.1.0 started on http://127.0.0.1:" in loud.stderr()
    assert "settings that differ from the defaults: log_level = " in loud.stderr()
    assert ", data = " in loud.stderr()
    assert f" INFO unbroken.refusals: refusals for {NAME} within a minute: 1 (40101: 1)\n" in loud.stderr()


def test_journal_down_and_up_are_logged_once_each(make_server: Callable[..., Server], tmp_path: Path) -> None:
    disk = FailingDisk(tmp_path)
    server = make_server(config='log_format = "json"', executable=disk.executable)
    publish(server.address, "room", {"data": "one"})
    disk.fail()
    with WsClient(server.address) as client:
        client.send_messages("room", [{"data": "two"}])
        wait_until(lambda: request(server.address, "GET", "/health")[0] == 503, what="a journal that is down")
        wait_until(lambda: bool(of_kind(server, "journal_down")), what="a line about it")
        disk.mend()
        wait_until(lambda: request(server.address, "GET", "/health")[0] == 200, what="a journal that is up")
    told = [line["event"] for line in events(server)]
    assert told == ["start", "journal_down", "journal_up"]


def test_disk_low_and_eased_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    usage = [100 << 30, 0, 50 << 30]
    watch = DiskWatch(Path("data"), lambda path: (usage[0], usage[1], usage[2]))
    for free in (
        50 << 30,
        LOW_BYTES,
        LOW_BYTES - 1,
        LOW_BYTES // 2,
        LOW_BYTES + 1,
        LOW_BYTES - 1,
        2 * LOW_BYTES,
        LOW_BYTES,
    ):
        usage[2] = free
        watch.look()
    assert [each.facts["event"] for each in caplog.records] == ["disk_low", "disk_eased"]  # type: ignore[attr-defined]
    assert "the disk is almost full: 1023 MiB are free" in caplog.text
    caplog.clear()
    small = DiskWatch(Path("data"), lambda path: (1 << 30, 0, (1 << 30) // 20))
    small.look()
    assert not small.low, "what is little of a large disk may be much of a small one"


def test_a_server_looks_at_the_disk_of_its_data_directory(make_server: Callable[..., Server], tmp_path: Path) -> None:
    executable = tmp_path / "unbroken-on-a-full-disk"
    program = (
        "import sys; from server.node import disk, upkeep; upkeep.KEEP_SECONDS = 0.1; "
        "disk.DiskWatch.__init__.__defaults__ = (lambda path: (len(list(path.iterdir())) << 40, 0, 5 << 20),); "
        "from server.cli import main; sys.exit(main())"
    )
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(program)} "$@"\n')
    executable.chmod(0o700)
    server = make_server(config='log_format = "json"', executable=executable)
    wait_until(lambda: bool(of_kind(server, "disk_low")), what="a look at the disk")
    assert of_kind(server, "disk_low")[0]["free_bytes"] == 5 << 20
