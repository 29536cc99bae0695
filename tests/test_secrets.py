"""Secrets stay where they belong: neither logs nor errors nor process lists repeat what somebody has presented."""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import main
from server.conceal import hide_arguments
from tests.harness import Server, request
from tests.jwts import jwt
from tests.peer import all_said_to
from tests.wsclient import Action, GoneError, RefusedError, WsClient


def said_over_http(server: Server, method: str, path: str, headers: dict[str, str], body: object = None) -> str:
    """Everything that comes back: the status line's reason, headers, body."""
    content = b"" if body is None else json.dumps(body).encode()
    usual = {"Host": "x", "Connection": "close", "Content-Type": "application/json", "Content-Length": len(content)}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in {**usual, **headers}.items())]
    return all_said_to(server.address, "\r\n".join([*lines, "", ""]).encode() + content).decode()


def said_over_websocket(server: Server, **params: str) -> str:
    try:
        with WsClient(server.address, greet=False, **params) as client:
            return str(client.receive())
    except (GoneError, RefusedError) as error:
        return str(error)


def test_what_clients_present_is_repeated_nowhere(make_server) -> None:
    secret, wrong = secrets.token_hex(16), secrets.token_hex(16)
    server = make_server(key=f"app1.key1:{secret}")
    good, bad = f"app1.key1:{secret}", f"app1.key1:{wrong}"
    token = request(server.address, "POST", "/keys/app1.key1/requestToken", {"keyName": "app1.key1"}, key=good)[1][
        "token"
    ]
    forged, signed = jwt(key=bad), jwt(key=good)
    broken = token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
    said: list[str] = []
    for credential in (good, bad, f"{good}x", f"{wrong}"):
        basic = "Basic " + base64.b64encode(credential.encode()).decode()
        for method, path, body in (
            ("GET", "/channels/room/messages?limit=0", None),
            ("POST", "/channels/room/messages", {"data": 5}),
            ("POST", "/keys/app1.key1/requestToken", {"keyName": "app1.key1", "capability": "nonsense"}),
            ("POST", "/keys/app1.key1/revokeTokens", {"targets": ["clientId:a"]}),
        ):
            said.append(said_over_http(server, method, path, {"Authorization": basic}, body))
            joint = "&" if "?" in path else "?"
            said.append(said_over_http(server, method, f"{path}{joint}key={credential}", {}, body))
        said.append(said_over_websocket(server, key=credential, v="nonsense"))
        said.append(said_over_websocket(server, key=credential))
    for credential in (token, broken, forged, signed, f"{signed}x"):
        said.append(said_over_http(server, "GET", "/channels/room?x", {"Authorization": f"Bearer {credential}"}))
        said.append(said_over_http(server, "GET", f"/channels/room?access_token={credential}&limit=x", {}))
        said.append(said_over_websocket(server, key=None, access_token=credential, format="nonsense"))
        with WsClient(server.address, key=good) as client:
            client.send({"action": Action.AUTH, "auth": {"accessToken": credential + "x"}})
            said.append(str(client.expect(Action.ERROR, Action.CONNECTED, Action.DISCONNECTED)).replace(credential, ""))
    body = {"keyName": "app1.key1", "timestamp": 1, "nonce": "0123456789abcdef", "mac": wrong}
    said.append(said_over_http(server, "POST", "/keys/app1.key1/requestToken", {}, body))
    presented = (secret, wrong, token, broken, forged, signed)
    for text in said:
        for each in presented:
            assert each not in text.replace(f'"token":"{token}"', ""), text
    listed = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    seen = Path(f"/proc/{server.pid}/environ").read_text() + server.stderr()
    server.stop()
    for each in presented:
        assert each not in seen
        assert each not in listed
    assert f"--key app1.key1:{'*' * 32}" in listed, "the server hides what it was given once it has begun"


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--key", "app1.key1:topsecret", "--key=app2.key2:topsecret", "--ke", "app3.key3:töpsecret"],
        ["bench", "--key", "app1.key1:topsecret"],
    ],
)
def test_key_on_a_command_line_is_overwritten_alone(arguments: list[str]) -> None:
    shown = (
        "import server.cli, server.bench.command, server.app;"
        "look = lambda *given, **named: print(open('/proc/self/cmdline').read(), end='') or 0;"
        "server.app.run = server.bench.command.main = look;"
        "server.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", shown, *arguments], capture_output=True, text=True, check=True)
    hidden = [re.sub("t.psecret", lambda found: "*" * len(found[0].encode()), argument) for argument in arguments]
    assert done.stdout.split("\0") == [sys.executable, "-c", shown, *hidden, ""]


def test_where_arguments_cannot_be_overwritten_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object, **named: object) -> object:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refused)
    hide_arguments(["app1.key1:topsecret"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["app1.key1:topsecret"],
        ["serve", "app1.key1:topsecret"],
        ["serve", "--kex", "app1.key1:topsecret"],
        ["serve", "--kex=app1.key1:topsecret"],
        ["serve", "--dev=app1.key1:topsecret"],
        ["serve", "--durability", "app1.key1:topsecret"],
        ["keys", "create", "app1.key1:topsecret"],
        ["keys", "list", "--key", "app1.key1:topsecret"],
        ["bench", "--rate", "app1.key1:topsecret"],
    ],
)
def test_misplaced_key_on_a_command_line_is_not_repeated(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "topsecret" not in said.out + said.err
    assert "app1.key1:***" in said.err


def test_key_of_environment_or_directory_is_in_no_process_list(tmp_path, monkeypatch, capsys) -> None:
    data = tmp_path / "data"
    assert main(["keys", "create", "--data", str(data)]) == 0
    secret = capsys.readouterr().out.strip().partition(":")[2]
    assert len(secret) == 32
    for arguments in (["keys", "list"], ["keys", "list", "--json"]):
        assert main([*arguments, "--data", str(data)]) == 0
        shown = capsys.readouterr()
        assert secret not in shown.out + shown.err
    assert (data / "apps.json").stat().st_mode & 0o077 == 0, "nobody else may read it"
    assert (data / "secret").stat().st_mode & 0o077 == 0
