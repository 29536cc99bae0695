"""What engine.connection promises: a lost connection is resumed by its owner, and garbage is told from an old key."""

import string
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine import limits
from engine.auth.capability import FULL_TEXT, Capability
from engine.auth.tokens import Identity
from engine.connection import Connections, Opened, RandomBytes
from engine.errors import PubSubError
from ext.text.serial import connection_origin

NOW = 1_700_000_000_000
TTL = 120_000
SECRET = bytes(range(32))
FULL = Capability.parse(FULL_TEXT)


def identity(client_id: str | None = None, app_id: str = "app1", *, wildcard: bool = False) -> Identity:
    return Identity(app_id, f"{app_id}.key1", client_id, wildcard, FULL)


ALICE, BOB, NOBODY, ANY = identity("alice"), identity("bob"), identity(), identity(wildcard=True)


def counting() -> Callable[[int], bytes]:
    """Random enough: no two alike."""
    count = 0

    def random(size: int) -> bytes:
        nonlocal count
        count += 1
        return (count << 8 * size - 32).to_bytes(size, "big")

    return random


def table(
    life: int = 1, earlier: dict[int, int] | None = None, *, limit: int = 100, secret: bytes = SECRET
) -> Connections:
    return Connections(secret, life=life, earlier=earlier or {}, ttl_ms=TTL, limit=limit, random=counting())


def code(do: Callable[[], object]) -> int:
    with pytest.raises(PubSubError) as refused:
        do()
    return refused.value.code


def connect(connections: Connections, who: Identity = ALICE, now: int = NOW, owner: object = "transport") -> Opened:
    opened = connections.open(who, now)
    opened.connection.owner = owner
    return opened


# keys


def test_a_key_travels_unchanged_in_a_url() -> None:
    opened = connect(table())
    assert opened.key.startswith(opened.connection.id + "!")
    assert set(opened.key) <= set(string.ascii_letters + string.digits + "_-!")
    assert len(opened.key) == 67
    assert connection_origin(opened.connection.id) > 0


@pytest.mark.parametrize(
    "key",
    [
        "_____!ablyjs_test_fake-key____",
        "ably-python-fake-key",
        "ablygo_test_fake-key____",
        "",
        "!",
        "a" * 10 + "!" + "a" * 56,
        "\u00e9" * 10 + "!" + "a" * 56,
        "a" * 10 + "!" + "a" * 57,
    ],
)
def test_what_was_never_issued_is_told_so(key: str) -> None:
    assert code(lambda: table().resume(key, ALICE, NOW)) == 80018
    assert code(lambda: table().by_key(key, "app1")) == 40006


@given(at=st.integers(0, 66), character=st.sampled_from(string.ascii_letters + string.digits + "_-!"))
@example(66, "!")
def test_no_character_of_a_key_can_be_changed(at: int, character: str) -> None:
    connections = table()
    key = connect(connections).key
    forged = key[:at] + character + key[at + 1 :]
    if forged != key:
        assert code(lambda: connections.resume(forged, ALICE, NOW)) == 80018


def test_a_key_of_another_servers_secret_was_never_issued() -> None:
    assert code(lambda: table(secret=bytes(32)).resume(connect(table()).key, ALICE, NOW)) == 80018


# resume


def test_a_lost_connection_is_resumed_with_its_id_and_a_new_key() -> None:
    connections = table()
    first = connect(connections)
    connections.lost(first.connection, "transport", NOW)
    second = connections.resume(first.key, ALICE, NOW + TTL)
    assert second.connection is first.connection
    assert second.key != first.key
    assert second.superseded is None
    assert connections.live == 1


def test_the_key_changes_even_within_one_millisecond() -> None:
    connections = table()
    keys = [connect(connections).key]
    for _ in range(10):
        keys.append(connections.resume(keys[-1], ALICE, NOW - 5).key)
    assert len(set(keys)) == 11


def test_newer_transport_supersedes_one_that_looks_alive() -> None:
    connections = table()
    first = connect(connections, owner="old")
    second = connections.resume(first.key, ALICE, NOW)
    assert second.superseded == "old"
    second.connection.owner = "new"
    connections.lost(second.connection, "old", NOW)  # its goodbye comes late, and means nothing
    connections.closed(second.connection, "old")
    assert connections.get(second.connection.id) is second.connection
    assert connections.live == 1


def test_previous_key_stays_valid_in_case_connected_was_lost() -> None:
    connections = table()
    first = connect(connections)
    connections.resume(first.key, ALICE, NOW + 1)
    connections.resume(first.key, ALICE, NOW + 2)
    third = connections.resume(first.key, ALICE, NOW + 3)
    fourth = connections.resume(third.key, ALICE, NOW + 4)
    assert code(lambda: connections.resume(first.key, ALICE, NOW + 5)) == 80005
    assert connections.resume(fourth.key, ALICE, NOW + 5).connection.id == first.connection.id


def test_a_closed_connection_cannot_be_resumed() -> None:
    connections = table()
    first = connect(connections)
    connections.closed(first.connection, "transport")
    assert len(connections) == 0
    assert code(lambda: connections.resume(first.key, ALICE, NOW)) == 80005


def test_connection_lost_too_long_ago_is_gone() -> None:
    connections = table()
    first, second = connect(connections), connect(connections)
    for opened in (first, second):
        connections.lost(opened.connection, "transport", NOW)
    assert code(lambda: connections.resume(first.key, ALICE, NOW + TTL + 1)) == 80005
    assert connections.expire(NOW + TTL) == 0
    assert connections.expire(NOW + TTL + 1) == 1
    assert code(lambda: connections.resume(second.key, ALICE, NOW + TTL + 1)) == 80005
    assert len(connections) == 0


def test_losing_it_twice_does_not_prolong_it() -> None:
    connections = table()
    first = connect(connections)
    connections.lost(first.connection, "transport", NOW)
    connections.lost(first.connection, None, NOW + TTL)
    assert connections.expire(NOW + TTL + 1) == 1


@pytest.mark.parametrize(
    ("owner", "other", "expected"),
    [
        (ALICE, identity("alice", "app2"), 80011),
        (ALICE, BOB, 40102),
        (ALICE, NOBODY, 40102),
        (ALICE, ANY, 40102),
        (NOBODY, ALICE, 40102),
        (ANY, ALICE, 40102),
    ],
)
def test_only_the_same_client_of_the_same_app_resumes(owner: Identity, other: Identity, expected: int) -> None:
    connections = table()
    first = connect(connections, owner)
    assert code(lambda: connections.resume(first.key, other, NOW)) == expected
    connections.closed(first.connection, "transport")
    assert code(lambda: connections.resume(first.key, other, NOW)) == expected  # what is gone is not told to strangers
    assert connections.live == 0


def test_another_token_of_the_same_client_will_do() -> None:
    connections = table()
    first = connect(connections, Identity("app1", "app1.key1", "alice", False, FULL, NOW + 1))
    renewed = Identity("app1", "app1.key2", "alice", False, Capability.parse('{"a":["publish"]}'), NOW + 2)
    assert connections.resume(first.key, renewed, NOW).connection is first.connection


# restarts


def test_a_connection_is_resumed_across_a_restart_for_the_ttl() -> None:
    before = table(life=1)
    first = connect(before)
    after = table(life=2, earlier={1: NOW})
    assert code(lambda: after.resume(first.key, ALICE, NOW + TTL + 1)) == 80005
    second = after.resume(first.key, ALICE, NOW + TTL)
    assert (second.connection.id, second.superseded) == (first.connection.id, None)
    assert second.key != first.key
    assert after.live == 1


def test_restart_in_the_same_millisecond_still_changes_the_key() -> None:
    first = connect(table(life=1))
    after = table(life=2, earlier={1: NOW})
    second = after.resume(first.key, ALICE, NOW)
    assert after.resume(second.key, ALICE, NOW).connection is second.connection


def test_key_not_known_as_issued_by_its_life_is_refused() -> None:
    """The life went on from a copy: what it gave out there means nothing here, also if its clock stood still."""
    noted: list[int] = []
    before = Connections(SECRET, life=1, earlier={}, ttl_ms=TTL, limit=9, note_key=noted.append, random=counting())
    first, second = connect(before), connect(before, now=NOW - 5)
    third = before.resume(first.key, ALICE, NOW - 7)
    assert noted == [NOW, NOW + 1, NOW + 2]
    for known in range(3):
        for number, opened in enumerate((first, second, third)):
            after = Connections(SECRET, life=2, earlier={1: NOW}, ttl_ms=TTL, limit=9, newest={1: NOW + known})
            if number <= known:
                assert after.resume(opened.key, ALICE, NOW).connection.id == opened.connection.id
            else:
                assert code(lambda: after.resume(opened.key, ALICE, NOW)) == 80005  # noqa: B023


def test_keys_of_a_life_that_nobody_remembers_are_too_old() -> None:
    first = connect(table(life=1))
    assert code(lambda: table(life=3, earlier={2: NOW}).resume(first.key, ALICE, NOW)) == 80005
    assert code(lambda: table(life=3).resume(first.key, ALICE, NOW)) == 80005


def test_closed_connection_is_not_resumed_with_its_old_key() -> None:
    first = connect(table(life=1))
    after = table(life=2, earlier={1: NOW})
    second = after.resume(first.key, ALICE, NOW)
    second.connection.owner = "transport"
    after.closed(second.connection, "transport")
    assert code(lambda: after.resume(first.key, ALICE, NOW)) == 80005
    assert code(lambda: after.resume(second.key, ALICE, NOW)) == 80005


def test_older_key_stays_superseded_after_a_restart() -> None:
    before = table(life=1)
    first = connect(before)
    second = before.resume(first.key, ALICE, NOW + 1)
    after = table(life=2, earlier={1: NOW})
    third = after.resume(second.key, ALICE, NOW + 2)
    assert code(lambda: after.resume(first.key, ALICE, NOW + 3)) == 80005
    assert after.resume(third.key, ALICE, NOW + 3).connection.id == first.connection.id


def test_a_crash_loop_is_survived_too() -> None:
    first = connect(table(life=1))
    second = table(life=2, earlier={1: NOW}).resume(first.key, ALICE, NOW + 10)
    after = table(life=3, earlier={2: NOW + 20, 1: NOW})
    assert after.resume(second.key, ALICE, NOW + 30).connection.id == first.connection.id


def test_guards_against_old_keys_are_bounded_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOMBSTONES", 2)
    before = table(life=1)
    keys = [connect(before).key for _ in range(4)]
    after = table(life=2, earlier={1: NOW})
    for key in keys:
        opened = after.resume(key, ALICE, NOW)
        opened.connection.owner = "transport"
        after.closed(opened.connection, "transport")
    assert len(after._closed) == 2
    after.expire(NOW + TTL)
    assert len(after._closed) == 2
    after.expire(NOW + TTL + 1)
    assert not after._closed
    assert code(lambda: after.resume(keys[3], ALICE, NOW + TTL + 1)) == 80005


# bounds


def test_so_many_are_live_and_no_more() -> None:
    connections = table(limit=2)
    first, _ = connect(connections), connect(connections)
    assert code(lambda: connections.open(ALICE, NOW)) == 50004
    assert connections.resume(first.key, ALICE, NOW).superseded == "transport"  # one that is live takes no more room
    first.connection.owner = "transport"
    connections.lost(first.connection, "transport", NOW)
    connect(connections)
    assert code(lambda: connections.resume(first.key, ALICE, NOW)) == 50004
    assert connections.get(first.connection.id) is first.connection  # it may come back later


def test_full_table_forgets_the_longest_lost_connection_first() -> None:
    connections = table(limit=2)
    keys = []
    for at in range(3):
        opened = connect(connections)
        keys.append(opened.key)
        connections.lost(opened.connection, "transport", NOW + at)
    assert len(connections) == 2
    assert code(lambda: connections.resume(keys[0], ALICE, NOW)) == 80005
    assert connections.resume(keys[1], ALICE, NOW).superseded is None


def test_connection_ids_are_unique_and_never_that_of_none() -> None:
    given_ = iter([bytes(8), bytes(7) + b"\x0f", b"\1" * 8, b"\1" * 8, b"\2" * 8])
    connections = Connections(SECRET, life=1, earlier={}, ttl_ms=TTL, limit=9, random=lambda size: next(given_))
    first, second = connections.open(ALICE, NOW), connections.open(ALICE, NOW)
    assert first.connection.id != second.connection.id
    assert connection_origin(first.connection.id) == int.from_bytes(b"\1" * 8, "big") >> 4


def test_an_idle_connection_costs_little() -> None:
    """Aimed at 300 bytes; the key is not among them."""
    connections, owner = table(limit=20_000), object()
    tracemalloc.start()
    try:
        for at in range(10_000):
            connections.open(ALICE, NOW + at).connection.owner = owner
        assert tracemalloc.get_traced_memory()[0] / 10_000 <= 300
    finally:
        tracemalloc.stop()


# publishing on behalf


def test_a_connection_is_found_by_its_keys_in_its_own_app() -> None:
    connections = table()
    first = connect(connections)
    second = connections.resume(first.key, ALICE, NOW)
    for key in (first.key, second.key):
        found = connections.by_key(key, "app1")
        assert (found.id, found.client_id) == (first.connection.id, "alice")
        assert code(lambda key=key: connections.by_key(key, "app2")) == 40006
    second.connection.owner = "transport"
    connections.lost(second.connection, "transport", NOW)
    assert connections.by_key(second.key, "app1").client_id == "alice"
    connections.expire(NOW + TTL + 1)
    assert code(lambda: connections.by_key(second.key, "app1")) == 40006


def test_anonymous_and_wildcard_connections_name_no_client() -> None:
    connections = table()
    assert connections.by_key(connect(connections, NOBODY).key, "app1").client_id is None
    assert connections.by_key(connect(connections, ANY).key, "app1").client_id is None


# all together


class AnyOrder(RuleBasedStateMachine):
    """Beside a plain dict: id -> the keys that must work, and when it was lost."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.connections = table()
        self.keys: list[str] = []
        self.valid: dict[str, set[str]] = {}
        self.lost: dict[str, int] = {}

    @rule()
    def open(self) -> None:
        opened = connect(self.connections, now=self.now)
        self.keys.append(opened.key)
        self.valid[opened.connection.id] = {opened.key}

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.keys))
        id = key[:10]
        held = key in self.valid.get(id, ()) and self.now - self.lost.get(id, self.now) <= TTL
        if not held:
            assert code(lambda: self.connections.resume(key, ALICE, self.now)) == 80005
            return
        live = id not in self.lost
        resumed = self.connections.resume(key, ALICE, self.now)
        assert resumed.connection.id == id
        assert resumed.superseded == ("transport" if live else None)
        assert resumed.key not in self.keys
        resumed.connection.owner = "transport"
        self.keys.append(resumed.key)
        self.valid[id] = {key, resumed.key}
        self.lost.pop(id, None)

    @precondition(lambda self: self.keys)
    @rule(data=st.data(), closed=st.booleans())
    def end(self, data: st.DataObject, closed: bool) -> None:
        id = data.draw(st.sampled_from(self.keys))[:10]
        connection = self.connections.get(id)
        if connection is None or connection.owner is None:
            return
        if closed:
            self.connections.closed(connection, "transport")
            del self.valid[id]
        else:
            self.connections.lost(connection, "transport", self.now)
            self.lost[id] = self.now

    @rule(step=st.integers(1, TTL), sweep=st.booleans())
    def time_passes(self, step: int, sweep: bool) -> None:
        self.now += step
        if sweep:
            self.connections.expire(self.now)

    @invariant()
    def live_ones_are_counted(self) -> None:
        assert self.connections.live == len([id for id in self.valid if id not in self.lost])


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_key_can_be_told_once_more() -> None:
    connections = table()
    opened = connect(connections)
    assert connections.key_of(opened.connection, ALICE) == opened.key
    resumed = connections.resume(opened.key, ALICE, NOW + 1)
    assert connections.key_of(resumed.connection, ALICE) == resumed.key != opened.key


def test_random_bytes_come_many_at_a_time_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []

    def token_bytes(size: int) -> bytes:
        drawn.append(len(drawn).to_bytes(1, "big") + bytes(n % 251 for n in range(1, size)))
        return drawn[-1]

    monkeypatch.setattr("engine.connection.secrets.token_bytes", token_bytes)
    source = RandomBytes()
    taken = [source.take(8) for _ in range(600)]
    assert all(len(part) == 8 for part in taken)
    assert len(drawn) == 3
    assert b"".join(taken[:256]) == drawn[0]
    assert b"".join(taken[256:512]) == drawn[1]
    assert len(source.take(5000)) == 5000


def test_who_has_lost_or_closed_a_connection_is_let_go_of():
    """Owners know their connection, so both would wait for the collector, which comes rarely."""
    connections = table()
    lost, closed = connect(connections).connection, connect(connections).connection
    connections.lost(lost, "transport", NOW)
    connections.closed(closed, "transport")
    assert lost.owner is closed.owner is None
