"""Counts quota usage of apps, keys and connections; channels count theirs in their log.

    connection --Allowance--> its own rates, if it has any
                              Usage of its key  \\  shared by all their connections
                              Usage of its app  /

    publish    its Terms (ext/log/terms.pyx): check the size, then the rates of connection, channel, key, app
    deliver    the same rates, outgoing: beyond them, delivery is delayed (the plane waits, nothing is refused)

Rates are those of ext/log/rate.pyx. A key's or app's usage lives as long as the key or app is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.auth.keys import Keyring
from engine.errors import LimitExceeded
from engine.message import too_many
from engine.quota import NOTHING_SAID, Quota
from engine.settings import Settings
from ext.log.decision import Decision
from ext.log.home import Home
from ext.log.rate import Rate
from ext.log.terms import Terms
from ext.net.shaper import Shaper

PRUNE = 10_000  # usages of keys and apps kept before a clean-up


class Usage:
    """The usage of one key or one app."""

    __slots__ = ("connections", "incoming", "outgoing", "quota")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.connections = 0
        self.incoming = Rate(quota.messages_in, quota.bytes_in)
        self.outgoing = Rate(quota.messages_out, quota.bytes_out)

    def limit(self, quota: Quota) -> None:
        """The operator has changed the quota; past usage still counts."""
        self.quota = quota
        self.incoming.limit(quota.messages_in, quota.bytes_in)
        self.outgoing.limit(quota.messages_out, quota.bytes_out)


class Allowance:
    """The limits of one connection. If connections have no rates of their own, those of a key share one.

    ``terms``: for publishes over its connection; ``request_terms``: for publishes over HTTP.
    """

    __slots__ = ("app", "channels", "connection", "key", "outgoing", "request_terms", "terms")

    def __init__(
        self, connection: Quota, key: Usage, app: Usage, *, channels: int, max_message_size: int, max_messages: int
    ) -> None:
        """``channels``, ``max_message_size``: the server's, unless a quota is narrower. ``max_messages``: per
        publish."""
        self.connection = connection
        self.key = key
        self.app = app
        self.outgoing = _rate(connection.messages_out, connection.bytes_out)
        quotas = (connection, key.quota, app.quota)
        self.channels = _least(channels, (quota.channels_per_connection for quota in quotas))
        size = _least(max_message_size, (quota.max_message_size for quota in quotas))
        own = _rate(connection.messages_in, connection.bytes_in)
        self.request_terms = Terms(None, key.incoming, app.incoming, max_bytes=size, max_messages=max_messages)
        self.terms = self.request_terms
        if own is not None:
            self.terms = Terms(own, key.incoming, app.incoming, max_bytes=size, max_messages=max_messages)

    @property
    def max_message_size(self) -> int:
        return self.terms.max_bytes

    @property
    def said(self) -> tuple[object, ...]:
        """Its contents: connections of a key with equal contents have equal limits."""
        own, terms = self.connection, self.terms
        rates = own.messages_in, own.bytes_in, own.messages_out, own.bytes_out
        return self.key, self.app, self.channels, terms.max_bytes, terms.max_messages, rates

    def admit_reader(self, now_ms: int) -> None:
        """Check whether a page of history may be read. Its contents are charged afterwards, as deliveries are.

        Raises: LimitExceeded 42910.
        """
        for owner, usage in (("key", self.key), ("app", self.app)):
            if not usage.outgoing.room(now_ms):
                raise _too_fast(owner, 42910, usage.outgoing, now_ms, may="read")

    def charge_reader(self, count: int, size: int, now_ms: int) -> None:
        self.key.outgoing.take(now_ms, count, size)
        self.app.outgoing.take(now_ms, count, size)

    def shaper(self) -> Shaper | None:
        """The shaper that may delay deliveries to its subscriber; None if unlimited."""
        rates = [rate for rate in (self.outgoing, self.key.outgoing, self.app.outgoing) if rate is not None]
        return Shaper(*rates) if any(rate.limited for rate in rates) else None


def admit(terms: Terms, home: Home, count: int, size: int, now_ms: int) -> None:
    """Let ``count`` messages of ``size`` bytes into the log, and charge for them.

    Raises: LimitExceeded 40009, 42911, 42913, 42910: nothing has been charged.
    """
    decision = terms.admit(home.incoming, home.max_bytes, count, size, now_ms)
    if decision:
        raise refusal(decision, terms, home.incoming, home.max_bytes, size, now_ms)


def check_unopened(terms: Terms, quota: Quota, size: int, now_ms: int) -> None:
    """Check, before opening a channel with this quota, whether ``admit`` would refuse.

    Raises: LimitExceeded, as ``admit``.
    """
    max_bytes = quota.max_message_size or terms.max_bytes
    decision = terms.look(None, max_bytes, size, now_ms)
    if decision:
        raise refusal(decision, terms, None, max_bytes, size, now_ms)


def check_size(terms: Terms, count: int, size: int) -> None:
    """Check the size of one publish. Raises: LimitExceeded 40034, 40009."""
    decision = terms.check(count, size)
    if decision == Decision.TOO_MANY:
        raise too_many(count, terms.max_messages)
    if decision:
        raise _too_large(size, terms.max_bytes)


def refusal(decision: int, terms: Terms, channel: Rate | None, max_bytes: int, size: int, now_ms: int) -> LimitExceeded:
    """The error for a publish that exceeds its terms."""
    if decision == Decision.TOO_LARGE:
        return _too_large(size, min(terms.max_bytes, max_bytes))
    owner, code = _OWNERS[Decision(decision)]
    rate = {"connection": terms.connection, "channel": channel, "key": terms.key, "app": terms.app}[owner]
    assert rate is not None
    return _too_fast(owner, code, rate, now_ms)


def _too_large(size: int, max_bytes: int) -> LimitExceeded:
    return LimitExceeded(f"messages: {size} bytes exceed maxMessageSize, {max_bytes}", code=40009, status=400)


_OWNERS = {
    Decision.CONNECTION_RATE: ("connection", 42911),
    Decision.CHANNEL_RATE: ("channel", 42913),
    Decision.KEY_RATE: ("key", 42910),
    Decision.APP_RATE: ("app", 42910),
}


class Allowances:
    """All allowances, made on first use."""

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self.settings = settings
        self._keyring = keyring
        self._keys: dict[str, Usage] = {}
        self._apps: dict[str, Usage] = {}
        self._shared: dict[str, Allowance] = {}
        self._said: dict[str, tuple[object, ...]] = {}  # by key, of the allowances made now
        self.version = 0  # grows when earlier results of ``of`` may be outdated

    def of(self, key_name: str, app_id: str) -> Allowance:
        """The allowance for a new connection; or for a request, apart from the connection's own rates."""
        found = self._shared.get(key_name)
        if found is None:
            key, app = (
                self._usage(self._keys, key_name, self._quota_of_key),
                self._usage(self._apps, app_id, self._quota_of_app),
            )
            bounds = self.settings.limits
            connection = self._quota_of_connections(key_name)
            found = Allowance(
                connection,
                key,
                app,
                channels=bounds.channels_per_connection,
                max_message_size=bounds.max_message_size,
                max_messages=bounds.messages_per_publish,
            )
            if found.terms.connection is None and found.outgoing is None:
                self._shared[key_name] = found
        return found

    def refresh(self) -> None:
        """Keys have changed: apply their quotas, and forget those that no longer exist."""
        self._shared.clear()
        self._said.clear()
        self.version += 1
        for usages, quota_of in ((self._keys, self._quota_of_key), (self._apps, self._quota_of_app)):
            for name, usage in list(usages.items()):
                quota = quota_of(name)
                if quota != usage.quota:
                    usage.limit(quota)

    def renewed(self, allowance: Allowance, key_name: str, app_id: str) -> Allowance:
        """The allowance of a live connection after a change of keys or limits: the same, unless its own part has
        changed."""
        said = self._said.get(key_name)
        if said is None:
            said = self._said[key_name] = self.of(key_name, app_id).said
        return allowance if allowance.said == said else self.of(key_name, app_id)

    def opened(self, allowance: Allowance) -> None:
        """A connection has opened."""
        allowance.key.connections += 1
        allowance.app.connections += 1

    def closed(self, allowance: Allowance) -> None:
        """A connection has closed."""
        allowance.key.connections -= 1
        allowance.app.connections -= 1

    def moved(self, allowance: Allowance, other: Allowance) -> None:
        """A connection moves to another key of its app. Raises: LimitExceeded 40150; then nothing has changed."""
        self.closed(allowance)
        try:
            check_connections(other)
        except LimitExceeded:
            self.opened(allowance)
            raise
        self.opened(other)

    def _quota_of_connections(self, key_name: str) -> Quota:
        key = self._keyring.get(key_name)
        return (key.connection_quota if key else NOTHING_SAID).over(self.settings.general_quota("connection"))

    def _quota_of_key(self, key_name: str) -> Quota:
        key = self._keyring.get(key_name)
        return (key.quota if key else NOTHING_SAID).over(self.settings.general_quota("key"))

    def _quota_of_app(self, app_id: str) -> Quota:
        return self.settings.app_quota(app_id)

    def _usage(self, usages: dict[str, Usage], name: str, quota_of: Callable[[str], Quota]) -> Usage:
        found = usages.get(name)
        if found is None:
            if len(usages) >= PRUNE:
                for idle in [each for each, usage in usages.items() if not usage.connections]:
                    del usages[idle]
                self._shared.clear()
                self.version += 1
            found = usages[name] = Usage(quota_of(name))
        return found


def check_connections(allowance: Allowance) -> None:
    """Check whether one more connection may open. Raises: LimitExceeded 40150."""
    for owner, usage in (("key", allowance.key), ("app", allowance.app)):
        most = usage.quota.connections
        if most and usage.connections >= most:
            reason = f"this {owner} has reached its maximum of {most} open connections; try again when one has closed"
            raise LimitExceeded(reason, code=40150, status=401)


def _too_fast(owner: str, code: int, rate: Rate, now_ms: int, *, may: str = "publish") -> LimitExceeded:
    allowed = []
    if rate.messages:
        allowed.append(f"{rate.messages} messages")
    if rate.data:
        allowed.append(f"{rate.data} bytes")
    wait_ms = rate.wait_ms(now_ms)
    return LimitExceeded(
        f"this {owner} may {may} {' and '.join(allowed)} a second; try again in {wait_ms} ms",
        code=code,
        retry_after_ms=wait_ms,
    )


def _rate(messages: int, data: int) -> Rate | None:
    return Rate(messages, data) if messages or data else None


def _least(most: int, narrower: Iterable[int]) -> int:
    return min([most, *(value for value in narrower if value)])
