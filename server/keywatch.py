"""Applies keys that are created, changed or revoked while the server runs.

    apps.json changed? --twice a second--> read --> Keyring       new keys are accepted, removed ones are not
    configuration read again -----------------------^    |
                                                         +-> clients    of removed or revoked keys: ERROR 40131
                                                                        of keys with a new secret: ERROR 40101
                                                                        of keys with a new capability: it applies

A damaged file is logged and changes nothing. Keys of the configuration take precedence over those of the file. A token
keeps the capability that it was issued with, as long as its key is valid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import trio

from engine.auth.keys import Key, Keyring, revoked
from engine.errors import AuthError, StartupFailed
from server.apps import AppsFile, keys_of
from server.logs import facts
from server.node.clients import Clients

LOGGER = logging.getLogger("unbroken.keys")

LOOK_SECONDS = 0.5  # an operator who revokes a key should not have to wait


def tell_made(name: str) -> None:
    LOGGER.info("key %s was created", name, extra=facts("key_made", key=name))


def tell_revoked(name: str) -> None:
    LOGGER.info("key %s was revoked", name, extra=facts("key_revoked", key=name))


class KeyWatch:
    """Keeps a keyring in sync with the file."""

    def __init__(
        self,
        file: AppsFile,
        keyring: Keyring,
        configured: Iterable[Key],
        clients: Clients,
        end_of_turn: Callable[[], object],
    ) -> None:
        """``configured``: keys that are not the file's."""
        self._file = file
        self._keyring = keyring
        self._configured = {key.name: key for key in configured}
        self._clients = clients
        self._end_of_turn = end_of_turn
        self._known = {key.name for key in keyring}
        self._filed = [key for key in keyring if key.name not in self._configured]
        self._stamp: object = object()  # unequal to any other: changes since the keyring was made are not missed

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Apply changes of the file, if there are any."""
        stamp = self._file.stamp()
        if stamp == self._stamp:
            return
        try:
            keys = await trio.to_thread.run_sync(self._read)
        except StartupFailed as error:
            LOGGER.error("the keys were not reloaded: %s", error)
            self._stamp = stamp
            return
        if self._file.stamp() == stamp:  # else somebody, perhaps we ourselves, has changed it meanwhile: next time
            self._stamp = stamp
            self._filed = keys
            self._take_over()

    def configure(self, keys: Iterable[Key]) -> None:
        """Apply the configuration's new keys beside those of the file, in one step with all consequences."""
        self._configured = {key.name: key for key in keys}
        self._take_over()

    def _read(self) -> list[Key]:
        keys = list(keys_of(self._file.read(), self._file.path))
        self._file.keep_copy()
        return keys

    def _take_over(self) -> None:
        """Have the keyring as the file and the configuration say, and the clients go by it."""
        found = {key.name: key for key in self._filed} | self._configured
        before = {name: known for name in found if (known := self._keyring.get(name)) is not None}
        for name in self._known - found.keys():
            if self._keyring.find(name) is not None:  # else we have removed it ourselves
                tell_revoked(name)
            self._keyring.remove(name)
        for key in found.values():
            _tell_difference(before.get(key.name), key)
            self._keyring.add(key)
        self._known = set(found)
        self._clients.keys_changed()
        self._end_or_change(before)

    def _end_or_change(self, before: Mapping[str, Key]) -> None:
        """Clients of keys that are good no more, or have another secret, end; those of others may do what they say."""
        ends: dict[str, AuthError] = {}
        other: dict[str, Key] = {}  # may do something else than before
        for name in {name for client in self._clients.here for name, _ in client.session.identity.made_with}:
            known, now = before.get(name), self._keyring.find(name)
            if now is None:
                ends[name] = revoked()
            elif known is not None and known.secret != now.secret:  # somebody else may have the old one
                ends[name] = AuthError("the key's secret has changed", code=40101)
            elif known is not None and known.capability != now.capability:
                other[name] = now
        if not ends and not other:
            return
        for client in self._clients.here:
            identity = client.session.identity
            error = next((ends[name] for name, _ in identity.made_with if name in ends), None)
            if error is not None:
                client.session.fail(error)
            elif identity.key_name in other and identity.issued_ms is None:  # it is the key itself
                client.go_by(replace(identity, capability=other[identity.key_name].capability))
        self._end_of_turn()


def _tell_difference(known: Key | None, key: Key) -> None:
    if known is None and key.enabled:
        tell_made(key.name)
    elif known is not None and known.enabled and not key.enabled:
        tell_revoked(key.name)
    elif known is not None and known.secret != key.secret:
        LOGGER.info("key %s has a new secret", key.name, extra=facts("key_changed", key=key.name))
