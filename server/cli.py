"""The command: ``unbroken serve``, ``unbroken keys``, ``unbroken bench``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from msgspec.structs import replace

import server
from engine.auth.keys import Key, KeyFormatError, parse_key
from engine.errors import StartupFailed
from engine.settings import LOG_FORMATS, LOG_LEVELS, Settings, load, parse_listen
from server import keys_command
from server.bench.options import EXAMPLES, add_arguments
from server.conceal import ConcealingParser, hide_arguments
from server.environment import check_environment, log_settings

Commands = Any  # what argparse gives for ``add_parser``, and keeps the type of to itself

SERVE_EXAMPLES = """\
examples:
  unbroken serve
      on 127.0.0.1:8080 with data in ./data; the first start creates an app and a key (./data/first-key)
  unbroken serve --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem --data /var/lib/unbroken
      for other machines: without TLS (or a proxy that terminates it, --tls-ended-by-proxy) keys get 40103
  UNBROKEN_KEY=app.key:secret unbroken serve
      with this key, hidden from process listings
"""


def build_parser() -> argparse.ArgumentParser:
    parser = ConcealingParser(
        prog="unbroken", description="A realtime message engine: every subscriber gets every message once, in order."
    )
    parser.add_argument("--version", action="version", version=f"unbroken {server.VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_keys(commands)
    _add_bench(commands)
    return parser


def _add_serve(commands: Commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="run the server",
        description="Run the server until SIGTERM or SIGINT, then drain: ask clients to leave and store pending\n"
        "messages. A second signal ends it at once. SIGHUP re-reads the configuration, the certificate\n"
        "and the keys; connections stay open.",
        epilog=SERVE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="address (127.0.0.1:8080). 0.0.0.0 listens on all IPv4 addresses, [::] on all IPv6 and IPv4 addresses; "
        "port 0 picks a free port. Sockets passed by systemd (LISTEN_FDS) take precedence",
    )
    serve.add_argument("--data", metavar="DIR", type=Path, help="data directory, created if missing (./data)")
    serve.add_argument(
        "--new-secret",
        action="store_true",
        help="replace the data directory's secret, if it is damaged, lost or exposed: this ends sessions and tokens; "
        "keys, journal and messages stay",
    )
    serve.add_argument("--config", metavar="FILE", type=Path, help="settings in TOML; options override them")
    serve.add_argument(
        "--key",
        metavar="appId.keyId:secret",
        action="append",
        help="add an app with a key of full capability; may be repeated. Process listings show it until the server "
        "is running: UNBROKEN_KEY in the environment does the same unseen",
    )
    serve.add_argument("--dev", action="store_true", help="development: anybody may create apps (POST /apps)")
    serve.add_argument(
        "--dev-anywhere", action="store_true", help="allow --dev on addresses that other machines can reach"
    )
    serve.add_argument(
        "--durability", choices=("synced", "written", "memory"), help="when a message counts as stored (synced)"
    )
    serve.add_argument("--log-level", choices=LOG_LEVELS, help="lowest level that is logged (info)")
    serve.add_argument("--log-format", choices=LOG_FORMATS, help="plain lines, or one JSON object per line (text)")
    serve.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate chain, PEM: serve TLS on the port")
    serve.add_argument("--tls-key", metavar="FILE", type=Path, help="private key of the certificate, PEM")
    serve.add_argument(
        "--tls-ended-by-proxy",
        action="store_true",
        help="a proxy in front terminates TLS: accept keys over plain connections, which are otherwise refused (40103) "
        "unless they come from this machine",
    )


def _add_keys(commands: Commands) -> None:
    keys = commands.add_parser(
        "keys",
        help="create, list, revoke and show API keys",
        description="Manage the keys of a data directory. A server that uses it notices within a second.",
        epilog=keys_command.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keys_command.add_arguments(keys)


def _add_bench(commands: Commands) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure a server",
        description="Put load on a server that speaks this protocol, and report how fast it was and\n"
        "whether it was correct: throughput, latency from the time each message was due, and a verdict.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(bench)


def settings_from(arguments: argparse.Namespace, environment: dict[str, str]) -> Settings:
    """The settings of file, environment and command line, each over the one before. Raises: StartupFailed."""
    check_environment(environment)
    settings = load(arguments.config) if arguments.config is not None else Settings()
    changes: dict[str, Any] = {
        "dev": settings.dev or arguments.dev,
        "dev_anywhere": settings.dev_anywhere or arguments.dev_anywhere,
        "tls_ended_by_proxy": settings.tls_ended_by_proxy or arguments.tls_ended_by_proxy,
    }
    if arguments.listen is not None:
        try:
            changes["host"], changes["port"] = parse_listen(arguments.listen)
        except ValueError as error:
            raise StartupFailed(f"--listen: {error}") from error
    given = list(arguments.key or ())
    if environment.get("UNBROKEN_KEY"):
        given.append(environment["UNBROKEN_KEY"])
    keys = {key.name: key for key in settings.keys}
    for text in given:
        try:
            key = Key(*parse_key(text))
        except KeyFormatError as error:
            raise StartupFailed(f"--key or UNBROKEN_KEY: {error}") from None
        keys[key.name] = key
    changes["keys"] = tuple(keys.values())
    changes |= log_settings(environment)
    for name in ("data", "durability", "tls_cert", "tls_key", "log_format", "log_level"):
        value = getattr(arguments, name)
        if value is not None:
            changes[name] = value
    return replace(settings, **changes)  # at once, because some belong together


def main(argv: list[str] | None = None) -> int:
    """0: ended as requested; 1: could not start, or failed; 2: wrong usage or configuration."""
    arguments = build_parser().parse_args(argv)
    given = getattr(arguments, "key", None) or []  # several for `serve`, one for `bench`
    hide_arguments([given] if isinstance(given, str) else given)
    if arguments.command == "bench":
        from server.bench.command import main as bench

        return bench(arguments)
    if arguments.command == "keys":
        return keys_command.run(arguments)
    environment = dict(os.environ)
    try:
        settings = settings_from(arguments, environment)
    except StartupFailed as error:
        print(f"unbroken: {error}", file=sys.stderr)
        return 2
    from server.app import run  # here, because --help should not wait for the engine to load

    try:
        return run(settings, lambda: settings_from(arguments, environment), new_secret=arguments.new_secret)
    except StartupFailed as error:
        print(f"unbroken: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
