"""``unbroken keys``: creates, lists, revokes and shows the keys of a data directory, even while a server uses it.

    create    prints the whole key, only this once; the secret is generated, and comes from no command line
    list      names, states, capabilities
    revoke    ends a key and all tokens made with it; a running server notices within a second
    show      sample code that uses the key, and takes the secret from the environment

Secrets are printed by ``create`` alone. A key's name is appId.keyId."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

from engine.auth.capability import FULL_TEXT, Capability
from engine.auth.keys import Key, is_app_id
from engine.checked import Wrong, checked
from engine.errors import PubSubError, StartupFailed
from engine.quota import KeyLimits, OwnLimits, Quota
from engine.settings import Settings, load
from server.apps import AppsFile, keys_of, limits_of, new_key, stored_key
from server.datadir import DataDirectory

EXAMPLES = """\
examples:
  unbroken keys create
      creates a key of full capability, and an app if there is none
  unbroken keys create --app shop --capability '{"orders:*":["publish"]}' > shop.key
  unbroken keys list --data /var/lib/unbroken
  unbroken keys revoke shop.4f0c1e
  unbroken keys show shop.4f0c1e --sdk python --url https://realtime.example.com
"""
VARIABLE = "UNBROKEN_KEY"  # of the environment, in sample code

JAVASCRIPT = """\
// npm install ably; in a file such as example.mjs
import * as Ably from 'ably';

const ably = new Ably.Realtime({{
  key: process.env.{variable},            // {name}:<secret>, as `unbroken keys create` printed it
  endpoint: '{host}', port: {port}, tlsPort: {port}, tls: {js_tls},
  fallbackHosts: [], disableConnectivityCheck: true,
}});
await ably.channels.get('{channel}').subscribe((message) => console.log(message.name, message.data));
"""
PYTHON = """\
# pip install ably
import asyncio
import os

from ably import AblyRealtime


async def main():
    ably = AblyRealtime(
        key=os.environ["{variable}"],  # {name}:<secret>, as `unbroken keys create` printed it
        use_token_auth=True,
        endpoint="{host}:{port}/",
        tls={python_tls},
        connectivity_check_url="{url}/time",
    )
    await ably.channels.get("{channel}").subscribe(lambda message: print(message.name, message.data))
    await asyncio.Event().wait()


asyncio.run(main())
"""
CURL = """\
# {variable} is {name}:<secret>, as `unbroken keys create` printed it; curl reads it unseen from standard input
printf 'user = "%s"' "${variable}" | curl -K - -H 'Content-Type: application/json' \\
    -d '{{"name":"greeting","data":"hello"}}' {url}/channels/{path}/messages
"""
SNIPPETS = {"js": JAVASCRIPT, "python": PYTHON, "curl": CURL}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unbroken keys``."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data", metavar="DIR", type=Path, help="data directory (./data, or that of the configuration)"
    )
    common.add_argument("--config", metavar="FILE", type=Path, help="configuration file of the server, if it has one")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", parents=[common], help="create a key and print it, only this once")
    create.add_argument("--app", metavar="ID", help="app of the key, created if missing (the only app, or a new one)")
    create.add_argument("--capability", metavar="JSON", default=FULL_TEXT, help=f"capability of the key ({FULL_TEXT})")
    create.add_argument(
        "--revocable-tokens", action="store_true", help="tokens of the key can be revoked, and live at most an hour"
    )
    create.add_argument(
        "--limit",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help=f"limit what the key may use: {', '.join(KeyLimits.__struct_fields__)}. Limits apply to all its "
        "connections together, connection.NAME to each of them; rates are per second; may be repeated",
    )
    listing = actions.add_parser("list", parents=[common], help="list all keys, without their secrets")
    listing.add_argument("--json", action="store_true", help="print a JSON array")
    revoke = actions.add_parser(
        "revoke", parents=[common], help="revoke a key and all tokens made with it, permanently"
    )
    revoke.add_argument("name", metavar="NAME", help="appId.keyId")
    show = actions.add_parser("show", parents=[common], help="show sample code for a key, without its secret")
    show.add_argument("name", metavar="NAME", help="appId.keyId")
    show.add_argument("--sdk", choices=sorted(SNIPPETS), default="js", help="library of the sample code (js)")
    show.add_argument(
        "--url", default="http://127.0.0.1:8080", help="address at which clients reach the server (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """0: done; 1: failed, and standard error says why; 2: wrong usage."""
    try:
        settings = load(arguments.config) if arguments.config is not None else Settings()
        directory = arguments.data if arguments.data is not None else settings.data
        if arguments.action == "create":
            return _create(directory, arguments, settings)
        if not directory.is_dir():
            raise StartupFailed(f"{directory}: is not a directory; name the server's data directory with --data")
        file = AppsFile(directory)
        if arguments.action == "list":
            return _list(file, settings, as_json=arguments.json)
        name = _name(arguments.name)
        if arguments.action == "revoke":
            return _revoke(file, settings, name)
        return _show(file, settings, name, arguments.sdk, arguments.url)
    except (StartupFailed, PubSubError) as error:
        print(f"unbroken: {error}", file=sys.stderr)
    except OSError as error:
        print(f"unbroken: {error.filename}: {error.strerror}", file=sys.stderr)
    return 1


def _create(directory: Path, arguments: argparse.Namespace, settings: Settings) -> int:
    capability = Capability.parse(arguments.capability)
    quotas = _quotas(arguments.limit)
    if not (directory / "secret").exists():  # else a server could not tell a new directory from a damaged one
        DataDirectory.open(directory).close()
    with AppsFile(directory).changing() as apps:
        app_id = _app(arguments.app, {*apps, *(key.app_id for key in settings.keys)})
        taken = {known.name for known in (*keys_of(apps, directory / "apps.json"), *settings.keys)}
        while (key := new_key(app_id, capability, revocable=arguments.revocable_tokens, quotas=quotas)).name in taken:
            pass
        apps.setdefault(app_id, {"keys": []})["keys"].append(stored_key(key))
    AppsFile(directory).keep_copy()
    print(f"unbroken: created key {key.name}, which is shown only this once:", file=sys.stderr)
    print(key.text)
    return 0


def _quotas(given: list[str]) -> tuple[Quota, Quota]:
    """The quotas of a key, and of each of its connections. Raises: StartupFailed."""
    limits: dict[str, object] = {}
    of_each: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        of, dot, rest = name.partition(".")
        if not equals or (dot and of != "connection"):
            raise StartupFailed(f"--limit: must be NAME=VALUE or connection.NAME=VALUE, got {text!r}")
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else value
        (of_each if dot else limits)[rest if dot else name] = number
    try:
        return checked(limits | {"connection": of_each}, OwnLimits).quotas
    except Wrong as error:
        raise StartupFailed(f"--limit {error}") from error


def _app(wanted: str | None, known: set[str]) -> str:
    if wanted is None:
        if len(known) > 1:
            raise StartupFailed(f"there are several apps; choose one with --app: {', '.join(sorted(known)[:20])}")
        return next(iter(known), secrets.token_hex(3))
    if not is_app_id(wanted):
        raise StartupFailed("--app: must have 1 to 64 characters without blanks, dots or colons")
    return wanted


def _list(file: AppsFile, settings: Settings, *, as_json: bool) -> int:
    keys = _all(file, settings)
    if as_json:
        told = [
            {
                "name": key.name,
                "enabled": key.enabled,
                "revocableTokens": key.revocable_tokens,
                "capability": json.loads(key.capability.text),
                "limits": limits_of(key),
                "configured": key in settings.keys,
            }
            for key in keys
        ]
        print(json.dumps(told, indent=2))
        return 0
    rows = [("KEY", "STATE", "TOKENS", "FROM", "LIMITS", "CAPABILITY")]
    for key in keys:
        rows.append(
            (
                key.name,
                "enabled" if key.enabled else "revoked",
                "revocable" if key.revocable_tokens else "-",
                "configuration" if key in settings.keys else "data",
                " ".join(_limits_shown(key)) or "-",
                key.capability.text,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print(*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[5], sep="  ")
    return 0


def _limits_shown(key: Key) -> list[str]:
    own = [f"{name}={value}" for name, value in key.quota.given.items()]
    return own + [f"connection.{name}={value}" for name, value in key.connection_quota.given.items()]


def _revoke(file: AppsFile, settings: Settings, name: str) -> int:
    if any(key.name == name for key in settings.keys):
        raise StartupFailed(f"{name}: is a key of the configuration; set enabled = false there, and restart the server")
    with file.changing() as apps:
        app_id, _, key_id = name.partition(".")
        if not any(key.name == name for key in keys_of(apps, file.path)):
            raise StartupFailed(f"{name}: unknown key; `unbroken keys list` shows them")
        for entry in apps[app_id]["keys"]:
            if entry["id"] == key_id:
                entry["enabled"] = False
    file.keep_copy()
    print(f"unbroken: key {name} is revoked", file=sys.stderr)
    return 0


def _show(file: AppsFile, settings: Settings, name: str, sdk: str, url: str) -> int:
    found = [key for key in _all(file, settings) if key.name == name]
    if not found:
        raise StartupFailed(f"{name}: unknown key; `unbroken keys list` shows them")
    if not found[0].enabled:
        raise StartupFailed(f"{name}: has been revoked")
    print(snippet(found[0], sdk, url), end="")
    return 0


def snippet(key: Key, sdk: str, url: str) -> str:
    """Code that uses the key. Raises: StartupFailed, if the URL is invalid."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StartupFailed(f"--url: must be http://HOST:PORT or https://HOST:PORT, got {url!r}")
    names = [name for name in key.capability.names if "*" not in name and not name.startswith("[")]
    channel = names[0] if names else "room:1"
    tls = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return SNIPPETS[sdk].format(
        variable=VARIABLE,
        name=key.name,
        host=host,
        port=port,
        url=f"{parts.scheme}://{host}:{port}",
        js_tls=str(tls).lower(),
        python_tls=tls,
        channel=channel.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"'),
        path=quote(channel, safe=""),
    )


def _name(text: str) -> str:
    """Raises: StartupFailed, without repeating a possible secret."""
    if ":" in text:
        raise StartupFailed("give only the key's name, appId.keyId: a secret must not be on a command line")
    return text


def _all(file: AppsFile, settings: Settings) -> list[Key]:
    """All keys. Those of the configuration take precedence over those of the data directory."""
    keys = {key.name: key for key in (*keys_of(file.read(), file.path), *settings.keys)}
    return [keys[name] for name in sorted(keys)]
