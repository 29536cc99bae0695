"""A channel's readers need no home: attach, resume and rewind on a mirror that is told of entries, with gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import test_sdk_js, test_sdk_python
from tests.harness import Server
from tests.mirrored import mirrored
from tests.sdk.contract import SdkContract

pytestmark = pytest.mark.sdk

CONCERNED = ("attach", "rewind", "resume", "recover", "cut", "kill", "backup", "hundreds", "options_that", "taken_and")


def on_mirrors(contract: type[SdkContract]) -> type[SdkContract]:
    """What it says of those who read."""
    tests = [name for name in dir(contract) if name.startswith("test_")]
    others = [name for name in tests if not any(word in name for word in CONCERNED)]
    return type(f"{contract.__name__}OnMirrors", (contract,), dict.fromkeys(others))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("mirrored")
    with Server(directory, executable=mirrored(directory)) as running:
        yield running
    assert not running.complaints(), running.complaints()


@pytest.fixture
def make_server(make_server: Callable[..., Server], tmp_path: Path) -> Callable[..., Server]:
    executable = mirrored(tmp_path)
    return lambda **options: make_server(executable=executable, **options)


TestJavaScriptOnMirrors = on_mirrors(test_sdk_js.TestJavaScript)
TestPythonOnMirrors = on_mirrors(test_sdk_python.TestPython)
