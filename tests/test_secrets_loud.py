"""A server that says all it can, in words or JSON, is given known secrets in every wrong way: none is ever seen again.

secrets     of keys (environment, file), tokens, JWTs, macs, connection keys, the data directory's own
driven      HTTP and WebSocket: wrong, expired, forged, cut in half, in places where they do not belong
searched    what it printed and logged at level DEBUG, every error's body and headers, its command line"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.harness import Address, request, token, wait_until
from tests.jwts import jwt
from tests.peer import Peer, all_said_to
from tests.test_protocol import until_pong
from tests.wsclient import Action, GoneError, WsClient, unique

KEY = "app1.key1:secret"  # what the helpers of tests use
OTHER = "app2.key2:aSecretOfTheFile17"
HIDDEN = "aSecretOfTheEnvironment42"  # of app3.key3, long enough to be looked for
CONFIG = f"""
[[apps]]
id = "app1"
keys = ["{KEY}"]
[[apps]]
id = "app2"
keys = [{{ key = "{OTHER}", revocable_tokens = true }}]
"""


class Loud:
    """The server, its pid, and where all that it says goes."""

    def __init__(self, directory: Path, form: str) -> None:
        self.directory = directory
        config = directory / "unbroken.toml"
        config.write_text(CONFIG)
        said = (directory / "said").open("ab")
        options = ["serve", "--listen", "127.0.0.1:0", "--data", str(directory / "data"), "--config", str(config)]
        options += ["--log-level", "debug", "--log-format", form]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server.cli", *options],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "UNBROKEN_KEY": f"app3.key3:{HIDDEN}"},
        )
        said.close()
        wait_until(lambda: "ready" in self.said() or self.process.poll() is not None, seconds=30, what="its start")
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.said())
        assert found, self.said()
        self.address: Address = ("127.0.0.1", int(found[1]))

    def said(self) -> str:
        return (self.directory / "said").read_bytes().decode(errors="replace")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(params=["text", "json"])
def loud(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Loud]:
    server = Loud(tmp_path, request.param)
    yield server
    server.stop()
    assert "Traceback" not in server.said(), server.said()


def by_http(address: Address, wrong: list[str], secret: str) -> list[str]:
    """Every answer, with its headers."""
    answers = []

    def ask(method: str, target: str, *headers: str, body: bytes = b"") -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        answers.append(all_said_to(address, "\r\n".join([*lines, "", ""]).encode() + body, ends=True).decode())

    paths = ["/channels/c/messages", "/stats", "/channels", "/keys/app1.key1/requestToken"]
    for given in wrong:
        quoted, coded = urllib.parse.quote(given, safe=""), base64.b64encode(given.encode()).decode()
        for path in paths:
            mark = "&" if "?" in path else "?"
            for word in ("Basic", "Bearer"):
                ask("GET", path, f"Authorization: {word} {coded}")
                ask("POST", path, f"Authorization: {word} {given}", body=b"{}")
            for name in ("key", "access_token", "accessToken"):
                ask("GET", f"{path}{mark}{name}={quoted}")
        ask("GET", f"/nowhere?key={quoted}", f"Authorization: {given}")
        ask("DELETE", f"/channels?access_token={quoted}")
        ask("POST", "/keys/app1.key1/revokeTokens", f"Authorization: Basic {coded}", body=b'{"targets":["a:b"]}')
        ask("POST", "/keys/app1.key1/requestToken", body=orjson.dumps({"keyName": given, "mac": given, "nonce": given}))
        now = int(time.time() * 1000)
        for ttl in (None, given):
            signed = {"timestamp": now, "nonce": f"{given:16}", "mac": given, "ttl": ttl, "clientId": given}
            ask("POST", "/keys/app1.key1/requestToken", body=orjson.dumps(signed))
        ask("POST", "/keys/app1.key1/requestToken", body=b'{"keyName":"app1.key1","mac":"' + given.encode() + b'", }')
        basic = base64.b64encode(KEY.encode()).decode()
        behalf = orjson.dumps({"data": "x", "connectionKey": given})
        ask("POST", "/channels/c/messages", f"Authorization: Basic {basic}", body=behalf)
        ask("GET", "/time", f"Authorization: Basic {coded}", "X-Ably-Version: none")
        ask("GET", f"/?key={quoted}", "Broken header", f"Authorization: Basic {coded}")
        ask("GET", f"/time?{quoted}", f"Authorization: {'x' * 70_000}{given}")
        ask("GE T", f"/?key={quoted}")
        for left in (
            f"POST /?key={quoted} HTTP/1.1\r\nContent-Length: 9\r\n\r\n{secret}"[:-3],
            f"GET /?key={quoted} HTTP/1.1\r\nAuthorization: Basic {coded}\r\n",
        ):
            with Peer(address) as peer:
                peer.send(left.encode())
    return answers


def by_websocket(address: Address, wrong: list[str]) -> list[str]:
    """Every error that was said."""
    heard: list[str] = []

    def listen(client: WsClient) -> None:
        with contextlib.suppress(GoneError):
            for message in until_pong(client):
                if "error" in message:
                    heard.append(str(message))

    for given in wrong:
        for name in ("key", "access_token", "accessToken", "resume", "recover"):
            params: dict[str, Any] = {"key": None} if name in ("access_token", "accessToken") else {}
            client = WsClient(address, greet=False, **{**params, name: given})
            heard.append(str(error) if (error := client.receive().get("error")) else "")
            client.drop()
        with WsClient(address, key=None, access_token=jwt()) as client:
            client.send({"action": Action.AUTH, "auth": {"accessToken": given}})
            listen(client)
        with WsClient(address) as client:
            client.send({"action": Action.AUTH, "auth": given})
            listen(client)
        with WsClient(address) as client:
            client.send_raw('{"action":17,"auth":{"accessToken":"' + given)
            listen(client)
        with WsClient(address) as client, contextlib.suppress(GoneError):
            client.write(b"\xff\xff" + given.encode())  # no frame at all
            listen(client)
    return heard


def test_no_secret_is_ever_seen_again(loud: Loud) -> None:
    address = loud.address
    good, brief = token(address, {"*": ["*"]}), jwt(ttl=-5)
    revoked = jwt(key=OTHER, client_id=unique("c"))
    claims = {
        "targets": [f"clientId:{orjson.loads(base64.b64decode(revoked.split('.')[1] + '=='))['x-ably-clientId']}"]
    }
    assert request(address, "POST", "/keys/app2.key2/revokeTokens", claims, key=OTHER)[0] == 201
    with WsClient(address) as client:
        connection_key = client.connection_key
    wrong = [
        f"app1.key1:{HIDDEN}",  # a right secret with a wrong name
        f"app3.key3:{HIDDEN}x",
        f"app3.key3{HIDDEN}",
        f"app3.nokey:{HIDDEN}",
        HIDDEN,
        good[:-1],
        good[:-4] + "AAAA",
        brief,
        revoked,
        revoked[:-2],
        jwt(key=f"app1.key1:{HIDDEN}"),
        jwt(key=f"nowhere.key1:{HIDDEN}", capability="{"),
        connection_key[:-1] + "x",
    ]
    secrets = {HIDDEN, OTHER.partition(":")[2], good[10:60], good[-60:-5]}
    for credential in wrong[7:11]:  # of a JWT, claims and signature; its header has no secret
        secrets |= {part[: len(part) - 4] for part in credential.split(".")[1:]}
    secrets |= {connection_key[4:-1], *(str(base64.b64encode(one.encode()))[2:-4] for one in wrong)}
    for path in (loud.directory / "data").rglob("*secret*"):
        content = path.read_bytes().strip()
        secrets |= {content.decode(errors="replace"), content.hex(), base64.b64encode(content).decode()}
    assert all(len(one) >= 15 for one in secrets), secrets

    bodies = by_http(address, wrong, HIDDEN)
    spoken = by_websocket(address, wrong)
    assert request(address, "GET", "/time")[0] == 200

    assert sum('"error"' in body for body in bodies) > 300
    assert sum(bool(error) for error in spoken) > 50
    assert " DEBUG unbroken" in loud.said() or '"level":"debug","logger":"unbroken' in loud.said()
    command = Path(f"/proc/{loud.process.pid}/cmdline").read_text()
    assert "serve" in command
    for place, texts in (("log", [loud.said()]), ("HTTP", bodies), ("WebSocket", spoken), ("command line", [command])):
        seen = [text[max(0, text.find(one) - 200) :][:300] for text in texts for one in secrets if one in text]
        assert not seen, f"in {place}: {len(seen)} times, first {seen[0]}"
