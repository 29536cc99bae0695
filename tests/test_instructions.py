"""bench.instructions counts what it says: messages of every path, and what is missing is told."""

from __future__ import annotations

import subprocess

import pytest

from bench import instructions


@pytest.mark.parametrize("path", instructions.PATHS)
def test_every_path_runs_and_counts_its_messages(path):
    one, two = (instructions.PATHS[path](rounds) for rounds in (1, 2))
    assert two == 2 * one > 0


def test_start_up_is_left_out(monkeypatch, tmp_path):
    """A start of 7,000 instructions, and 50 for each message."""
    monkeypatch.setattr(instructions, "_run", lambda path, rounds, tree: (7_000 + 50 * 64 * rounds, 64 * rounds))
    assert instructions.count("fan-out", tmp_path) == 50


def test_without_valgrind_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(instructions.shutil, "which", lambda program: None)
    assert instructions.main([]) == 2
    assert "needs valgrind" in capsys.readouterr().err


def test_a_path_that_fails_ends_with_its_reason(monkeypatch, capsys):
    def fail(path, rounds, tree):
        raise subprocess.CalledProcessError(1, "valgrind", stderr="first\nno such module\n")

    monkeypatch.setattr(instructions.shutil, "which", lambda program: program)
    monkeypatch.setattr(instructions, "_run", fail)
    assert instructions.main(["--only", "fan-out"]) == 1
    assert capsys.readouterr().err == "fan-out: no such module\n"
