"""What engine.quota and engine.allowance promise: how limits are written, who is told what, and who shares what."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from engine.allowance import Allowances, admit, check_connections, check_size
from engine.auth.keys import Key, Keyring
from engine.checked import checked
from engine.errors import LimitExceeded
from engine.limits import Limits
from engine.quota import NOTHING_SAID, SCOPES, OwnLimits, Quota
from engine.settings import Settings
from ext.log.home import Home
from ext.log.rate import Rate

NOW = 1_700_000_000_000


def parse_quota(given: dict[str, object], scope: str) -> Quota:
    return checked(given, SCOPES[scope]).quota


def log(*, messages_in: int = 0, max_bytes: int | None = None) -> Home:
    made = Home("app1:room", "series01", kept=True)
    if messages_in:
        made.incoming = Rate(messages_in, 0)
    if max_bytes is not None:
        made.max_bytes = max_bytes
    return made


def allowances(*keys: Key, **quotas: Quota) -> Allowances:
    apps = {name: quotas.pop(name) for name in list(quotas) if name.startswith("app") and name != "app"}
    return Allowances(Settings(quotas=quotas, app_quotas=apps), Keyring(keys))


def refusal(allowed: Allowances, where: Home, *, key: str = "app1.k", count: int = 1, size: int = 1) -> tuple[int, int]:
    with pytest.raises(LimitExceeded) as refused:
        terms = allowed.of(key, "app1").terms
        check_size(terms, count, size)
        admit(terms, where, count, size, NOW)
    return refused.value.code, refused.value.status


# written down


def test_it_is_written_down_entry_by_entry() -> None:
    quota = parse_quota({"messages_in": 5, "bytes_out": "unlimited", "connections": 7}, "key")
    assert quota == Quota(messages_in=5, bytes_out=-1, connections=7)
    assert quota.given == {"messages_in": 5, "bytes_out": "unlimited", "connections": 7}
    assert parse_quota(quota.given, "key") == quota
    assert parse_quota({}, "channel") == NOTHING_SAID


@pytest.mark.parametrize(
    ("given", "scope", "said"),
    [
        ({"messages": 5}, "key", "messages: unknown limit of a key; known limits are messages_in,"),
        ({"connections": 5}, "channel", "connections: unknown limit of a channel"),
        ({"connections": 5}, "connection", "connections: unknown limit of a connection"),
        ({"messages_in": 0}, "app", "messages_in: must be a whole number from 1 to"),
        ({"messages_in": -1}, "app", "messages_in: must be a whole number from 1 to"),
        ({"messages_in": 1 << 41}, "app", "messages_in: must be a whole number from 1 to"),
        ({"messages_in": 1.5}, "app", "messages_in: must be a whole number from 1 to"),
        ({"messages_in": True}, "app", "messages_in: must be a whole number from 1 to"),
        ({"messages_in": "many"}, "app", "or \"unlimited\", got 'many'"),
    ],
)
def test_what_is_none_is_refused_with_its_name(given: dict[str, object], scope: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_quota(given, scope)


def test_a_key_has_limits_and_so_has_each_of_its_connections() -> None:
    assert checked({"connections": 2, "connection": {"messages_in": 3}}, OwnLimits).quotas == (
        Quota(connections=2),
        Quota(messages_in=3),
    )
    with pytest.raises(ValueError, match=r"^connection\.connections: unknown limit"):
        checked({"connection": {"connections": 2}}, OwnLimits)
    with pytest.raises(ValueError, match=r"^connection: must be a table"):
        checked({"connection": 5}, OwnLimits)


def test_own_entry_overrides_the_general_one_even_as_unlimited() -> None:
    general = Quota(messages_in=5, bytes_in=6, connections=7)
    assert parse_quota({"messages_in": 9, "bytes_in": "unlimited"}, "key").over(general) == Quota(
        messages_in=9, connections=7
    )
    assert NOTHING_SAID.over(general) == general


# in force


def test_excess_is_refused_with_its_owner_and_a_retry_time() -> None:
    one = Quota(messages_in=1)
    for scope, code in (("connection", 42911), ("key", 42910), ("app", 42910)):
        allowed = allowances(**{scope: one})
        mine = allowed.of("app1.k", "app1")
        admit(mine.terms, log(), 3, 10, NOW)
        with pytest.raises(LimitExceeded) as refused:
            admit(mine.terms, log(), 1, 10, NOW)
        error = refused.value
        assert (error.code, error.status, error.retry_after_ms) == (code, 429, 2001)
        assert str(error) == f"this {scope} may publish 1 messages a second; try again in 2001 ms"
        admit(mine.terms, log(), 1, 10, NOW + 2001)
    where = log(messages_in=1)
    mine = allowances().of("app1.k", "app1")
    admit(mine.terms, where, 1, 10, NOW)
    with pytest.raises(LimitExceeded, match="this channel may publish") as refused:
        admit(mine.terms, where, 1, 10, NOW)
    assert refused.value.code == 42913


def test_nobody_is_charged_for_what_another_limit_refuses() -> None:
    allowed = allowances(connection=Quota(messages_in=10), app=Quota(messages_in=10))
    mine, full = allowed.of("app1.k", "app1"), log(messages_in=1)
    admit(mine.terms, full, 1, 1, NOW)
    for _ in range(50):
        with pytest.raises(LimitExceeded):
            admit(mine.terms, full, 1, 1, NOW)
    for _ in range(9):
        admit(mine.terms, log(), 1, 1, NOW)


def test_connections_share_a_key_rate_and_keys_an_app_rate() -> None:
    allowed = allowances(
        Key("app1", "k", "s", quota=Quota(messages_in=2)), app1=Quota(messages_in=3), app2=Quota(messages_in=100)
    )
    for _ in range(2):
        admit(allowed.of("app1.k", "app1").terms, log(), 1, 1, NOW)
    assert refusal(allowed, log()) == (42910, 429)
    admit(allowed.of("app1.other", "app1").terms, log(), 1, 1, NOW)
    assert refusal(allowed, log(), key="app1.other") == (42910, 429)
    for _ in range(100):
        admit(allowed.of("app2.k", "app2").terms, log(), 1, 1, NOW)


def test_connections_without_own_rates_share_one_object() -> None:
    free = allowances()
    assert free.of("app1.k", "app1") is free.of("app1.k", "app1")
    bounded = allowances(connection=Quota(bytes_in=5))
    first, second = bounded.of("app1.k", "app1"), bounded.of("app1.k", "app1")
    admit(first.terms, log(), 1, 5, NOW)
    admit(second.terms, log(), 1, 5, NOW)
    with pytest.raises(LimitExceeded):
        admit(first.terms, log(), 1, 1, NOW)


def test_a_request_is_charged_to_channel_key_and_app_only() -> None:
    allowed = allowances(connection=Quota(messages_in=1), key=Quota(messages_in=2))
    mine = allowed.of("app1.k", "app1")
    admit(mine.request_terms, log(), 1, 1, NOW)
    admit(mine.request_terms, log(), 1, 1, NOW)
    with pytest.raises(LimitExceeded, match="this key may"):
        admit(mine.request_terms, log(), 1, 1, NOW)


def test_narrowest_size_and_channels_count_within_the_servers() -> None:
    key = Key("app1", "k", "s", quota=Quota(max_message_size=500, channels_per_connection=1 << 30))
    allowed = Allowances(
        Settings(
            limits=Limits(channels_per_connection=50),
            quotas={"connection": Quota(max_message_size=800), "app": Quota(channels_per_connection=20)},
        ),
        Keyring([key]),
    )
    assert (allowed.of("app1.k", "app1").max_message_size, allowed.of("app1.k", "app1").channels) == (500, 20)
    assert (allowed.of("app1.x", "app1").max_message_size, allowed.of("app1.x", "app1").channels) == (800, 20)
    assert refusal(allowed, log(), size=501) == (40009, 400)
    assert refusal(allowed, log(max_bytes=100), size=101) == (40009, 400)
    admit(allowed.of("app1.k", "app1").terms, log(max_bytes=100), 1, 100, NOW)


def test_connections_of_key_and_app_are_counted_together() -> None:
    allowed = allowances(Key("app1", "k", "s", quota=Quota(connections=1)), app=Quota(connections=2))
    first = allowed.of("app1.k", "app1")
    check_connections(first)
    allowed.opened(first)
    with pytest.raises(LimitExceeded, match="this key has reached its maximum of 1 open") as refused:
        check_connections(first)
    assert (refused.value.code, refused.value.status) == (40150, 401)
    second = allowed.of("app1.x", "app1")
    check_connections(second)
    allowed.opened(second)
    with pytest.raises(LimitExceeded, match="this app has reached its maximum of 2 open"):
        check_connections(second)
    allowed.closed(first)
    check_connections(first)


def test_connection_refused_by_a_full_key_stays_where_it_was() -> None:
    allowed = allowances(Key("app1", "k", "s", quota=Quota(connections=1)), app=Quota(connections=2))
    first, second = allowed.of("app1.k", "app1"), allowed.of("app1.x", "app1")
    allowed.opened(first)
    allowed.opened(second)
    with pytest.raises(LimitExceeded, match="this key has reached its maximum of 1 open"):
        allowed.moved(second, first)
    assert (first.key.connections, second.key.connections, first.app.connections) == (1, 1, 2)
    allowed.moved(first, second)
    assert (first.key.connections, second.key.connections, first.app.connections) == (0, 2, 2)


def test_a_key_whose_limits_change_counts_on_from_where_it_was() -> None:
    key = Key("app1", "k", "s", quota=Quota(messages_in=2))
    keyring = Keyring([key])
    allowed = Allowances(Settings(), keyring)
    before = allowed.of("app1.k", "app1")
    allowed.opened(before)
    admit(before.terms, log(), 2, 1, NOW)
    keyring.add(replace(key, quota=Quota(messages_in=3, connections=1)))
    allowed.refresh()
    admit(before.terms, log(), 1, 1, NOW)
    with pytest.raises(LimitExceeded, match="3 messages"):
        admit(before.terms, log(), 1, 1, NOW)
    with pytest.raises(LimitExceeded):
        check_connections(allowed.of("app1.k", "app1"))
    keyring.remove("app1.k")
    allowed.refresh()
    admit(before.terms, log(), 100, 1, NOW)
