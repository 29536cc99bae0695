"""Drives Chromium: a page of one origin uses a server of another, by the browser build of the SDK, and tells of it.

    this process --serves page.html and the SDK--> Chromium --WebSocket, XHR across origins--> server
                 <--------------- what it saw --------

Run it with ``make browser``; it needs Chromium, and the SDK in tests/sdk/node_modules (``npm install`` there). It is no
part of ``make test``, because a browser takes longer to install than all else together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.harness import KEY, Server

HERE = Path(__file__).parent
SDK = HERE.parent / "sdk" / "node_modules" / "ably" / "build" / "ably.js"
SECONDS = 60.0
MESSAGES = [f"m{n}" for n in range(6)]


class Page(BaseHTTPRequestHandler):
    told: dict[str, Any]
    came: threading.Event

    def do_GET(self) -> None:
        file = {"/": HERE / "page.html", "/ably.js": SDK}.get(urlsplit(self.path).path)
        self.send_response(200 if file else 404)
        self.send_header("Content-Type", "text/html" if self.path.startswith("/?") else "text/javascript")
        self.end_headers()
        self.wfile.write(file.read_bytes() if file else b"")

    def do_POST(self) -> None:
        self.told.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()
        self.came.set()

    def log_message(self, *arguments: object) -> None:
        """Nothing: the result is what counts."""


def look(chromium: str, server: Server, directory: Path, *, binary: bool) -> dict[str, Any]:
    """What the page has seen. Raises: TimeoutError."""
    told: dict[str, Any] = {}
    came = threading.Event()
    pages = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Page,), {"told": told, "came": came}))
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    query = {"port": server.port, "key": KEY, "channel": f"page{binary}", "binary": str(binary).lower()}
    url = f"http://localhost:{pages.server_port}/?{urlencode(query)}"
    command = [chromium, "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={directory}", "--remote-debugging-port=0", "--no-proxy-server"]
    command += ["--no-sandbox"] if os.getuid() == 0 else []
    browser = subprocess.Popen([*command, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not came.wait(SECONDS):
            raise TimeoutError(f"the page has told nothing within {SECONDS:g} s")
        return told
    finally:
        browser.terminate()
        browser.wait()
        pages.shutdown()
        pages.server_close()


def main() -> int:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or not SDK.exists():
        print("needs Chromium (or CHROMIUM=<its path>), and `npm install --prefix tests/sdk`", file=sys.stderr)
        return 2
    wanted = {
        "heard": MESSAGES,
        "history": MESSAGES[::-1],
        "pages": 3,
        "status": 1,
        "time": True,
        "byToken": "m5",
    }
    failed = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory, Server(Path(directory)) as server:
        for binary in (False, True):
            told = look(chromium, server, Path(directory) / f"profile{binary}", binary=binary)
            # In browsers the SDK does not look into the body of a msgpack error, and knows its status only.
            good = told == wanted | {"refused": [None if binary else 40101, 401]}
            failed += not good
            print(f"{'msgpack' if binary else 'JSON'}: {'ok' if good else json.dumps(told, indent=2)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
