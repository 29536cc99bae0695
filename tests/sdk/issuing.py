"""An application's own server, as far as SDKs ask it for credentials: it holds the key, and they do not.

    with Issuer(address) as issuer:
        issuer.url("jwt")                         for authUrl and authCallback
        issuer.claims = {"client_id": "alice"}    of what it gives out from now on
        issuer.given                              how often it was asked

Forms: jwt, embedded (a JWT around a token), token (its text), details (TokenDetails), request (signed)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.harness import KEY, Address, request
from tests.jwts import jwt


class Issuer:
    """Gives out credentials of ``ttl`` seconds to whoever asks, for one key of one server."""

    def __init__(self, server: Address, *, key: str = KEY, ttl: float = 60, **claims: Any) -> None:
        self.claims = claims  # client_id, capability (a map)
        self.ttl = ttl
        self.given = 0
        self._server, self._key = server, key
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, body = issuer.make(self.path.partition("?")[0].strip("/"))
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: what matters is counted."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def url(self, form: str) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/{form}"

    def make(self, form: str) -> tuple[str, bytes]:
        """Content-Type and body."""
        self.given += 1
        if form == "jwt":
            now = time.time()  # issued in whole seconds, as the common libraries have it
            return "application/jwt", jwt(key=self._key, iat=int(now), exp=now + self.ttl, **self.claims).encode()
        if form == "embedded":
            inner = self._details()
            times = {"iat": inner["issued"] / 1000, "exp": inner["expires"] / 1000}
            return "application/jwt", jwt(key=self._key, token=inner["token"], **times).encode()
        if form == "request":
            return "application/json", json.dumps(self._request()).encode()
        if form == "details":
            return "application/json", json.dumps(self._details()).encode()
        return "text/plain", self._details()["token"].encode()

    def _request(self) -> dict[str, Any]:
        name, _, secret = self._key.partition(":")
        capability = self.claims.get("capability")
        made: dict[str, Any] = {
            "keyName": name,
            "ttl": int(self.ttl * 1000),
            "capability": None if capability is None else json.dumps(capability),
            "clientId": self.claims.get("client_id"),
            "timestamp": int(time.time() * 1000),
            "nonce": secrets.token_hex(16),
        }
        text = "".join(f"{'' if value is None else value}\n" for value in made.values())
        mac = hmac.digest(secret.encode(), text.encode(), hashlib.sha256)
        filled = {field: value for field, value in made.items() if value is not None}
        return {**filled, "mac": base64.b64encode(mac).decode()}

    def _details(self) -> dict[str, Any]:
        asked = self._request()
        path = f"/keys/{asked['keyName']}/requestToken"
        status, details, _ = request(self._server, "POST", path, asked, headers={"Authorization": ""})
        assert status == 200, details
        return dict(details)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
