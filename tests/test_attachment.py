"""What server.realtime.attachment promises: each event has an answer in each state, and no place is lost on the way."""

from __future__ import annotations

from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.realtime.actions import Flag
from server.realtime.attachment import IMPOSSIBLE, TRANSITIONS, Attachment, Event, State

PAIRS = list(product(State, Event))
PATHS = {  # how each state is come to
    State.STARTING: [],
    State.LIVE: [Event.FOLLOWS],
    State.BEHIND: [Event.LAGS],
    State.SILENT: [Event.SILENCED],
    State.ENDED: [Event.LEAVES],
}


class Model:
    """An attachment by four facts, and what each event asks of them."""

    def __init__(self) -> None:
        self.here = True
        self.said = False  # its ATTACHED
        self.silent = False
        self.reading = False  # a stream

    @property
    def state(self) -> State:
        if not self.here:
            return State.ENDED
        if not self.said:
            return State.STARTING
        if self.silent:
            return State.SILENT
        return State.LIVE if self.reading else State.BEHIND

    def allows(self, event: Event) -> bool:
        if event is Event.LEAVES:
            return True
        if not self.here:
            return False
        if event is Event.RESTARTS:
            return self.silent
        return not self.silent and not (event is Event.FOLLOWS and self.reading)

    def happens(self, event: Event) -> None:
        assert self.allows(event)
        self.here = event is not Event.LEAVES
        self.said = event is not Event.RESTARTS
        self.silent = event is Event.SILENCED
        self.reading = event is Event.FOLLOWS


class Channel:
    """In which one entry after another is made; ``held``: a stream has what comes next."""

    def __init__(self) -> None:
        self.attached = 0
        self.granted = 0
        self.held = True
        self.head = 0
        self.outgoing = None

    def count_attachment(self, change: int) -> None:
        self.attached += change

    def recount(self, before: int, after: int) -> None:
        self.granted += bool(after) - bool(before)

    def stream(self, variant: object) -> Any:
        return SimpleNamespace(place_after=lambda cursor: cursor if self.held else None, head=self.head)

    def in_ring(self, cursor: int) -> bool:
        return False


class Transport:
    """That counts who reads by it."""

    queued = 0
    shaper = None

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.readers = 0

    def subscribe(self, stream: Any, place: int, **how: Any) -> Any:
        self.readers += 1
        return Reader(self)


class Reader:
    active = True

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @property
    def cursor(self) -> int:
        return self.transport.channel.head

    def stop(self) -> None:
        self.transport.readers -= 1


class Room:
    """An attachment, driven by its own methods, beside its model."""

    def __init__(self) -> None:
        self.channel = Channel()
        self.transport = Transport(self.channel)
        self.attachment = Attachment(SimpleNamespace(full="room"), self.channel)  # type: ignore[arg-type]
        self.attachment.modes = Flag.SUBSCRIBE
        self.attachment.cursor = 0
        self.model = Model()

    def happens(self, event: Event) -> None:
        attachment = self.attachment
        if event in (Event.FOLLOWS, Event.LAGS) and attachment.reader is None:
            self.channel.held = event is Event.FOLLOWS
            attachment.read_from(attachment.cursor, self.transport, 0, 0, 1)  # type: ignore[arg-type]
        elif event is Event.LAGS:
            attachment.fall_behind()
        elif event is Event.SILENCED:
            attachment.fall_silent()
        elif event is Event.LEAVES:
            attachment.end()
        else:
            attachment.happens(event)
        self.model.happens(event)

    def check(self) -> None:
        attachment, model = self.attachment, self.model
        assert attachment.state is model.state
        assert self.transport.readers == (model.state is State.LIVE) == (attachment.reader is not None)
        assert (self.channel.attached, self.channel.granted) == (model.here, model.here)
        assert attachment.active == model.here


def come_to(state: State) -> Room:
    room = Room()
    for event in PATHS[state]:
        room.happens(event)
    assert room.attachment.state is state
    return room


def test_every_pair_has_exactly_one_answer():
    allowed = {(state, event) for state, events in TRANSITIONS.items() for event in events}
    assert allowed | set(IMPOSSIBLE) == set(PAIRS)
    assert not allowed & set(IMPOSSIBLE)


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=[f"{event.name}-{state.name}" for state, event in PAIRS])
def test_an_event_leads_where_the_model_says_or_is_refused(state, event):
    room = come_to(state)
    if room.model.allows(event):
        room.happens(event)
        room.check()
    else:
        with pytest.raises(AssertionError, match=IMPOSSIBLE[state, event]):
            room.attachment.happens(event)
        assert room.attachment.state is state


@given(st.lists(st.tuples(st.sampled_from(Event), st.integers(0, 3)), max_size=30))
def test_a_place_only_grows_and_nothing_is_skipped(steps):
    """Whatever happens, an attachment reads on right behind the last entry that a reader of its own was given."""
    room = Room()
    places = [0]
    for event, entries in steps:
        if not room.model.allows(event):
            continue
        given_until = room.channel.head if room.model.reading else places[-1]
        room.happens(event)
        room.check()
        if room.model.here:
            places.append(given_until if not room.model.reading else room.attachment.position)
            if not room.model.reading:
                assert room.attachment.cursor == given_until
        room.channel.head += entries
    assert all(before <= after for before, after in pairwise(places))
