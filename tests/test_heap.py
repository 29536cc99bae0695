"""How much memory there is for us, and when what is free is given back."""

from __future__ import annotations

import os

import pytest

from engine.errors import StartupFailed
from engine.limits import GIB, MIB, Limits
from engine.settings import Settings
from server.node.heap import Falling, machine_bytes

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": f"{512 * MIB}"}, 512 * MIB),
        ("0::/a/b", {"a/b/memory.max": f"{300 * MIB}", "a/memory.max": f"{512 * MIB}"}, 300 * MIB),
        ("0::/", {"memory.max": f"{256 * MIB}\n"}, 256 * MIB),
        ("0::/../x", {"memory.max": f"{256 * MIB}"}, 256 * MIB),
        ("4:cpu,memory:/box", {"memory/box/memory.limit_in_bytes": f"{100 * MIB}"}, 100 * MIB),
        ("4:memory:/gone", {"memory/memory.limit_in_bytes": f"{100 * MIB}"}, 100 * MIB),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, PHYSICAL),
        ("3:cpu:/box", {"memory.max": f"{100 * MIB}"}, PHYSICAL),
        ("nonsense", {"memory.max": "nonsense"}, PHYSICAL),
        (None, {}, PHYSICAL),
    ],
)
def test_machine_memory_is_the_narrowest_group_limit(tmp_path, group, files, expected):
    if group is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(group + "\n")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine_bytes(tmp_path) == expected


@pytest.mark.parametrize(
    ("memory", "ring", "bodies"),
    [(512 * MIB, 128 * MIB, 40 * MIB), (2 * GIB, 512 * MIB, 128 * MIB), (256 * GIB, GIB, 128 * MIB)],
)
def test_budgets_are_worked_out_from_it_unless_they_are_given(memory, ring, bodies):
    assert Limits().within(memory) == Limits(ring_bytes=ring, bodies_bytes=bodies)
    given = Limits(ring_bytes=5, bodies_bytes=7)
    assert given.within(memory) == given


def test_bodies_budget_below_the_largest_body_is_refused():
    with pytest.raises(StartupFailed, match=r"bodies_bytes: must be at least 4 times .*, 8,388,608, got 8,388,607"):
        Settings(limits=Limits(bodies_bytes=8 * MIB - 1)).within(GIB)
    assert Settings(limits=Limits(bodies_bytes=8 * MIB)).within(GIB).limits.ring_bytes == 256 * MIB
    large = Limits(max_frame_size=256 * MIB).within(GIB)
    assert large.bodies_bytes == GIB, "by default it fits"


def test_a_fall_is_noticed_once_for_each_part_of_it():
    falling = Falling(10)
    assert [falling.by_enough(size) for size in (5, 100, 91, 90, 85, 80, 79, 200, 195, 189)] == [
        *(False, False, False, True, False, True),
        *(False, False, False, True),
    ]
