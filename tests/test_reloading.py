"""What engine.reloading promises: each setting is taken over, or named and left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from engine.auth.keys import Key
from engine.limits import Limits
from engine.quota import Quota
from engine.reloading import STAYS, SWITCHED, as_written, merged
from engine.settings import Namespace, Settings

EXAMPLE = Path(__file__).parent.parent / "docs" / "unbroken.example.toml"
NAMES = [name for name in Settings.__struct_fields__ if name != "limits"]
NAMES += [f"limits.{name}" for name in Limits.__struct_fields__]


def test_each_setting_is_known_to_switch_or_to_stay() -> None:
    assert set(NAMES) == SWITCHED | set(STAYS)
    assert not SWITCHED & set(STAYS)


def test_example_marks_each_setting_that_needs_a_restart() -> None:
    lines = EXAMPLE.read_text().splitlines()
    marked = {line.partition(" =")[0].strip() for line in lines if "(restart)" in line and " =" in line}
    named = {as_written(name).rpartition(".")[2] for name in STAYS}
    above = "durability"  # which is explained above
    assert marked | {above} == named
    assert lines[lines.index('durability = "synced"') - 1] == "# (restart)"


def other(name: str, value: object) -> object:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value * 2 or 64
    special = {
        "namespaces": {"n": Namespace("n")},
        "quotas": {"app": Quota(connections=1)},
        "keys": (Key("a", "k", "s"),),
    }
    if name in ("app_quotas", *special):
        return special.get(name, {"a": Quota(connections=1)})
    return f"{value}x" if isinstance(value, str) else Path("other")


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_is_taken_over_or_named(name: str) -> None:
    before = replace(Settings(), dev=True, tls_cert=Path("c"), tls_key=Path("k"))
    of, _, field = name.rpartition(".")
    value = other(name, getattr(before.limits if of else before, field))
    given = {field: value} if not of else {"limits": replace(before.limits, **{field: value})}
    wanted = replace(before, **given)
    found = merged(before, wanted, in_use=lambda space: False, keeps=True)
    if name in SWITCHED:
        assert (found.settings, found.changed, found.left) == (wanted, (name,), ())
    else:
        assert (found.settings, found.changed) == (before, ())
        (left,) = found.left
        told = "listen" if name in ("host", "port") else name
        assert str(left) == f"{told}: stays as it was until a restart: {STAYS[name]}"


@pytest.mark.parametrize(("cert", "key"), [(None, None), (Path("c"), Path("k"))])
def test_whether_the_port_speaks_tls_stays(cert: Path | None, key: Path | None) -> None:
    before = replace(Settings(), tls_cert=cert, tls_key=key)
    after = (None, None) if cert else (Path("c"), Path("k"))
    wanted = replace(before, tls_cert=after[0], tls_key=after[1])
    found = merged(before, wanted, in_use=lambda space: False, keeps=True)
    assert (found.settings, found.changed, [left.name for left in found.left]) == (before, (), ["tls_cert, tls_key"])


@pytest.mark.parametrize(
    ("durability", "keeps", "used", "taken"),
    [("memory", True, False, True), ("memory", True, True, False), ("written", False, False, False)],
)
def test_durability_of_a_namespace_switches_if_unused(durability: str, keeps: bool, used: bool, taken: bool) -> None:
    before = replace(Settings(), namespaces={"old": Namespace("old", 0, durability), "same": Namespace("same")})
    wanted = replace(before, namespaces={"new": Namespace("new", 0, durability), "same": Namespace("same", 5)})
    found = merged(before, wanted, in_use=lambda space: used, keeps=keeps)
    if taken:
        assert (found.settings, found.left) == (wanted, ())
    else:
        assert found.settings.namespaces == {"old": before.namespaces["old"], "same": wanted.namespaces["same"]}
        assert [left.name for left in found.left] == ["namespaces.new", "namespaces.old"]
