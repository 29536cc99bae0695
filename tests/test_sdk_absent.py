"""What is not there, as users of both SDKs see it: each call is refused with its code, and nothing else suffers.

What is expected stands in tests/sdk/absent.py, of which the README's table is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import absent
from tests.harness import Server, history, token
from tests.sdk.absent import ABSENT, NOT_IN_PYTHON, answer_to, asks, readme_table, stands_for
from tests.sdk.driving import SDKS, Client, Driver, SdkError, driver_of, text
from tests.test_absent import PATHS

pytestmark = pytest.mark.sdk

README = Path(__file__).parent.parent / "README.md"
OURS = {40000, 40010, 40032, 40400}  # of errors that the server makes; the others have words of their own


@pytest.fixture(scope="module", params=SDKS)
def sdk(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def driver(sdk: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with driver_of(sdk, tmp_path_factory.mktemp("driver")) as made:
        yield made


def outcome(client: Client, ask: str, channel: str) -> int | None:
    try:
        found = client.ask(ask, channel)
    except SdkError as error:
        assert error.code not in OURS or "not available on this server" in error.message, (ask, error.message)
        return None if error.code is None else int(error.code)
    assert not found, ask  # if it is a list, it is empty
    return None


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
def test_each_call_has_its_answer_and_the_connection_goes_on(
    driver: Driver, sdk: str, server: Server, channel: str, packed: bool
) -> None:
    mine = token(server.address, {"*": ["*"], "[*]*": ["*"]}, client_id="me")
    client = driver.connect(server.port, binary=packed, token=mine, plugins=True)
    client.subscribe(channel)
    connection = client.connection()["id"]
    names = {ask: f"{channel}-{n}" for n, ask in enumerate(asks(sdk))}
    answers = {ask: outcome(client, ask, name) for ask, name in names.items()}
    assert answers == {ask: answer_to(ask, sdk) for ask in names}
    assert not any(history(server.address, name) for name in names.values())
    client.publish(channel, {"name": "after", "data": text("x")})
    assert [message["name"] for message in client.messages(channel, 1)] == ["after"]
    assert client.connection()["id"] == connection


# what is said of it


def test_the_readme_s_table_is_the_one_that_the_tests_go_by() -> None:
    assert readme_table() in README.read_text(), f"the README should have\n{readme_table()}"


def test_every_row_of_the_table_is_exercised() -> None:
    js, python = asks("js"), asks("python")
    assert set(js) - set(python) == NOT_IN_PYTHON and set(python) <= set(js)
    paths = [f"{method} {path}" for method, path, _ in PATHS]
    names = [name for _, _, names in ABSENT for name in names]
    assert [name for name in names if not any(stands_for(name, ask) for ask in js + paths)] == []
    assert [ask for ask in js if sum(stands_for(name, ask) for name in names) != 1] == []


def test_every_mode_and_param_of_it_is_asked_for() -> None:
    assert {f"mode {name}" for name in absent.MODES} | {f"param {name}" for name in absent.PARAMS} <= set(asks("js"))
