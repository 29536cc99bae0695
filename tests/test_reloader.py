"""What server.reconfigure does when something fails: before the switch nothing has changed, after it all has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from trio.testing import trio_test

from engine.errors import JournalUnavailable, StartupFailed
from engine.settings import Namespace, Settings
from server.reconfigure import IN_CHANGE, NOT_TAKEN, Reloader

BEFORE = Settings()
WANTED = replace(
    BEFORE,
    limits=replace(BEFORE.limits, channels=5),
    namespaces={"chat": Namespace("chat", 24)},
)


class Journal:
    """Notes layouts; fails as often as it is told to."""

    def __init__(self) -> None:
        self.layouts: list[str] = []
        self.failures = 0

    def relayout(self, layout: str) -> None:
        if self.failures:
            self.failures -= 1
            raise JournalUnavailable("the disk is full")
        self.layouts.append(layout)

    def head(self) -> int:
        return 7


def reloader(reread: Callable[[], Settings]) -> tuple[Reloader, list[str], Journal]:
    """One whose server notes what it is told."""

    async def look() -> None:
        """Nothing new."""

    told: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *given: told.append(name)

    sequencer = SimpleNamespace(clock=SimpleNamespace(last=7), __len__=lambda: 0)
    journal: Any = Journal()
    hub: Any = SimpleNamespace(meters={}, kept=SimpleNamespace(sequencer=sequencer))
    watch: Any = SimpleNamespace(look=look, configure=note("watch"))
    front: Any = SimpleNamespace(limit=note("front"))
    rest: Any = SimpleNamespace(bounds=None)
    turn: Any = SimpleNamespace(end=note("end of turn"), busy=False)
    policies: Any = None  # no channel is open
    made = Reloader(
        BEFORE,
        reread,
        note("node"),
        front,
        rest,
        watch,
        None,
        hub=hub,
        policies=policies,
        journal=journal,
        turn=turn,
        keeps=True,
    )
    return made, told, journal


@pytest.mark.parametrize("error", [StartupFailed("x.toml: is no TOML"), ZeroDivisionError("a bug")], ids=repr)
@trio_test
async def test_what_cannot_be_read_changes_nothing_and_ends_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def reread() -> Settings:
        raise error

    one, told, journal = reloader(reread)
    await one._reload()
    assert (one.settings, told, journal.layouts) == (BEFORE, [], [])
    assert NOT_TAKEN in caplog.text and str(error) in caplog.text


@trio_test
async def test_a_journal_that_cannot_note_the_change_has_it_refused(caplog: pytest.LogCaptureFixture) -> None:
    one, told, journal = reloader(lambda: WANTED)
    journal.failures = 1
    await one._reload()
    assert (one.settings, told) == (BEFORE, [])
    assert "the disk is full" in caplog.text
    await one._reload()
    assert one.settings == WANTED


@trio_test
async def test_new_layout_is_noted_after_all_earlier_entries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    one, told, journal = reloader(lambda: WANTED)
    await one._reload()
    assert one.settings == WANTED
    assert set(told) == {"node", "front", "watch", "end of turn"}
    assert "reloaded: namespaces, limits.channels" in caplog.text
    assert journal.layouts == [IN_CHANGE + "chat=24"]
    journal.failures = 1
    await one._note_layout()
    assert journal.layouts == [IN_CHANGE + "chat=24"], "it failed, and is tried again"
    for _ in range(2):
        await one._note_layout()
    assert journal.layouts == [IN_CHANGE + "chat=24", "chat=24"], "once"
