"""Which life gave out which serial: directories are started, killed and copied, beside a plain record of all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import limits
from engine.journal.lives import Lives, new_series
from engine.journal.store import META, RocksStore
from tests.journals import block, journal_at


class Directory:
    """What is on disk, and the plain record: every serial that was given out, by the name of its life."""

    def __init__(self, lives: Lives, head: int, given: dict[int, str]) -> None:
        self.lives, self.head, self.given = lives, head, given

    def start(self) -> None:
        self.lives = self.lives.followed(self.head, new_series())

    def publish(self, step: int) -> tuple[int, str]:
        self.head += step
        self.given[self.head] = self.lives.series
        return self.head, self.lives.series

    def copy(self) -> Directory:
        """As it is on disk: what runs on it has to be started first."""
        return Directory(Lives.decode(self.lives.encode()), self.head, dict(self.given))


@given(data=st.data())
def test_a_cursor_is_known_exactly_where_it_was_given_out(data):
    """Invariant: whatever was copied when, a serial counts only with the life that gave it out in this very history."""
    directories = [Directory(Lives([new_series()]), 0, {})]
    cursors: list[tuple[int, str]] = []
    for _ in range(data.draw(st.integers(1, 40))):
        one = data.draw(st.sampled_from(directories))
        what = data.draw(st.sampled_from(["publish", "publish", "start", "copy"]))
        if what == "publish":
            cursors.append(one.publish(data.draw(st.integers(1, 3))))
        elif what == "start":
            one.start()
        elif len(directories) < 4:
            directories.append(one.copy())
            directories[-1].start()
    for one in directories:
        for serial, series in cursors:
            held = one.given.get(serial) == series
            assert held == (serial <= one.head and one.lives.series_of(serial) == series), (serial, series)
        assert all(one.lives.series_of(serial) in one.lives for serial, _ in cursors)


def test_place_keeps_its_name_over_lives_that_store_nothing():
    lives = Lives(["first000"])
    for n in range(3 * limits.LIVES_KEPT):
        lives = lives.followed(0, f"{n:08d}")
    assert lives.series_of(0) == "first000"
    assert lives.series_of(1) == lives.series == f"{n:08d}"
    lives = lives.followed(7, "stored00").followed(7, "again000").followed(9, "now00000")
    assert [lives.series_of(serial) for serial in (0, 1, 7, 8, 9, 10)] == [
        "first000",
        f"{n:08d}",
        f"{n:08d}",
        "again000",
        "again000",
        "now00000",
    ]
    assert "stored00" not in lives


def test_the_oldest_lives_are_forgotten_and_the_rest_stays():
    lives = Lives(["00000000"])
    for n in range(1, limits.LIVES_KEPT + 10):
        lives = lives.followed(10 * n, f"{n:08d}")
    assert "00000009" not in lives
    assert lives.series_of(10 * 20) == "00000019"
    assert len(lives.encode()) == 16 * limits.LIVES_KEPT - 8
    assert Lives.decode(lives.encode()).encode() == lives.encode()


@pytest.mark.parametrize("value", [b"", b"short", b"a" * 9, b"a" * 23, b"\xff" * 8])
def test_what_is_no_list_of_lives_is_refused(value):
    with pytest.raises(ValueError):
        Lives.decode(value)


@pytest.mark.parametrize("older", ["knew no lives", "was here since"])
def test_journal_of_an_older_server_has_one_earlier_life(tmp_path, older):
    journal = journal_at(tmp_path)
    journal.append([block("a", 10, series=journal.series)], synced=True)
    series = journal.series
    journal.close()
    store = RocksStore(tmp_path)
    if older == "knew no lives":
        store.write([(META, b"lives:series", None)])
    else:
        series = "another0"
        store.write([(META, b"series", series.encode())])
    store.close()
    journal = journal_at(tmp_path)
    assert [journal.lives_for(True).series_of(serial) for serial in (0, 10, 11)] == [series, series, journal.series]
    journal.close()
