"""The walls stand where docs/ARCHITECTURE.md says: who may import whom."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVER_FLOORS = ("realtime", "http", "node", "rest", "transport")  # rooms of the server: each may name those before it
EXT_FLOORS = ("text", "wire", "log", "disk", "net", "load")  # folders of ext: each may name those before it
CLIENT_PARTS = (  # of one client's state machine: each may name those before it, also for types
    ("actions", "fields", "libraries", "wire", "transport"),
    ("modes", "params", "shaping"),
    ("attachment",),
    ("session",),
    ("accepting",),
    ("attach",),
    ("protocol",),
)
ABOVE = {"app", "assembly", "cli", "keys_command", "reconfigure"}  # what puts the rooms together


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


def named(path: Path) -> set[str]:
    """What lies right below ``server`` and is imported by a module of it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "server":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("server."):
            found.add(node.module.split(".")[1])
    return found


def cimported(path: Path) -> set[str]:
    """What lies right below ``ext`` and is named by a module of it."""
    return set(re.findall(r"^\s*(?:from|c?import) +ext\.(\w+)", path.read_text(), re.MULTILINE))


def modules(package: str) -> list[Path]:
    return sorted(p for p in (ROOT / package).rglob("*") if p.suffix in (".py", ".pyx", ".pxd"))


@pytest.mark.parametrize("path", modules("ext"), ids=lambda p: p.name)
def test_ext_knows_bytes_and_integers_only(path):
    assert not imported(path) & {"engine", "server", "trio", "logging"}


@pytest.mark.parametrize("folder", EXT_FLOORS)
def test_a_folder_of_ext_names_none_above_it(folder):
    above = set(EXT_FLOORS[EXT_FLOORS.index(folder) + 1 :])
    found = {path.name: cimported(path) & above for path in modules(f"ext/{folder}")}
    assert len(found) > 5
    assert not any(found.values()), found


@pytest.mark.parametrize("name", ["posts.pyx", "answer.pyx", "permits.pyx", "patience.pxd", "http_request.pxd"])
def test_http_publish_modules_touch_only_their_own_fields(name):
    touched = re.findall(r"\b(\w+)\._[a-z]\w*", (ROOT / "ext" / "net" / name).read_text())
    assert set(touched) <= {"self"}


@pytest.mark.parametrize("path", modules("engine"), ids=lambda p: p.name)
def test_the_engine_knows_no_sockets_no_trio_and_no_clock(path):
    waiting = {"trio", "trio_websocket", "socket", "ssl", "asyncio", "h11"}
    assert not imported(path) & {"server", "logging", "time", *waiting}


@pytest.mark.parametrize("path", modules("server/realtime"), ids=lambda p: p.name)
def test_the_realtime_room_is_sans_io(path):
    assert not imported(path) & {"trio", "socket", "ssl", "trio_websocket", "h11", "time", "threading"}


def parts_named(path: Path) -> set[str]:
    """What of ``server.realtime`` is imported by a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "server.realtime":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("server.realtime."):
            found.add(node.module.split(".")[2])
    return found


def test_the_parts_of_a_client_know_each_other_in_one_direction():
    room = ROOT / "server" / "realtime"
    floors = {part: floor for floor, parts in enumerate(CLIENT_PARTS) for part in parts}
    assert floors.keys() == {path.stem for path in room.glob("*.py")} - {"__init__"}
    for part, floor in floors.items():
        assert not {named for named in parts_named(room / f"{part}.py") if floors[named] >= floor}, part


@pytest.mark.parametrize("room", SERVER_FLOORS)
def test_a_room_of_the_server_names_no_room_above_it(room):
    above = {*SERVER_FLOORS[SERVER_FLOORS.index(room) + 1 :], *ABOVE}
    found = {path.name: named(path) & above for path in modules(f"server/{room}")}
    assert len(found) > 5
    assert not any(found.values()), found


def test_a_name_names_one_thing():
    """No module, and no class, of the server and the engine has the name of another."""
    paths = [path for path in (*modules("engine"), *modules("server")) if path.stem != "__init__"]
    names = [path.stem for path in paths]
    names += [line for path in paths for line in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE)]
    assert not [name for name, count in Counter(names).items() if count > 1]


def test_only_what_puts_the_server_together_names_the_node():
    """Whoever else needs a part of it is given that part."""
    naming = [path.stem for path in modules("server") if "import Node\n" in path.read_text()]
    assert naming == ["assembly"]


def test_server_imports_only_some_ext_modules():
    assert len(modules("ext")) > 10
    assert len(modules("engine")) > 15
    assert "ext" in imported(ROOT / "server" / "node" / "node.py")


@pytest.mark.parametrize("path", modules("ext"), ids=lambda p: p.name)
def test_every_compiled_room_has_a_typed_face(path):
    if path.suffix == ".pyx":
        assert path.with_suffix(".pyi").exists()


def test_every_module_stands_in_the_architecture():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    listed = set(re.findall(r"\w+", text.partition("```\next/")[2].partition("```")[0]))
    missing = [
        str(path.relative_to(ROOT))
        for package in ("ext", "engine", "server")
        for path in modules(package)
        if path.stem != "__init__" and path.stem not in listed
    ]
    assert listed and not missing


def test_every_place_that_the_architecture_names_exists():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    places = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for package in ("ext", "engine", "server")
        for path in modules(package)
    }
    named = set(re.findall(r"`((?:\w+/)+\w+)(?:\.\w+)?`", text))
    named = {name for name in named if not name.startswith(("docs/", "tests/"))}
    assert named
    assert not [name for name in named if not any(place == name or place.endswith("/" + name) for place in places)]
