"""What tests of the running server share: one server for those that leave it running, an own one for the others."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before anybody imports them: their assertions should say what was compared, as those of tests do.
SHARED = ("tests.harness", "tests.peer", "tests.wsclient", "tests.sdk.contract", "tests.sdk.driving")
pytest.register_assert_rewrite(*SHARED)

from tests import certificates  # noqa: E402
from tests.harness import Server  # noqa: E402
from tests.proxy import ChaosProxy  # noqa: E402
from tests.wsclient import Served  # noqa: E402

_numbers = itertools.count(1)
# For tests/sanitize.sh: what is checked so closely takes its time.
settings.register_profile("sanitized", deadline=None)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nobody stops; whatever it meets there must be no traceback."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running
    assert not running.complaints(), running.complaints()


@pytest.fixture(scope="session")
def secure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same with TLS."""
    arguments = certificates.authority().arguments
    with Server(tmp_path_factory.mktemp("secure"), arguments=arguments) as running:
        yield running
    assert not running.complaints(), running.complaints()


@pytest.fixture(params=["plain", "tls"])
def served(request: pytest.FixtureRequest) -> Served:
    """Each of the two."""
    if request.param == "plain":
        return Served(request.getfixturevalue("server"), None)
    return Served(request.getfixturevalue("secure_server"), certificates.authority().client)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers of one's own, started; arguments are those of ``Server``. They are stopped in the end."""
    made: list[Server] = []

    def make(**options: object) -> Server:
        directory = tmp_path / f"server{len(made)}"
        directory.mkdir()
        one = Server(directory, **options)  # type: ignore[arg-type]  # passed on as they are
        made.append(one)
        return one.start()

    yield make
    for one in made:
        one.stop()
        one.close_sockets()
    assert not any(one.complaints() for one in made), [one.complaints() for one in made]


@pytest.fixture
def make_proxy() -> Iterator[Callable[[Server], ChaosProxy]]:
    """Makes proxies before servers."""
    made: list[ChaosProxy] = []

    def make(server: Server) -> ChaosProxy:
        made.append(ChaosProxy(server.address))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture(scope="session")
def authority() -> tuple[tuple[str, ...], ssl.SSLContext]:
    """How a server is told of its certificate, and what a client needs to trust it."""
    made = certificates.authority()
    return made.arguments, made.client


@pytest.fixture
def channel() -> str:
    """The name of a channel that no other test uses."""
    return f"test{next(_numbers)}"
