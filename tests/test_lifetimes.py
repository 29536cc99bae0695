"""What server.node.lifetimes promises: a token ends in its millisecond, clients are warned, and forgotten."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from engine.auth.capability import FULL_TEXT, Capability
from engine.auth.revocation import Revocation, Revocations
from engine.auth.tokens import Identity
from engine.errors import PubSubError
from engine.settings import Settings
from server.node.clients import Clients
from server.node.lifetimes import HINT_MS, SPARE, Lifetimes

START = 1_700_000_000_000
CAPABILITY = Capability.parse(FULL_TEXT)


class FakeClient:
    """What a Lifetimes sees of one."""

    def __init__(self, house: House, client_id: str, expires_ms: int | None, issued_ms: int) -> None:
        issued = None if expires_ms is None else issued_ms
        self.identity = Identity("app1", "app1.key1", client_id, False, CAPABILITY, expires_ms, issued)
        self.open = True
        self.cut_off_at: int | None = None
        self.told: list[tuple[int, int]] = []  # by the clock that nobody sets
        self.answer: Callable[[], None] = lambda: None
        self.events: list[tuple[str | int, int]] = []
        self._house = house

    def ask_for_credentials(self) -> None:
        self.events.append(("asked", self._house.now_ms() - START))
        self.answer()

    def cut_off(self) -> None:
        if self.open:
            self.cut_off_at = self._house.now_ms() - START
        self.open = False

    def part(self, error: PubSubError) -> None:
        assert not self.open
        self.events.append((error.code, self._house.now_ms() - START))
        self.told.append((error.code, round(trio.current_time() * 1000)))


class House:
    """A Lifetimes on trio's clock."""

    def __init__(self) -> None:
        self.revocations = Revocations()
        self.turns = 0
        self.set_back_ms = 0
        self.lifetimes: Any = Lifetimes(self.revocations, self.now_ms, self._turn)

    def now_ms(self) -> int:
        return START + round(trio.current_time() * 1000) - self.set_back_ms

    def _turn(self) -> None:
        self.turns += 1

    def client(self, expires_in: int | None, client_id: str = "x", issued_in: int = 0) -> FakeClient:
        made = FakeClient(self, client_id, None if expires_in is None else START + expires_in, START + issued_in)
        self.lifetimes.watch(made)
        return made

    def revoke(self, client_id: str, applies_in: int, before_in: int = 1) -> Revocation:
        entry = Revocation("app1.key1", "client", client_id, START + before_in, START + applies_in)
        self.revocations.add(entry, self.now_ms())
        return entry


def clients_with(now_ms: Callable[[], int], **parts: Any) -> Clients:
    """Those of a server that has only these parts."""
    now: Any = SimpleNamespace(wall_ms=now_ms, steady_ms=now_ms)
    names = ("hub", "authenticator", "revocations", "connections", "allowances", "lifetimes")
    given: Any = {name: parts.get(name) for name in names}
    return Clients(now=now, touched=[], bounds=Settings().limits, **given)


def run(scenario: Any) -> None:
    """On a clock that begins at 0 and jumps ahead when nothing else is to do."""

    async def main() -> None:
        house = House()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.lifetimes.run)
            await scenario(house)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("expires_in", "expected"),
    [
        (1, [(40142, 1)]),
        (5_000, [(40142, 5_000)]),
        (HINT_MS, [(40142, HINT_MS)]),
        (35_000, [("asked", 5_000), (40142, 35_000)]),
        (3_600_000, [("asked", 3_570_000), (40142, 3_600_000)]),
    ],
)
def test_token_ends_in_its_millisecond_after_a_request_to_renew(expires_in: int, expected: list[Any]) -> None:
    async def scenario(house: House) -> None:
        client = house.client(expires_in)
        await trio.sleep(4_000)
        assert client.events == expected
        assert house.turns == len(expected)
        assert not len(house.lifetimes)

    run(scenario)


def test_who_has_a_key_is_left_alone() -> None:
    async def scenario(house: House) -> None:
        client = house.client(None)
        await trio.sleep(10_000)
        assert client.events == [] and not len(house.lifetimes)

    run(scenario)


def test_new_credentials_count_from_when_they_come() -> None:
    async def scenario(house: House) -> None:
        renewed, keyed = house.client(5_000), house.client(5_000)
        await trio.sleep(4)
        for client, expires_ms in ((renewed, START + 6_000), (keyed, None)):
            client.identity = Identity("app1", "app1.key1", "x", False, CAPABILITY, expires_ms)
            house.lifetimes.watch(client)
        await trio.sleep(100)
        assert renewed.events == [(40142, 6_000)]
        assert keyed.events == []

    run(scenario)


def test_earlier_deadline_does_not_wait_for_later_ones() -> None:
    async def scenario(house: House) -> None:
        await trio.sleep(10)  # nobody is there, so nothing is awaited
        first = house.client(3_600_000)
        await trio.sleep(0.5)
        second = house.client(10_900)
        await trio.sleep(1)
        assert second.events == [(40142, 10_900)]
        assert first.events == []

    run(scenario)


def test_who_has_gone_is_not_spoken_to() -> None:
    async def scenario(house: House) -> None:
        gone, superseded = house.client(5_000), house.client(5_000)
        house.lifetimes.forget(gone)
        house.lifetimes.forget(gone)
        superseded.open = False
        await trio.sleep(10)
        assert gone.events == superseded.events == []
        assert not len(house.lifetimes)

    run(scenario)


@pytest.mark.parametrize(
    "end", [Clients._left, partial(Clients.ended, closed=True), partial(Clients.ended, closed=False)]
)
def test_the_server_keeps_nobody_whose_transport_is_gone(end: Any) -> None:
    async def scenario(house: House) -> None:
        client: Any = house.client(3_600_000)
        client.allowance = client.connection = None
        client.transport = SimpleNamespace(silence_ms=0)
        others = SimpleNamespace(lost=lambda *of: None, closed=lambda *of: None)
        clients = clients_with(house.now_ms, connections=others, allowances=others, lifetimes=house.lifetimes)
        clients._live[client] = client
        end(clients, client)
        assert not len(clients) and not len(house.lifetimes)

    run(scenario)


def test_a_clock_that_is_set_forward_is_followed() -> None:
    async def main() -> None:
        ahead = 0
        house = House()
        real, house.now_ms = house.now_ms, lambda: real() + ahead  # type: ignore[method-assign]
        house.lifetimes = Lifetimes(house.revocations, house.now_ms, lambda: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.lifetimes.run)
            client = house.client(3_600_000)
            await trio.sleep(1.5)
            ahead = 3_600_000
            await trio.sleep(1.5)
            assert [event for event, _ in client.events] == [40142]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_revocation_ends_whom_it_is_about_when_it_applies() -> None:
    async def scenario(house: House) -> None:
        alice, bob, warned = (house.client(3_600_000, name) for name in ("alice", "bob", "warned"))
        await trio.sleep(1)
        entries = [house.revoke("alice", 1_000), house.revoke("warned", 31_000)]
        await house.lifetimes.revoke(entries, [alice, bob, warned])
        assert alice.events == [(40141, 1_000)]
        late = house.client(3_600_000, "warned")
        await trio.sleep(60)
        for client in (warned, late):
            assert client.events == [("asked", 1_000), (40141, 31_000)]
        assert bob.events == []

    run(scenario)


@pytest.mark.parametrize(
    ("issued_in", "revoked_in", "told_in"),
    [(0, 300, 1_000), (-5_000, 300, 1_000), (-5_000, 999, 1_000), (-1, 300, 300)],
)
@pytest.mark.parametrize("set_back_ms", [0, 3_600_000])
def test_who_is_cut_off_hears_of_it_when_a_new_token_is_good(
    issued_in: int, revoked_in: int, told_in: int, set_back_ms: int
) -> None:
    """At once, but for tokens that count in seconds: in the next full one, also if the clock is set back meanwhile."""

    async def scenario(house: House) -> None:
        client = house.client(3_600_000, issued_in=issued_in)
        await trio.sleep(revoked_in / 1000)
        await house.lifetimes.revoke([house.revoke("x", revoked_in, revoked_in + 1)], [client])
        assert (client.open, client.cut_off_at) == (False, revoked_in)
        house.set_back_ms = set_back_ms
        await trio.sleep(2)
        house.set_back_ms = 0
        [(code, at)] = client.told
        assert code == 40141
        assert told_in <= at <= told_in + 2
        assert not len(house.lifetimes)

    run(scenario)


def test_revoked_comer_is_asked_once_a_second_for_a_while() -> None:
    async def scenario(house: House) -> None:
        stubborn, late = house.client(3_600_000), house.client(3_600_000)
        stubborn.answer = lambda: house.lifetimes.watch(stubborn, renewed=True)
        await house.lifetimes.revoke([house.revoke("x", 3_500)], [stubborn])
        await trio.sleep(1.5)
        house.lifetimes.watch(late, renewed=True)
        await trio.sleep(60)
        assert stubborn.events == [*(("asked", at) for at in (0, 1_000, 2_000, 3_000)), (40141, 3_500)]
        assert late.events == [("asked", 2_500), (40141, 3_500)]

    run(scenario)


def test_token_that_expires_before_its_revocation_expires() -> None:
    async def scenario(house: House) -> None:
        client = house.client(5_000)
        await house.lifetimes.revoke([house.revoke("x", 30_000)], [client])
        await trio.sleep(100)
        assert client.events == [(40142, 5_000)]

    run(scenario)


@given(lives=st.lists(st.integers(1, 60_000), min_size=1, max_size=30))
def test_all_end_in_their_order(lives: list[int]) -> None:
    async def scenario(house: House) -> None:
        clients = [house.client(life) for life in lives]
        await trio.sleep(70)
        assert [client.events[-1] for client in clients] == [(40142, life) for life in lives]

    run(scenario)


def test_clients_that_come_and_go_leave_nothing_behind() -> None:
    async def scenario(house: House) -> None:
        for _ in range(3 * SPARE):
            house.lifetimes.forget(house.client(3_600_000))
        stays = house.client(5_000)
        assert len(house.lifetimes._heap) <= SPARE + 2
        await trio.sleep(10)
        assert stays.events == [(40142, 5_000)]

    run(scenario)


@pytest.mark.parametrize(("silence_ms", "lost_ago_ms"), [(0, 0), (40_000, 0), (41_000, 1_000), (160_000, 120_000)])
def test_connection_is_lost_since_its_loss_was_detectable(silence_ms: int, lost_ago_ms: int) -> None:
    """Who leaves replies unread is given longer; what it sends again is known for no longer than of others."""
    lost: list[int] = []
    client: Any = SimpleNamespace(connection=None, transport=SimpleNamespace(silence_ms=silence_ms))
    connections = SimpleNamespace(lost=lambda connection, owner, at_ms: lost.append(at_ms))
    lifetimes = SimpleNamespace(forget=lambda of: None)
    clients_with(lambda: START, connections=connections, lifetimes=lifetimes).ended(client, closed=False)
    assert lost == [START - lost_ago_ms]
