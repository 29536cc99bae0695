"""A file of the data directory is damaged: whoever does what the server says, to the letter, has everything again.

damage -> start: refused, with advice --followed--> start: keys, journal and messages are there
       -> start: as if nothing had been, for what can be done without"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import Server, history, publish, request
from tests.jwts import jwt
from tests.wsclient import WsClient

MESSAGES = ["one", "two", "three"]
CHANNEL = "kept:room"
CONFIG = "[namespaces.kept]\npersisted = true"  # longer than these tests may take


@dataclass(frozen=True)
class Before:
    """A data directory, its server stopped, and what clients have of it."""

    data: Path
    key: str  # made here, so it is known from apps.json alone
    token: str
    jwt: str  # of a key whose tokens can be revoked


def create_key(data: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("unbroken")), "keys", "create", "--data", str(data), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    directory = tmp_path_factory.mktemp("before")
    key = create_key(directory / "data", "--app", "shop", "--revocable-tokens")
    name = key.partition(":")[0]
    with Server(directory, config=CONFIG) as server:
        publish(server.address, CHANNEL, [{"data": text} for text in MESSAGES])
        code, details, _ = request(server.address, "POST", f"/keys/{name}/requestToken", {}, key=key)
        assert code == 200, details
        targets = {"targets": ["clientId:gone"]}
        assert request(server.address, "POST", f"/keys/{name}/revokeTokens", targets, key=key)[0] == 201
        with WsClient(server.address):  # its connection key is noted
            pass
    yield Before(server.data, key, details["token"], jwt(key=key, ttl=3600))


@pytest.fixture
def server(before: Before, tmp_path: Path) -> Iterator[Server]:
    """One that was never started, on a copy of that directory."""
    made = Server(tmp_path, config=CONFIG)
    shutil.copytree(before.data, made.data, copy_function=shutil.copy2)
    yield made
    made.stop()
    assert not made.complaints()


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halved(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00{garbage\n" * 3)


def another_kind(path: Path) -> None:
    path.write_bytes(b"[5]")


def wrong_inside(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"secret"', b'"secre"'))


Damage = Callable[[Path], None]
Follow = Callable[[str, "Server", Path], list[str]]


def restore(advice: str, server: Server, backup: Path) -> list[str]:
    """A backup of what is named, in its place."""
    # Within the journal the data directory is named once, in front.
    damaged = server.data / re.split(r": | is damaged", advice.rpartition("the journal is unavailable: ")[2])[0]
    copy = backup / damaged.relative_to(server.data)
    if damaged.is_dir():
        assert "move it elsewhere, and put a copy in its place" in advice
        damaged.rename(server.directory / "elsewhere")
        shutil.copytree(copy, damaged)
    else:
        assert "restore it from a backup" in advice
        shutil.copy2(copy, damaged)
    return []


def put_back(advice: str, server: Server, backup: Path) -> list[str]:
    command = re.search(r"restore its last contents with `([^`]+)`", advice)
    assert command is not None
    subprocess.run(command[1], shell=True, check=True, timeout=20)
    return []


def with_a_new_secret(advice: str, server: Server, backup: Path) -> list[str]:
    assert "start the server once with --new-secret added" in advice
    return ["--new-secret"]


REFUSED: list[tuple[str, Damage, Follow]] = [
    ("secret", flipped, restore),
    ("secret", gone, restore),
    ("secret", halved, with_a_new_secret),
    ("secret", gone, with_a_new_secret),
    ("apps.json", halved, restore),
    ("apps.json", gone, restore),
    ("apps.json", garbage, put_back),
    ("apps.json", gone, put_back),
    ("apps.json", another_kind, put_back),
    ("apps.json", wrong_inside, put_back),
    ("revocations", halved, restore),
    ("revocations", garbage, with_a_new_secret),
    ("revocations", another_kind, with_a_new_secret),
    ("journal/CURRENT", garbage, restore),
    ("journal/MANIFEST-*", halved, restore),
]
HARMLESS = ("lock", "apps.lock", "apps.json.copy", "alive", "issued", "nonces")


def found(data: Path, name: str) -> Path:
    return max(data.glob(name))


def refusal(server: Server) -> str:
    with pytest.raises(RuntimeError) as ended:
        server.start()
    said = re.findall(r"^unbroken: (.*)$", str(ended.value), re.MULTILINE)
    assert len(said) == 1, str(ended.value)
    return str(said[0])


def assert_all_is_there(server: Server, before: Before) -> None:
    assert [message["data"] for message in history(server.address, CHANNEL)] == MESSAGES
    assert request(server.address, "GET", "/channels/x/messages", key=before.key)[0] == 200
    publish(server.address, "another", {"data": "more"})


def status(server: Server, token: str) -> int:
    return request(server.address, "GET", "/channels/x/messages", headers={"Authorization": f"Bearer {token}"})[0]


@pytest.mark.parametrize(("name", "damage", "follow"), REFUSED)
def test_following_the_advice_restores_keys_and_messages(
    server: Server, before: Before, name: str, damage: Damage, follow: Follow
) -> None:
    damage(found(server.data, name))
    advice = refusal(server)
    assert not re.search(r"\b(remove|delete|rm)\b", advice)
    once = Server(server.directory, config=CONFIG, arguments=follow(advice, server, before.data))
    with once:
        assert ("created a new secret" in once.stderr()) == (follow is with_a_new_secret)
        assert_all_is_there(once, before)
        ends = {401} if follow is with_a_new_secret else {200}
        assert {status(once, token) for token in (before.token, before.jwt)} == ends
    if follow is with_a_new_secret:
        with server:  # it was enough
            assert_all_is_there(server, before)
            assert {status(server, token) for token in (before.token, before.jwt)} == ends


@pytest.mark.parametrize("damage", [gone, garbage])
def test_what_can_be_done_without_stops_nobody(server: Server, before: Before, damage: Damage) -> None:
    for name in HARMLESS:
        damage(found(server.data, name))
    with server:
        assert_all_is_there(server, before)
        assert status(server, before.token) == 200


def test_a_journal_that_is_moved_elsewhere_leaves_the_keys(server: Server, before: Before) -> None:
    garbage(server.data / "journal" / "CURRENT")
    assert "Without any copy the server starts with its keys and without messages" in refusal(server)
    (server.data / "journal").rename(server.directory / "elsewhere")
    server.start()
    assert history(server.address, CHANNEL) == []
    assert request(server.address, "GET", "/channels/x/messages", key=before.key)[0] == 200


def test_new_secret_ends_only_tokens_and_sessions(server: Server, before: Before) -> None:
    with server, WsClient(server.address) as client:
        session = client.connection_key
    after = Server(server.directory, config=CONFIG, arguments=["--new-secret"])
    with after:
        assert_all_is_there(after, before)
        assert {status(after, token) for token in (before.token, before.jwt)} == {401}
        with WsClient(after.address, resume=session) as client:
            assert client.connection_key != session
            assert client.connected["error"]["code"] == 80018


def test_no_document_and_no_message_advises_to_remove_anything() -> None:
    root = Path(__file__).parent.parent
    advised = re.compile(r"(;|,|\bor) (then )?(remove|delete|rm) (it|the|all|your|-)")
    texts = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("docs/*.toml")]
    texts += [path for part in ("server", "engine") for path in root.joinpath(part).rglob("*.py")]
    assert len(texts) > 100
    for path in texts:
        assert not advised.search(path.read_text()), path
