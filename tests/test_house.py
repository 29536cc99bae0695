"""The walls stand where docs/ARCHITECTURE.md says: who may import whom."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Rooms of the server that know no sockets.
SANS_IO = {"protocol", "accepting", "attaching", "wire", "attachment", "fields", "actions"}


def imported(path: Path) -> set[str]:
    """The top-level packages that a module imports, in Python or Cython."""
    if path.suffix in (".pyx", ".pxd"):
        lines = re.findall(r"^\s*(?:from|c?import) +([\w.]+)", path.read_text(), re.MULTILINE)
        return {line.split(".")[0] for line in lines}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def modules(package: str) -> list[Path]:
    return sorted(p for p in (ROOT / package).rglob("*") if p.suffix in (".py", ".pyx", ".pxd"))


@pytest.mark.parametrize("path", modules("ext"), ids=lambda p: p.name)
def test_ext_knows_bytes_and_integers_only(path):
    assert not imported(path) & {"engine", "server", "trio", "logging"}


@pytest.mark.parametrize("path", modules("engine"), ids=lambda p: p.name)
def test_the_engine_knows_no_sockets_no_trio_and_no_clock(path):
    waiting = {"trio", "trio_websocket", "socket", "ssl", "asyncio", "h11"}
    assert not imported(path) & {"server", "logging", "time", *waiting}


@pytest.mark.parametrize("name", sorted(SANS_IO))
def test_the_client_s_state_machine_knows_neither_trio_nor_sockets(name):
    assert not imported(ROOT / "server" / f"{name}.py") & {"trio", "socket", "trio_websocket", "h11", "time"}


def test_the_server_names_only_some_rooms_of_ext_and_there_are_rooms_to_look_at():
    assert len(modules("ext")) > 10
    assert len(modules("engine")) > 15
    assert "ext" in imported(ROOT / "server" / "node.py")


@pytest.mark.parametrize("path", modules("ext"), ids=lambda p: p.name)
def test_every_compiled_room_has_a_typed_face(path):
    if path.suffix == ".pyx":
        assert path.with_suffix(".pyi").exists()
