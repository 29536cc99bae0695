"""What ``unbroken keys`` promises: keys made, listed, revoked, shown, beside a running server too; secrets once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.apps import AppsFile
from server.cli import main
from tests import harness
from tests.harness import Server, request, wait_until
from tests.jwts import jwt
from tests.test_protocol import ended_with, refusal
from tests.wsclient import Action, WsClient

KEY = re.compile(r"([0-9a-z]+\.[0-9a-f]{6}):([0-9a-f]{32})\n")

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def keys(data: Path, *arguments: str) -> int:
    return main(["keys", *arguments, "--data", str(data)])


def create(data: Path, printed: Printed, *arguments: str) -> tuple[str, str]:
    """Name and secret."""
    assert keys(data, "create", *arguments) == 0
    said = printed.readouterr()
    match = KEY.fullmatch(said.out)
    assert match is not None, said.out
    assert match[2] not in said.err
    return match[1], match[2]


def listed(data: Path, printed: Printed, *arguments: str) -> list[dict[str, Any]]:
    assert keys(data, "list", "--json", *arguments) == 0
    return list(json.loads(printed.readouterr().out))


def complaint(printed: Printed) -> str:
    said = printed.readouterr()
    assert said.out == ""
    assert said.err.startswith("unbroken: ") and said.err.count("\n") == 1, said.err
    return said.err


def test_key_is_created_and_its_secret_shown_once(data: Path, capsys: Printed) -> None:
    first, secret = create(data, capsys)
    second, _ = create(data, capsys, "--capability", '{"a:*":["publish"]}', "--revocable-tokens")
    assert first.partition(".")[0] == second.partition(".")[0]
    found = {key["name"]: key for key in listed(data, capsys)}
    assert found[first] == {
        "name": first, "enabled": True, "revocableTokens": False, "capability": {"*": ["*"]}, "limits": {},
            "configured": False,
    }  # fmt: skip
    assert (found[second]["capability"], found[second]["revocableTokens"]) == ({"a:*": ["publish"]}, True)
    shown = [["show", first, "--sdk", sdk] for sdk in ("js", "python", "curl")]
    for arguments in (["list"], ["list", "--json"], *shown):
        assert keys(data, *arguments) == 0
        said = capsys.readouterr()
        assert first in said.out and secret not in said.out + said.err


def test_with_several_apps_one_has_to_be_named(data: Path, capsys: Printed) -> None:
    for app in ("one", "two"):
        assert create(data, capsys, "--app", app)[0].startswith(app + ".")
    assert keys(data, "create") == 1
    assert "one, two" in complaint(capsys)
    assert keys(data, "create", "--app", "not.an.app") == 1
    assert "--app" in complaint(capsys)


def test_what_is_no_capability_makes_no_key(data: Path, capsys: Printed) -> None:
    assert keys(data, "create", "--capability", '{"a":["fly"]}') == 1
    assert "'fly'" in complaint(capsys)
    assert not data.exists()


def test_a_revoked_key_stays_in_the_list_and_is_not_shown(data: Path, capsys: Printed) -> None:
    gone, stays = (create(data, capsys)[0] for _ in range(2))
    for _ in range(2):  # a second time changes nothing
        assert keys(data, "revoke", gone) == 0
    capsys.readouterr()
    assert {key["name"]: key["enabled"] for key in listed(data, capsys)} == {gone: False, stays: True}
    assert keys(data, "list") == 0
    assert re.search(rf"{re.escape(gone)} +revoked", capsys.readouterr().out)
    assert keys(data, "show", gone) == 1
    assert "revoked" in complaint(capsys)


@pytest.mark.parametrize("action", ["revoke", "show"])
def test_invalid_name_is_refused_without_repeating_a_secret(data: Path, capsys: Printed, action: str) -> None:
    assert keys(data, action, "a.b") == 1
    assert "is not a directory" in complaint(capsys)
    create(data, capsys)
    assert keys(data, action, "a.b") == 1
    assert "unknown key" in complaint(capsys)
    assert keys(data, action, "a.b:topsecret") == 1
    assert "topsecret" not in complaint(capsys)


def test_keys_of_the_configuration_are_listed_and_left_to_it(data: Path, tmp_path: Path, capsys: Printed) -> None:
    config = tmp_path / "unbroken.toml"
    config.write_text(f'data = "{data}"\n[[apps]]\nid = "conf"\nkeys = ["conf.k:topsecret"]\n')
    assert main(["keys", "create", "--config", str(config)]) == 0
    made = capsys.readouterr().out.partition(":")[0]
    assert made.startswith("conf.")
    found = {key["name"]: key["configured"] for key in listed(data, capsys, "--config", str(config))}
    assert found == {"conf.k": True, made: False}
    with AppsFile(data).changing() as apps:
        apps["conf"]["keys"].append({**apps["conf"]["keys"][0], "id": "k", "enabled": False})
    found = {key["name"]: key["enabled"] for key in listed(data, capsys, "--config", str(config))}
    assert found == {"conf.k": True, made: True}, "what the configuration says of it counts"
    assert keys(data, "revoke", "conf.k", "--config", str(config)) == 1
    said = complaint(capsys)
    assert "enabled = false" in said and "topsecret" not in said


def test_snippet_names_the_server_and_a_permitted_channel(data: Path, capsys: Printed) -> None:
    name, _ = create(data, capsys, "--capability", '{"[meta]log":["*"],"it\'s/1":["*"]}')
    shown = {}
    for sdk in ("js", "python", "curl"):
        assert keys(data, "show", name, "--sdk", sdk, "--url", "https://rt.example.com") == 0
        shown[sdk] = capsys.readouterr().out
    assert "endpoint: 'rt.example.com', port: 443, tlsPort: 443, tls: true" in shown["js"]
    assert "channels.get('it\\'s/1')" in shown["js"]
    assert 'endpoint="rt.example.com:443/"' in shown["python"] and "tls=True" in shown["python"]
    assert "https://rt.example.com:443/channels/it%27s%2F1/messages" in shown["curl"]
    compile(shown["python"], "snippet", "exec")
    for url in ("rt.example.com", "ftp://x", "http://x:99999", "http://"):
        assert keys(data, "show", name, "--url", url) == 1
        assert "--url" in complaint(capsys)


def test_damaged_apps_are_left_alone(data: Path, capsys: Printed) -> None:
    name, _ = create(data, capsys)
    (data / "apps.json").write_bytes(b"{")
    for arguments in (["create"], ["list"], ["revoke", name], ["show", name]):
        assert keys(data, *arguments) == 1
        assert "apps.json" in complaint(capsys)
    assert (data / "apps.json").read_bytes() == b"{"


# beside a running server


def cli(server: Server, *arguments: str) -> str:
    """What a process of its own prints."""
    command = [str(Path(sys.executable).with_name("unbroken")), "keys", *arguments, "--data", str(server.data)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def status(server: Server, key: str) -> tuple[int, int]:
    found, body, _ = request(server.address, "GET", "/channels/x/messages", key=key)
    return found, 0 if found == 200 else body["error"]["code"]


def test_running_server_accepts_new_and_ends_revoked_keys(make_server: Any) -> None:
    server = make_server(arguments=["--dev"])
    key, other = cli(server, "create", "--app", "app2"), cli(server, "create", "--app", "app2")
    name = key.partition(":")[0]
    wait_until(lambda: status(server, key) == status(server, other) == (200, 0), what="the new keys")
    code, details, _ = request(server.address, "POST", f"/keys/{name}/requestToken", {}, key=key)
    assert code == 200, details
    token, signed = details["token"], jwt(key=key)
    with (
        WsClient(server.address, key=key) as by_key,
        WsClient(server.address, key=None, access_token=token) as by_token,
        WsClient(server.address, key=None, access_token=signed) as by_jwt,
        WsClient(server.address, key=other) as bystander,
    ):
        cli(server, "revoke", name)
        for client in (by_key, by_token, by_jwt):
            error = ended_with(client, Action.ERROR)["error"]
            assert (error["code"], error["statusCode"]) == (40131, 401)
        bystander.publish("x", {"data": "y"})
    for _ in range(2):
        assert status(server, key) == (401, 40131)
        assert status(server, other) == (200, 0)
        for refused in ({"key": key}, {"key": None, "access_token": token}, {"key": None, "access_token": signed}):
            assert refusal(server.address, **refused) == (40131, 401)
        server.restart()
    assert key.partition(":")[2] not in server.stderr()


@pytest.mark.parametrize("which", ["inner", "outer"])
def test_a_token_in_a_jwt_of_another_key_ends_with_either_key(make_server: Any, which: str) -> None:
    server = make_server()
    keys = {name: cli(server, "create", "--app", "app2") for name in ("inner", "outer")}
    wait_until(lambda: all(status(server, key) == (200, 0) for key in keys.values()), what="the new keys")
    name = keys["inner"].partition(":")[0]
    inner = request(server.address, "POST", f"/keys/{name}/requestToken", {}, key=keys["inner"])[1]["token"]
    credentials: dict[str, Any] = {"key": None, "access_token": jwt(key=keys["outer"], token=inner)}
    with WsClient(server.address, **credentials) as client:
        cli(server, "revoke", keys[which].partition(":")[0])
        assert ended_with(client, Action.ERROR)["error"]["code"] == 40131
    assert refusal(server.address, **credentials) == (40131, 401)


def test_file_damaged_at_run_time_changes_nothing(make_server: Any) -> None:
    server = make_server()
    key = cli(server, "create", "--app", "app2")
    wait_until(lambda: status(server, key) == (200, 0), what="the new key")
    file = server.data / "apps.json"
    whole = file.read_bytes()
    file.write_bytes(b'{"app2": {"keys": [')
    wait_until(lambda: "the keys were not reloaded" in server.stderr(), what="a complaint in the log")
    assert status(server, key) == (200, 0)
    with WsClient(server.address, key=key) as client:
        file.write_bytes(whole.replace(b'"enabled": true', b'"enabled": false'))
        assert ended_with(client, Action.ERROR)["error"]["code"] == 40131


def test_apps_file_lost_at_run_time_changes_nothing_with_a_copy(make_server: Any) -> None:
    server = make_server()
    key = cli(server, "create", "--app", "app2")
    wait_until(lambda: status(server, key) == (200, 0), what="the new key")
    (server.data / "apps.json").unlink()
    wait_until(lambda: "the keys were not reloaded" in server.stderr(), what="a complaint in the log")
    assert status(server, key) == (200, 0)
    assert "apps.json: is missing, although apps.json.copy beside it lists" in server.stderr()


def test_removed_key_ends_and_a_configured_one_takes_precedence(
    make_server: Any,
) -> None:
    server = make_server()
    mine, gone = (cli(server, "create", "--app", "app2") for _ in range(2))
    wait_until(lambda: status(server, gone) == (200, 0), what="the new keys")
    app_id, _, key_id = harness.KEY.partition(":")[0].partition(".")
    taken, name = f"{app_id}.{key_id}:another", gone.partition(":")[0]
    with WsClient(server.address, key=gone) as client, WsClient(server.address) as bystander:
        with AppsFile(server.data).changing() as apps:
            keys = apps["app2"]["keys"]
            keys[:] = [key for key in keys if f"app2.{key['id']}" != name]
            apps[app_id] = {"keys": [{**keys[0], "id": key_id, "secret": "another", "enabled": False}]}
        assert ended_with(client, Action.ERROR)["error"]["code"] == 40131
        bystander.publish("x", {"data": "y"})
    for _ in range(2):
        assert [status(server, key) for key in (gone, taken)] == [(401, 40101)] * 2
        assert [status(server, key) for key in (mine, harness.KEY)] == [(200, 0)] * 2
        server.restart()


def test_key_with_another_secret_ends_its_clients(make_server: Any) -> None:
    """As an operator does it who fears that somebody else has the old one."""
    server = make_server()
    key, other = cli(server, "create", "--app", "app2"), cli(server, "create", "--app", "app2")
    wait_until(lambda: status(server, key) == status(server, other) == (200, 0), what="the new keys")
    token = request(server.address, "POST", f"/keys/{key.partition(':')[0]}/requestToken", {}, key=key)[1]["token"]
    file, (name, _, secret) = server.data / "apps.json", key.partition(":")
    with (
        WsClient(server.address, key=key) as by_key,
        WsClient(server.address, key=None, access_token=token) as by_token,
        WsClient(server.address, key=None, access_token=jwt(key=key)) as by_jwt,
        WsClient(server.address, key=other) as bystander,
    ):
        file.write_bytes(file.read_bytes().replace(secret.encode(), b"another"))
        for client in (by_key, by_token, by_jwt):
            error = ended_with(client, Action.ERROR)["error"]
            assert (error["code"], error["statusCode"]) == (40101, 401)
        bystander.publish("x", {"data": "y"})
        with WsClient(server.address, key=f"{name}:another") as anew:
            anew.publish("x", {"data": "y"})
    assert refusal(server.address, key=key) == refusal(server.address, key=None, access_token=token) == (40101, 401)


def test_provisioning_and_command_keep_each_others_apps(make_server: Any) -> None:
    server = make_server(arguments=["--dev"])
    made = []
    for number in range(4):
        code, app, _ = request(server.address, "POST", "/apps", {})
        assert code == 201
        made.append(app["keys"][0]["keyStr"])
        made.append(cli(server, "create", "--app", f"cli{number}"))
    assert len(AppsFile(server.data).read()) == 8
    wait_until(lambda: all(status(server, key) == (200, 0) for key in made), what="all keys")
    assert request(server.address, "DELETE", f"/apps/{made[0].partition('.')[0]}", key=made[0])[0] == 204
    assert status(server, made[0]) == (401, 40101)
    assert all(status(server, key) == (200, 0) for key in made[1:])
