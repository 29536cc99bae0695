"""Apps and their API keys.

appId.keyId:secret     the key's name is appId.keyId, its value the whole text"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from engine.auth.capability import FULL_TEXT, Capability
from engine.errors import AuthError
from engine.quota import NOTHING_SAID, Quota

LONGEST_TTL_MS = 86_400_000  # of a token
LONGEST_REVOCABLE_TTL_MS = 3_600_000  # of one that can be revoked: so long a revocation has to be known
PUBLISHED = "change-me"  # the secrets of the examples begin with this, and everybody knows them
_KEY = re.compile(r"([^.:\s]{1,64})\.([^.:\s]{1,64}):([^.:\s]{1,256})")


class KeyFormatError(ValueError):
    """The text is not an API key, or its secret is public. The message does not repeat it: it may be almost a key."""


def parse_key(text: str) -> tuple[str, str, str]:
    """App id, key id and secret. Raises: KeyFormatError."""
    match = _KEY.fullmatch(text)
    if match is None or not text.isprintable():  # neither control characters nor halves of surrogate pairs
        raise KeyFormatError("a key must have the form appId.keyId:secret, without blanks, dots or colons in its parts")
    if match[3].lower().startswith(PUBLISHED):
        raise KeyFormatError(
            "its secret is from a public example: choose another, or create a key with `unbroken keys create`"
        )
    return match[1], match[2], match[3]


def is_app_id(text: str) -> bool:
    """Can it be the first part of a key?"""
    try:
        parse_key(f"{text}.x:x")
    except KeyFormatError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Key:
    """An API key. Its representation does not contain the secret."""

    app_id: str
    key_id: str
    secret: str = field(repr=False)
    capability: Capability = field(default_factory=lambda: Capability.parse(FULL_TEXT))
    revocable_tokens: bool = False
    enabled: bool = True
    quota: Quota = NOTHING_SAID
    connection_quota: Quota = NOTHING_SAID  # of each connection that comes with it

    @property
    def name(self) -> str:
        return f"{self.app_id}.{self.key_id}"

    @property
    def longest_ttl_ms(self) -> int:
        """The longest life of its tokens, in ms."""
        return LONGEST_REVOCABLE_TTL_MS if self.revocable_tokens else LONGEST_TTL_MS

    @property
    def text(self) -> str:
        """The whole key, secret included: for showing it to the operator, once."""
        return f"{self.name}:{self.secret}"


class Keyring:
    """All keys, by name."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: dict[str, Key] = {}
        self.version = 0  # grows with every change: caches of a key's rights compare it
        for key in keys:
            self.add(key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def add(self, key: Key) -> None:
        self._keys[key.name] = key
        self.version += 1

    def remove(self, name: str) -> None:
        """Forget this key, if there is one."""
        self._keys.pop(name, None)
        self.version += 1

    def remove_app(self, app_id: str) -> list[Key]:
        """Forget the app's keys; returns them."""
        gone = [key for key in self._keys.values() if key.app_id == app_id]
        for key in gone:
            del self._keys[key.name]
        self.version += 1
        return gone

    def apps(self) -> int:
        """The number of apps that have keys."""
        return len({key.app_id for key in self._keys.values()})

    def has_app(self, app_id: str) -> bool:
        return any(key.app_id == app_id for key in self._keys.values())

    def get(self, name: str) -> Key | None:
        """The key with this name, whether it may be used or not."""
        return self._keys.get(name)

    def find(self, name: str) -> Key | None:
        """The key with this name, if it may be used."""
        key = self._keys.get(name)
        return key if key is not None and key.enabled else None

    def authenticate(self, text: str) -> Key:
        """The key with this text.

        Raises: AuthError 40101; the time it takes does not tell an unknown key from a wrong secret. 40131, for the
            right text of a key that has been revoked.
        """
        try:
            app_id, key_id, secret = parse_key(text)
        except KeyFormatError as error:
            raise AuthError(f"key: {error}", code=40101) from None
        key = self.get(f"{app_id}.{key_id}")
        expected = key.secret if key is not None else "-" * 32
        if not hmac.compare_digest(expected.encode(), secret.encode()) or key is None:
            raise AuthError("key: unknown key, or wrong secret", code=40101)
        if not key.enabled:
            raise revoked()
        return key


def revoked() -> AuthError:
    return AuthError("the key has been revoked", code=40131)
