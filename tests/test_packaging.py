"""What others install: the source distribution, and the wheel that is built from it, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.harness import Server, history, publish

ROOT = Path(__file__).parent.parent
FLAGS = "-O0 -g0"  # it is looked at whether it is all there, and not how fast


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The source distribution, made from what is tracked."""
    directory = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0"):
        if name and (ROOT / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes((ROOT / name).read_bytes())
    made = run(["-c", "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"], directory)
    return directory / "dist" / made.split()[-1]


@pytest.fixture(scope="module")
def wheel(source):
    """The wheel, made from the source distribution alone."""
    directory = source.parent / "wheel"
    run(["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(directory), str(source)], ROOT)
    (made,) = directory.glob("unbroken-*.whl")
    return made


def run(arguments, directory, python=sys.executable):
    done = subprocess.run(
        [python, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        env={**os.environ, "UNBROKEN_CFLAGS": FLAGS},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_source_distribution_has_only_sources(source):
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    rooms = {str(path.relative_to(ROOT)) for path in (ROOT / "ext").rglob("*.p[xy][dxi]")}
    assert rooms and rooms <= names
    assert not [name for name in names if name.endswith((".c", ".so"))]


def test_the_wheel_has_every_package_and_no_generated_code(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {
        str(path.relative_to(ROOT)) for package in ("engine", "server") for path in (ROOT / package).rglob("*.py")
    }
    assert modules <= names
    compiled = {name.partition(".")[0] for name in names if name.endswith(".so")}
    assert compiled == {str(path.relative_to(ROOT).with_suffix("")) for path in (ROOT / "ext").rglob("*.pyx")}
    assert not [name for name in names if name.endswith((".c", ".pyx")) or name.startswith("tests")]


def test_what_is_installed_in_an_empty_environment_serves(wheel, tmp_path):
    directory = tmp_path / "empty"
    venv.create(directory, with_pip=True)
    python = str(directory / "bin" / "python")
    run(["-m", "pip", "install", "-q", str(wheel)], tmp_path, python)
    told = subprocess.run([directory / "bin" / "unbroken", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert told.stdout.startswith("unbroken ")
    with Server(tmp_path, executable=directory / "bin" / "unbroken") as server:
        publish(server.address, "room", {"name": "n", "data": "x"})
        assert [message["data"] for message in history(server.address, "room")] == ["x"]
    assert not server.complaints(), server.complaints()
    sizes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    assert sizes < 150 << 20, f"{sizes >> 20} MiB are installed"
