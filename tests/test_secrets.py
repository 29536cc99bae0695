"""Secrets stay where they belong: neither logs nor errors nor process lists repeat what somebody has presented."""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import subprocess
from pathlib import Path

from server.cli import main
from tests.harness import Server, request
from tests.jwts import jwt
from tests.rawclient import Action, GoneError, RawClient, RefusedError


def said_over_http(server: Server, method: str, path: str, headers: dict[str, str], body: object = None) -> str:
    """Everything that comes back: the status line's reason, headers, body."""
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return f"{response.reason} {response.headers} {response.read().decode()}"
    finally:
        connection.close()


def said_over_websocket(server: Server, **params: str) -> str:
    try:
        with RawClient(server.address, greet=False, **params) as client:
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
        with RawClient(server.address, key=good) as client:
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
    assert wrong not in listed


def test_a_key_of_the_environment_or_the_data_directory_is_in_no_process_list(tmp_path, monkeypatch, capsys) -> None:
    """``--key`` is for trying things out; the help says so. What operators use shows nothing."""
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
