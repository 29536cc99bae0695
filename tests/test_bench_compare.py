"""What `make bench` says about two results: a difference only where there is more than noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare import EQUAL, Room, Timing, as_json, change, condense, from_json, node_ids, table


def timing(median: float, noise: float = 0.0) -> Timing:
    return Timing(median, 2 * noise * median, 100)


def room(compiled: float, baseline: float | None = None, *, noise: float = 0.0) -> Room:
    return Room("a room", timing(compiled, noise), timing(baseline, noise) if baseline else None)


def measured(param: str, median: float, *, iqr: float = 0.0, group: str = "ring: read") -> dict[str, object]:
    name = f"test_read[{param}]"
    return {
        "group": group,
        "name": name,
        "fullname": f"bench/test_bench_ring.py::{name}",
        "param": param or None,
        "stats": {"median": median, "iqr": iqr, "rounds": 10},
    }


def words(old: Room, new: Room, *, same_machine: bool = True) -> str | None:
    found = change(old, new, same_machine=same_machine)
    return found.word if found else None


def test_under_fifteen_percent_counts_as_equal():
    assert words(room(1.0), room(1.14)) == "same"
    assert words(room(1.0), room(0.88)) == "same"


def test_beyond_it_a_quiet_machine_tells_better_from_worse():
    assert words(room(1.0), room(1.2)) == "worse"
    assert words(room(1.0), room(0.8)) == "better"


def test_a_noisy_pair_is_equal_within_its_noise():
    assert words(room(1.0, noise=0.3), room(1.35, noise=0.3)) == "same"
    assert words(room(1.0, noise=0.3), room(1.45, noise=0.3)) == "worse"


def test_when_the_baseline_moves_along_it_was_the_machine():
    assert words(room(1.0, 4.0), room(1.5, 6.0)) == "same"
    assert words(room(1.0, 4.0), room(1.5, 4.1)) == "worse"
    assert words(room(1.0, 4.0), room(0.5, 4.1)) == "better"


def test_baseline_that_moves_alone_says_nothing():
    assert words(room(1.0, 4.0), room(1.0, 8.0)) == "same"


def test_on_another_machine_only_ratios_are_compared():
    assert words(room(1.0, 4.0), room(3.0, 12.0), same_machine=False) == "same"
    assert words(room(1.0, 4.0), room(1.0, 2.0), same_machine=False) == "worse"
    assert words(room(1.0), room(9.0), same_machine=False) is None


@given(
    old=st.floats(1e-9, 10), factor=st.floats(0.01, 100), noises=st.tuples(*[st.floats(0, 1)] * 2), same=st.booleans()
)
def test_what_is_better_one_way_is_worse_the_other_way(old, factor, noises, same):
    before, after = (
        Room("r", timing(median, noise), timing(old * 3, noise))
        for median, noise in zip((old, old * factor), noises, strict=True)
    )
    there, back = words(before, after, same_machine=same), words(after, before, same_machine=same)
    assert (there, back) in {("better", "worse"), ("worse", "better"), ("same", "same")}
    if factor * 0.999 > 1 / (1 + EQUAL) and factor * 1.001 < 1 + EQUAL:
        assert there == "same"


def test_compiled_and_baseline_of_a_case_become_one_room():
    rooms = condense([{"benchmarks": [measured("baseline-10-1-channel", 3.0), measured("engine-10-1-channel", 1.0)]}])
    assert [(r.name, r.ratio) for r in rooms] == [("ring: read, 10-1-channel", 3.0)]


def test_library_is_no_baseline_and_a_module_may_stand_alone():
    benchmarks = [measured("ext", 1.0), measured("wsproto", 9.0), measured("", 2.0, group="alone")]
    rooms = condense([{"benchmarks": benchmarks}])
    assert [(r.name, r.compiled.median, r.baseline) for r in rooms] == [("ring: read", 1.0, None), ("alone", 2.0, None)]


def test_middle_of_three_passes_counts_and_spread_is_noise():
    passes = [{"benchmarks": [measured("ext", median, iqr=0.1)]} for median in (1.0, 9.0, 1.5)]
    (found,) = condense(passes)
    assert found.compiled == Timing(1.5, 16.0, 30)


def test_disagreeing_passes_count_as_noise():
    """What seemed worse is measured again; if it was not, the distance of the passes says so."""
    benchmarks = [{"benchmarks": [measured("ext", median)]} for median in (1.5, 1.5, 1.5, 1.0, 1.0, 1.0)]
    before = Room("ring: read", timing(1.0), None)
    assert words(before, *condense(benchmarks[:3])) == "worse"
    assert words(before, *condense(benchmarks)) == "same"


def test_what_is_to_be_measured_again_is_named_as_pytest_does():
    other = measured("ext", 2.0, group="other")
    passes = [{"benchmarks": [measured("ext", 1.0), measured("baseline", 1.0), other]}] * 2
    names = ["bench/test_bench_ring.py::test_read[baseline]", "bench/test_bench_ring.py::test_read[ext]"]
    assert node_ids(passes, ["ring: read"]) == names


def test_middle_half_of_quiet_rounds_is_the_noise():
    (found,) = condense([{"benchmarks": [measured("ext", 1.0, iqr=0.4)]}] * 3)
    assert found.compiled.noise == pytest.approx(0.2)


@pytest.mark.parametrize(
    "benchmarks",
    [
        [measured("ext", 1.0), measured("ext", 2.0)],
        [measured("baseline", 1.0)],
        [measured("ext", 1.0), measured("engine", 1.0)],
        [measured("ext-baseline", 1.0)],
    ],
    ids=["twice", "no compiled room", "two of them", "both at once"],
)
def test_benchmarks_that_cannot_be_paired_are_refused(benchmarks):
    with pytest.raises(ValueError, match=r"ring: read|test_read"):
        condense([{"benchmarks": benchmarks}])


@given(st.floats(1e-9, 100), st.floats(0, 1), st.integers(1, 10**6), st.booleans())
def test_what_is_written_is_read_again_to_four_digits(median, iqr, rounds, alone):
    written = [Room("r", Timing(median, iqr, rounds), None if alone else Timing(median * 2, iqr, rounds))]
    (read,) = from_json(as_json(written))
    assert read.compiled.median == pytest.approx(median, rel=1e-3)
    assert read.compiled.iqr == pytest.approx(iqr, rel=1e-3)
    assert (read.name, read.compiled.rounds, read.baseline is None) == ("r", rounds, alone)


def test_table_lists_new_gone_and_changed_rows():
    before = [room(1.0, 4.0), Room("gone", timing(1.0), None)]
    lines = table([room(2.0, 4.0), Room("fresh", timing(3e-9), None)], before, same_machine=True, against="abc")
    assert "against abc" in lines[0]
    assert lines[2].split() == ["a", "room", "2", "s", "4", "s", "2.0x", "+100%", "±15%", "worse"]
    assert lines[3].split() == ["fresh", "3", "ns", "-", "-", "new"]
    assert lines[4].startswith("gone: was measured before")
