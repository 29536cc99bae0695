"""Apps of development: made with their keys and namespaces, as a test suite wants them, and deleted again.

    POST /apps --> apps.json --> Policies: what its namespaces promise
                             --> Keyring: its keys, with their quotas
    DELETE     --> all of them, its clients, its messages, its statistics

What an operator does to keys while the server runs is seen by server/keywatch.py."""

from __future__ import annotations

import secrets
from typing import Any

import trio

from engine.auth.capability import Capability
from engine.auth.keys import Key, Keyring
from engine.errors import BadRequest, LimitExceeded
from engine.journal.port import Journal
from engine.settings import DEFAULT_PERSISTED_HOURS, Namespace
from server.apps import AppsFile, new_key, stored_key
from server.keywatch import tell_made, tell_revoked
from server.node.clients import Clients
from server.node.counting import Counting
from server.node.policies import Policies
from server.node.turn import Turn

MAX_APPS = 10_000  # each is a test run's
MAX_KEYS = 100
MAX_NAMESPACES = 100


class Provisioning:
    """Makes apps known to a server, and has it forget them."""

    def __init__(
        self,
        file: AppsFile,
        keyring: Keyring,
        policies: Policies,
        clients: Clients,
        counting: Counting,
        journal: Journal,
        turn: Turn,
        address: tuple[str, int],
        *,
        tls: bool,
    ) -> None:
        """``address``, ``tls``: at which its clients find the server, which they are told."""
        self._file = file
        self._keyring = keyring
        self._policies = policies
        self._clients = clients
        self._counting = counting
        self._journal = journal
        self._turn = turn
        self._address = address
        self._tls = tls

    def create_app(self, spec: dict[str, object]) -> dict[str, object]:
        """Create an app with its keys and namespaces, for a test suite. Raises: BadRequest, LimitExceeded."""
        wanted = spec.get("keys") or [{}]
        if not isinstance(wanted, list) or len(wanted) > MAX_KEYS:
            raise BadRequest(f"keys: must be an array of at most {MAX_KEYS}", code=40000)
        app_id = secrets.token_hex(4)
        keys = [_new_key(app_id, entry, f"keys[{at}]") for at, entry in enumerate(wanted)]
        spaces = _new_namespaces(spec.get("namespaces"))
        with self._file.changing() as apps:
            if len(apps) >= MAX_APPS:
                raise LimitExceeded(f"there are {MAX_APPS} apps already, the maximum", code=42910)
            apps[app_id] = {
                "keys": [stored_key(key) for key in keys],
                "namespaces": {space.id: space.persisted_hours for space in spaces},
            }
        self._policies.add_app(app_id, {space.id: space for space in spaces})
        for key in keys:
            self._keyring.add(key)
            tell_made(key.name)
        return self._app(app_id, keys, spaces)

    def _app(self, app_id: str, keys: list[Key], spaces: list[Namespace]) -> dict[str, object]:
        """The created app, without the parts of the request that are not available on this server."""
        host, port = self._address
        return {
            "appId": app_id,
            "accountId": "local",
            "id": app_id,
            "status": "enabled",
            "endpoint": host,
            "port": port,
            "tls": self._tls,
            "keys": [
                {
                    "id": key.key_id,
                    "value": key.secret,
                    "keyName": key.name,
                    "keySecret": key.secret,
                    "keyStr": key.text,
                    "capability": key.capability.text,
                    "revocableTokens": key.revocable_tokens,
                    "status": 0,
                }
                for key in keys
            ],
            "namespaces": [
                # As the node has it, because a server that keeps all in memory persists nothing.
                {"id": space.id, "persisted": self._policies.of(app_id, f"{space.id}:").retention != "w"}
                for space in spaces
            ],
            "channels": [],
            "connections": [],
        }

    async def delete_app(self, app_id: str) -> None:
        """Delete the app's keys and messages, and end its clients."""
        with self._file.changing() as apps:
            apps.pop(app_id, None)
        for key in self._keyring.remove_app(app_id):
            tell_revoked(key.name)
        self._policies.remove_app(app_id)
        self._clients.end_app(app_id)
        self._turn.end()
        await trio.to_thread.run_sync(self._journal.forget, f"{app_id}:")
        await self._counting.forget(app_id)


def _new_key(app_id: str, entry: Any, field: str) -> Key:
    if not isinstance(entry, dict):
        raise BadRequest(f"{field}: must be a map", code=40000)
    capability = entry.get("capability")
    return new_key(
        app_id, Capability.parse(capability) if capability else None, revocable=entry.get("revocableTokens") is True
    )


def _new_namespaces(wanted: object) -> list[Namespace]:
    """The namespaces, in the order of the request. Raises: BadRequest."""
    if wanted is None:
        return []
    if not isinstance(wanted, list) or len(wanted) > MAX_NAMESPACES:
        raise BadRequest(f"namespaces: must be an array of at most {MAX_NAMESPACES}", code=40000)
    spaces = []
    for at, entry in enumerate(wanted):
        space = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(space, str) or not space or ":" in space:
            raise BadRequest(f"namespaces[{at}].id: must be a name without colons", code=40000)
        spaces.append(Namespace(space, DEFAULT_PERSISTED_HOURS if entry.get("persisted") is True else 0))
    return spaces
