"""What a figure was measured on: the machine, the versions, the commit. Names of hosts and people stay out of it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def facts() -> dict[str, Any]:
    """CPU model, cores, kernel, Python: equal facts mean that times may be compared, and not only ratios."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit that is measured, with ``+`` when files in git have been changed since; '' outside of git."""
    found = git("rev-parse", "--short=10", "HEAD")
    if not found:
        return ""
    # Results of an earlier run in the same checkout are no change of what is measured.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)bench/results")
    return found.strip() + ("+" if changed else "")


def git(*arguments: str) -> str:
    """What git prints; '' when it fails or is not there."""
    try:
        done = subprocess.run(("git", "-C", str(ROOT), *arguments), capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
