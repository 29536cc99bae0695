"""Connections and their sealed keys: the basis for resuming a connection whose transport was lost.

    key      <connection id, 10>!<base64url, 56>
    sealed   issued ms: 6 | life: 4 | app: 8 | client: 8 | MAC: 16      42 bytes; the MAC covers the connection id too
    life     one run of a server process; app, client: keyed hashes, so that a key reveals nothing about its owner

    open --> live --lost--> kept for the ttl --expire--> gone
              ^ |              |
              | closed --------|--> gone at once
              +---resume-------+        also from live: the newer transport supersedes the older one

Keys are checked, not stored. A record holds only the issue time of its newest key and of the key used to request that
one. The latter stays valid because CONNECTED may have been lost. Keys of an earlier life are valid for the ttl after
that life was last known to run: cursors locate the missed messages, not the connection. Knowledge of an earlier life
about closed connections and older keys is lost with it.

No two keys of a life have the same ms: when the clock stands still or steps back, the next key gets the next ms. So a
key newer than the newest one noted for its life comes from elsewhere: another server went on from a copy of this data
directory, or this directory is the copy.

Source for the outcomes: Ably's realtime protocol, resume and recover."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from engine import limits
from engine.auth.sealing import derive_key
from engine.auth.tokens import Identity
from engine.errors import AuthError, BadRequest, LimitExceeded
from ext.text.serial import connection_id as id_text

MAC_BYTES = 16  # 128 bits cannot be guessed, and attempts need the server
HASH_BYTES = 8  # only ever compared under the MAC; 64 bits make collisions between apps of one server unlikely
_PARTS = ((0, 6), (6, 10), (10, 18), (18, 26))
SEALED_BYTES = 26 + MAC_BYTES
ID_BITS = 60
RANDOM_BYTES = 2048  # for 256 newcomers

_KEY = re.compile(r"([A-Za-z0-9_-]{10})!([A-Za-z0-9_-]{56})")


class RandomBytes:
    """Random bytes of the system, drawn in bulk: asking for 8 costs as much as asking for hundreds."""

    def __init__(self) -> None:
        self._held, self._at = b"", 0

    def take(self, size: int) -> bytes:
        """Never returns the same bytes twice."""
        begin, self._at = self._at, self._at + size
        if self._at > len(self._held):
            self._held, begin, self._at = secrets.token_bytes(max(RANDOM_BYTES, size)), 0, size
        return self._held[begin : self._at]


class Connection:
    """One connection, live or kept for a resume. There are as many as clients, so it is small."""

    __slots__ = ("client_id", "id", "inherited", "issued_ms", "lost_ms", "owner", "used_ms")

    def __init__(self, id: str, issued_ms: int, used_ms: int, client_id: str | None, inherited: bool) -> None:
        self.id = id
        self.client_id = client_id  # None: anonymous, or a wildcard
        self.issued_ms = issued_ms  # of the newest key
        self.used_ms = used_ms  # of the key that resumed it, which stays valid; 0: never resumed
        self.inherited = inherited  # opened in an earlier life of the server
        self.lost_ms: int | None = None  # when its transport was lost; None: live
        self.owner: object | None = None  # the session of its transport; opaque here


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection with a new transport, and the key for its client."""

    connection: Connection
    key: str
    superseded: object | None = None  # the owner of an older transport, to be ended silently


@dataclass(frozen=True, slots=True)
class _Unsealed:
    connection_id: str
    issued_ms: int
    life: int
    app: bytes
    client: bytes


class Connections:
    """All connections of this server that are live, or were lost within the ttl."""

    def __init__(
        self,
        secret: bytes,
        *,
        life: int,
        earlier: Mapping[int, int],
        ttl_ms: int,
        limit: int,
        newest: Mapping[int, int] | None = None,
        note_key: Callable[[int], None] | None = None,
        random: Callable[[int], bytes] | None = None,
    ) -> None:
        """Start without connections.

        Args:
            secret: the server's.
            life: this run of the server, 32 random bits.
            earlier: the runs before it, each with the last time in ms at which it is known to have been alive.
            ttl_ms: how long a lost connection can be resumed.
            limit: the maximum of live ones, and of lost ones; beyond it newcomers are refused, and the longest lost
                forgotten.
            newest: the ms of the newest key of each of these runs; unknown for runs that are missing.
            note_key: called with the ms of each key, before it is issued; the stored value is ``newest`` of the next
                run.
            random: returns random bytes; None: the system's.
        """
        self._mac_key = derive_key(secret, "connection key")
        self._hash_key = derive_key(secret, "connection identity")
        self._hash = lru_cache(maxsize=limits.HASHES_KEPT)(self._hash_anew)  # most clients belong to the same few
        self._life = life
        self._earlier = {run: alive_ms for run, alive_ms in earlier.items() if run != life}
        self._earlier_newest = newest or {}
        self._newest_ms = 0
        self._note_key = note_key
        self._ttl_ms = ttl_ms
        self.limit = limit
        self._random = random or RandomBytes().take
        self._records: dict[str, Connection] = {}
        self._lost: OrderedDict[str, Connection] = OrderedDict()  # in order of loss
        self._closed: OrderedDict[str, None] = OrderedDict()  # inherited ones: their old keys must stay invalid

    def __len__(self) -> int:
        return len(self._records)

    @property
    def live(self) -> int:
        return len(self._records) - len(self._lost)

    def key_of(self, connection: Connection, identity: Identity) -> str:
        """The key for resuming it: the same as in the latest CONNECTED."""
        return self._seal(connection, identity)

    def get(self, connection_id: str) -> Connection | None:
        return self._records.get(connection_id)

    # a transport opens

    def open(self, identity: Identity, now_ms: int) -> Opened:
        """Open a new connection.

        Raises: LimitExceeded 50004, when the maximum of live connections is reached.
        """
        self._check_room()
        while True:
            origin = int.from_bytes(self._random(8), "big") >> (64 - ID_BITS)
            if origin and id_text(origin) not in self._records:  # origin 0 marks entries that no connection published
                break
        record = Connection(id_text(origin), self._issue(now_ms), 0, identity.client_id, False)
        self._records[record.id] = record
        return Opened(record, self._seal(record, identity))

    def resume(self, key: str, identity: Identity, now_ms: int) -> Opened:
        """Resume a connection: the same id, a new key; the caller ends the ``superseded`` owner.

        Raises: BadRequest 80018: not a key of ours. 80011: another app's. 80005: expired, or closed. AuthError 40102:
            another client's. LimitExceeded 50004.
        """
        unsealed = self._unseal(key)
        if unsealed is None:
            raise BadRequest("resume: the connectionKey was not issued by this server", code=80018)
        if not hmac.compare_digest(unsealed.app, self._hash("app", identity.app_id)):
            raise BadRequest("resume: the connection belongs to another app", code=80011)
        if not hmac.compare_digest(unsealed.client, self._hash("client", identity.client_id or "")):
            raise AuthError("resume: the connection belongs to another clientId", code=40102)
        record = self._find(unsealed)
        if record is not None and record.lost_ms is not None and now_ms - record.lost_ms > self._ttl_ms:
            self._drop(record)
            record = None
        if record is None:
            if not self._inherits(unsealed, now_ms):
                raise BadRequest("resume: the state of the connection has expired", code=80005)
            self._check_room()
            record = Connection(unsealed.connection_id, 0, 0, identity.client_id, True)
            self._records[record.id] = record
        elif record.lost_ms is not None:
            self._check_room()
            del self._lost[record.id]
        superseded, record.owner, record.lost_ms = record.owner, None, None
        record.used_ms = unsealed.issued_ms
        record.issued_ms = self._issue(max(now_ms, unsealed.issued_ms + 1))  # the key must change
        return Opened(record, self._seal(record, identity), superseded)

    # a transport closes

    def lost(self, connection: Connection, owner: object, now_ms: int) -> None:
        """The owner's transport is gone; the connection can be resumed for the ttl.

        Does nothing if it has another owner by now: a superseded transport must not affect the newer one.
        """
        if self._records.get(connection.id) is connection and connection.owner is owner and connection.lost_ms is None:
            connection.owner = None
            connection.lost_ms = now_ms
            self._lost[connection.id] = connection
            if len(self._lost) > self.limit:
                self._drop(next(iter(self._lost.values())))

    def closed(self, connection: Connection, owner: object) -> None:
        """The client has closed it: its keys are invalid from here on. Does nothing if it has another owner by now."""
        if self._records.get(connection.id) is connection and connection.owner is owner:
            connection.owner = None  # breaks a reference cycle, which would live until the collector runs
            self._drop(connection)

    def expire(self, now_ms: int) -> int:
        """Forget connections lost longer ago than the ttl; returns their number. Costs nothing when there are none."""
        dropped = 0
        while self._lost:
            record = next(iter(self._lost.values()))
            assert record.lost_ms is not None
            if now_ms - record.lost_ms <= self._ttl_ms:
                break
            self._drop(record)
            dropped += 1
        if self._earlier and all(now_ms - alive_ms > self._ttl_ms for alive_ms in self._earlier.values()):
            self._earlier.clear()  # none of their keys is valid any more, so no closed connection needs guarding
            self._closed.clear()
        return dropped

    # publishing on behalf of a connection

    def by_key(self, key: str, app_id: str) -> Connection:
        """The connection with this key, live or kept, for publishing on its behalf; the caller uses ``id`` and
        ``client_id``.

        A connection of an earlier life qualifies as soon as it has been resumed.

        Raises: BadRequest 40006.
        """
        unsealed = self._unseal(key)
        if unsealed is not None and hmac.compare_digest(unsealed.app, self._hash("app", app_id)):
            record = self._find(unsealed)
            if record is not None:
                return record
        raise BadRequest("connectionKey: unknown, or its connection has ended", code=40006)

    # helpers

    def _find(self, unsealed: _Unsealed) -> Connection | None:
        """The record, if the key is one of its two valid ones."""
        record = self._records.get(unsealed.connection_id)
        return record if record is not None and unsealed.issued_ms in (record.issued_ms, record.used_ms) else None

    def _inherits(self, unsealed: _Unsealed, now_ms: int) -> bool:
        """Was it opened by an earlier life that ended recently, and not seen since?"""
        alive_ms = self._earlier.get(unsealed.life)
        return (
            alive_ms is not None
            and now_ms - alive_ms <= self._ttl_ms
            and unsealed.issued_ms <= self._earlier_newest.get(unsealed.life, unsealed.issued_ms)
            and unsealed.connection_id not in self._records
            and unsealed.connection_id not in self._closed
        )

    def _issue(self, now_ms: int) -> int:
        """The ms of a new key, greater than that of any earlier one in this life."""
        self._newest_ms = max(now_ms, self._newest_ms + 1)
        if self._note_key is not None:
            self._note_key(self._newest_ms)
        return self._newest_ms

    def _check_room(self) -> None:
        if self.live >= self.limit:
            reason = f"the server has {self.limit} open connections, the maximum"
            raise LimitExceeded(reason, code=50004, status=503)

    def _drop(self, record: Connection) -> None:
        del self._records[record.id]
        self._lost.pop(record.id, None)
        if record.inherited and self._earlier:
            self._closed[record.id] = None
            if len(self._closed) > limits.TOMBSTONES:
                self._closed.popitem(last=False)

    def _seal(self, record: Connection, identity: Identity) -> str:
        plain = (
            record.issued_ms.to_bytes(6, "big")
            + self._life.to_bytes(4, "big")
            + self._hash("app", identity.app_id)
            + self._hash("client", identity.client_id or "")
        )
        sealed = plain + self._mac(record.id, plain)
        assert len(sealed) == SEALED_BYTES
        return f"{record.id}!{base64.urlsafe_b64encode(sealed).decode('ascii')}"

    def _unseal(self, key: str) -> _Unsealed | None:
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        sealed = base64.urlsafe_b64decode(match[2])  # 56 characters are exactly 42 bytes
        plain = sealed[:-MAC_BYTES]
        if not hmac.compare_digest(sealed[-MAC_BYTES:], self._mac(match[1], plain)):
            return None
        issued, life, app, client = (plain[begin:end] for begin, end in _PARTS)
        return _Unsealed(match[1], int.from_bytes(issued, "big"), int.from_bytes(life, "big"), app, client)

    def _mac(self, connection_id: str, plain: bytes) -> bytes:
        return hmac.digest(self._mac_key, connection_id.encode("ascii") + plain, "sha256")[:MAC_BYTES]

    def _hash_anew(self, kind: str, text: str) -> bytes:
        return hashlib.blake2b(
            text.encode(), digest_size=HASH_BYTES, key=self._hash_key, person=kind.encode("ascii")
        ).digest()
