"""What is on its way to the journal is bounded, wherever it waits; beyond that publishers are told to come again."""

from __future__ import annotations

import pytest

from engine import limits
from engine.errors import JournalUnavailable
from engine.hub import Hub
from engine.journal.memory import MemoryJournal
from engine.sequencer import Asked
from engine.settings import Settings
from ext.log.author import Author
from tests.test_sequencer import POLICY, Told, awake, log_clock, publish

STAGED = 10_000


@pytest.fixture
def hub():
    settings = Settings(limits=limits.Limits(staged_bytes=STAGED))
    return Hub(settings, MemoryJournal(), log_clock(), bytes(16), lambda app_id, name: POLICY)


def stage_until_refused(hub, channel):
    """What each publish was told, the last one that it is refused."""
    told = []
    while not told or not told[-1].outcomes:
        told.append(Told())
        hub.stage(Asked(channel, publish(), f"AAAAAAAAAB:{len(told)}", Author("AAAAAAAAAB", None), told[-1]))
        assert len(told) < 1000
    return told


def test_publishes_beyond_the_bound_are_refused_alone(hub):
    channel = awake(within=hub.kept)
    told = stage_until_refused(hub, channel)
    assert told[-1].outcomes == [("refused", 50004)]
    assert STAGED < hub.common.pending_bytes <= limits.OVERSTAGED * STAGED + limits.WAITING_BYTES
    channel.sequence.commit(channel.sequence.take())
    assert hub.common.pending_bytes == 0
    assert [each.outcomes[0][0] for each in told[:-1]] == ["accepted"] * (len(told) - 1)


def test_those_that_wait_for_their_channel_to_wake_count_too(hub):
    channel = hub.open("app", "room")
    told = stage_until_refused(hub, channel)
    assert told[-1].outcomes == [("refused", 50004)]
    assert STAGED < hub.common.pending_bytes <= limits.OVERSTAGED * STAGED + 2 * limits.WAITING_BYTES
    for do in hub.give_up(channel, JournalUnavailable("the disk is on holiday")):
        do()
    assert hub.common.pending_bytes == 0
    assert {each.outcomes[0][0] for each in told} == {"refused"}
