"""Announces that the server is ready or draining, to the operator and in the log.

ready    on standard output, for scripts that wait for it; in the log with the settings that differ from the defaults
drain    in the log, when it begins and when it ends"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import trio
from msgspec import Struct
from msgspec.structs import asdict

import server
from engine import limits
from engine.quota import UNLIMITED
from engine.settings import Namespace, Settings
from server.logs import facts
from server.node.heap import machine_bytes
from server.transport.ports import url

LOGGER = logging.getLogger("unbroken")


def say_ready(settings: Settings, addresses: list[tuple[str, int]]) -> None:
    """``addresses``: those at which clients reach the server."""
    scheme = "https" if settings.tls_cert is not None else "http"
    classes: list[str] = [settings.durability]
    classes += [
        f"{space.id}: {space.durability}" for space in sorted_namespaces(settings) if space.durability is not None
    ]
    development = "; development mode: anybody can create apps" if settings.dev else ""
    urls = ", ".join(url(scheme, address) for address in addresses)
    print(
        f"unbroken {server.VERSION} ready on {urls} ({', '.join(classes)}; data {settings.data}{development})",
        flush=True,
    )
    others = differing(settings)
    LOGGER.info(
        "unbroken %s started on %s; settings that differ from the defaults: %s",
        server.VERSION,
        urls,
        ", ".join(f"{name} = {value}" for name, value in others.items()) or "none",
        extra=facts("start", version=server.VERSION, url=url(scheme, addresses[0]), settings=others),
    )


class Drain:
    """Logs the beginning and the end of a drain."""

    def __init__(self, clients: int, seconds: float) -> None:
        self._began = trio.current_time()
        LOGGER.info(
            "draining: %d clients have up to %g s", clients, seconds, extra=facts("drain_begin", clients=clients)
        )

    def tell_end(self, left: int) -> None:
        """``left``: the number of clients that were cut off."""
        seconds = round(trio.current_time() - self._began, 3)
        LOGGER.info(
            "drained in %g s, %d clients were cut off",
            seconds,
            left,
            extra=facts("drain_end", seconds=seconds, left=left),
        )


def sorted_namespaces(settings: Settings) -> list[Namespace]:
    return [settings.namespaces[name] for name in sorted(settings.namespaces)]


def differing(settings: Settings) -> dict[str, object]:
    """The settings in force that differ from the defaults, by their names in the configuration. Of keys, the number."""
    usual = Settings().within(machine_bytes() or limits.MEMORY_UNKNOWN)
    apart = (
        "host",
        "port",
        "keys",
        "limits",
        "namespaces",
        "quotas",
        "app_quotas",
    )  # told in another form, or elsewhere
    found: dict[str, object] = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in _others(settings, usual).items()
        if name not in apart
    }
    found |= {f"limits.{name}": value for name, value in _others(settings.limits, usual.limits).items()}
    for scope, quota in settings.quotas.items():
        found |= {f"limits.{scope}.{name}": value for name, value in quota.given.items() if value != UNLIMITED}
    for app_id, quota in settings.app_quotas.items():
        found |= {f"apps.{app_id}.limits.{name}": value for name, value in quota.given.items()}
    for space in settings.namespaces.values():
        options = _others(space, Namespace(space.id))
        options.pop("quota", None)
        options |= {f"limits.{name}": value for name, value in space.quota.given.items()}
        found |= {f"namespaces.{space.id}.{name}": value for name, value in options.items()}
    if settings.keys:
        found["keys"] = len(settings.keys)
    return found


def _others(given: Struct, usual: Struct) -> dict[str, Any]:
    values = asdict(given)
    return {name: value for name, value in values.items() if value != getattr(usual, name)}
