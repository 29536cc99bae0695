"""What is promised of revoked tokens: those that are meant end when it was said, and no others, across restarts too."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import limits
from engine.auth.capability import Capability
from engine.auth.keys import Key
from engine.auth.revocation import Revocation, Revocations, TokenRevoked, parse_target
from engine.auth.tokens import Identity
from engine.errors import AuthError, BadRequest, LimitExceeded, PubSubError, StartupFailed
from server.datadir import DataDirectory
from server.rest.revoking import Revoker, begin, dump, read
from tests.harness import Server, request
from tests.jwts import jwt
from tests.test_protocol import ended_with, refusal, until_pong
from tests.wsclient import Action, WsClient

NOW = 1_700_000_000_000
HOUR = 3_600_000
KEY = Key("app1", "rev", "s", revocable_tokens=True)


def holder(client_id: str | None = None, *, issued: int = NOW - 1, capability: str = "{}", **fields: Any) -> Identity:
    parsed = Capability.parse(capability) if capability != "{}" else KEY.capability
    values = {"key_name": KEY.name, "token_client_id": client_id, **fields}
    key_name = values.pop("key_name")
    return Identity("app1", key_name, client_id, False, parsed, issued + HOUR, issued, **values)


# which tokens


def concerns(entry: Revocation, who: Identity) -> bool:
    """Is it about this one's token? Plainly, as the protocol has it."""
    if who.issued_ms is None or not any(
        key_name == entry.key_name and issued_ms < entry.issued_before
        for key_name, issued_ms in ((who.key_name, who.issued_ms), who.wrapped or ("", 0))
    ):
        return False
    if entry.kind == "client":
        return entry.value in (who.client_id, who.token_client_id)
    return entry.value == who.revocation_key if entry.kind == "key" else entry.value in who.capability.names


@pytest.mark.parametrize(
    ("target", "who"),
    [
        ("clientId:alice", holder("alice")),
        ("clientId:a:b", holder("a:b")),
        ("clientId:*", holder("*")),
        ("clientId:alice", holder("alice", token_client_id="*")),
        ("clientId:*", holder("alice", token_client_id="*")),
        ("revocationKey:group", holder(revocation_key="group")),
        ("channel:room:1", holder(capability='{"x":["*"],"room:1":["*"]}')),
        ("channel:*", holder()),
        ("revocationKey:group", holder(revocation_key="group", key_name="app1.k", wrapped=(KEY.name, NOW - 1))),
        ("clientId:alice", holder("alice", issued=NOW, key_name="app1.k", wrapped=(KEY.name, NOW - 1))),
    ],
)
def test_these_are_meant(target: str, who: Identity) -> None:
    entry = Revocation(KEY.name, *parse_target(target), NOW, NOW)
    assert concerns(entry, who)
    assert Revocations([entry]).applies_at(who) == NOW
    with pytest.raises(AuthError) as refused:
        Revocations([entry]).check(who, NOW)
    assert (refused.value.code, refused.value.status) == (40141, 401)
    Revocations([entry]).check(who, NOW - 1)


@pytest.mark.parametrize(
    ("target", "who"),
    [
        ("clientId:alice", holder("bob")),
        ("clientId:alice", holder()),
        ("clientId:alice", holder("alice", issued=NOW)),  # it is younger
        ("clientId:alice", holder("alice", key_name="app1.other")),
        ("clientId:alice", holder("alice", key_name="app1.other", wrapped=(KEY.name, NOW))),
        ("clientId:alice", Identity("app1", KEY.name, "alice", False, KEY.capability)),  # it is no token
        ("revocationKey:group", holder("group")),
        ("revocationKey:group", holder()),
        ("channel:room:1", holder(capability='{"room:*":["*"]}')),  # exactly that resource, and no other that matches
        ("channel:room:1", holder()),
    ],
)
def test_these_are_not_meant(target: str, who: Identity) -> None:
    entry = Revocation(KEY.name, *parse_target(target), NOW, NOW)
    assert not concerns(entry, who)
    assert Revocations([entry]).applies_at(who) is None


times = st.integers(NOW - 3, NOW + 3)
entries = st.builds(
    Revocation,
    st.sampled_from(["app1.rev", "app1.other"]),
    st.sampled_from(["client", "key"]),
    st.sampled_from(["a", "b"]),
    times,
    times,
)
holders = st.builds(
    lambda client, key, issued, name, wrapped: holder(
        client, revocation_key=key, issued=issued, key_name=name, wrapped=wrapped
    ),
    st.sampled_from(["a", "b", None]),
    st.sampled_from(["a", "b", None]),
    times,
    st.sampled_from(["app1.rev", "app1.other"]),
    st.none() | st.tuples(st.sampled_from(["app1.rev", "app1.other"]), times),
)


@settings(max_examples=300)
@given(revoked=st.lists(entries, max_size=12), tried=st.lists(holders, max_size=6))
def test_what_is_kept_says_exactly_what_was_revoked(revoked: list[Revocation], tried: list[Identity]) -> None:
    """Whatever is left out because something else covers it, and across a restart."""
    kept = Revocations()
    for entry in revoked:
        kept.add(entry, NOW)
    assert len(kept) == len(list(kept)) <= len(revoked)
    for found in (kept, read(dump(kept), NOW)):
        for who in tried:
            assert found.applies_at(who) == min(
                (entry.applies_at for entry in revoked if concerns(entry, who)), default=None
            )


@given(revoked=st.lists(entries, max_size=12), later=st.integers(0, 6))
def test_revocation_is_forgotten_once_its_tokens_expired(revoked: list[Revocation], later: int) -> None:
    now, kept = NOW + HOUR - 3 + later, Revocations(revoked)
    before = set(kept)
    kept.expire(now)
    assert set(kept) == {entry for entry in before if now < entry.issued_before + HOUR}
    assert len(kept) == len(list(kept))


def test_there_is_a_bound_and_nothing_is_forgotten_for_it() -> None:
    kept = Revocations(Revocation("k", "client", str(n), NOW, NOW) for n in range(limits.REVOCATIONS))
    with pytest.raises(LimitExceeded) as refused:
        kept.add(Revocation("k", "client", "one more", NOW, NOW), NOW)
    assert refused.value.code == 42910
    assert len(kept) == limits.REVOCATIONS
    kept.add(Revocation("k", "client", "one more", NOW + HOUR, NOW + HOUR), NOW + HOUR)
    assert len(kept) == 1


@pytest.mark.parametrize(
    "target", ["", "x", "clientId", "clientId:", "client:x", "channel:" + "x" * 1025, "ClientId:x", ":x", "\ud800:x"]
)
def test_what_is_no_target_is_refused(target: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target(target)
    assert refused.value.code == 40000


# the file


@pytest.mark.parametrize(
    "content",
    [
        b" ",
        b"{",
        b"5",
        b"[[]]",
        b'[["k"]]',
        b'[["k","x","v",1,1]]',
        b'[["k","client",5,1,1]]',
        b'[["k","client","v","1",1]]',
    ],
)
def test_damaged_file_is_refused_not_taken_for_empty(tmp_path: Path, content: bytes) -> None:
    assert not len(read(None, NOW))
    (tmp_path / "revocations").write_bytes(content)
    key = Key("a", "k", "secret", revocable_tokens=True)
    with DataDirectory.open(tmp_path) as directory, pytest.raises(StartupFailed, match=r"revocations: is damaged"):
        begin(directory, [key], NOW)
    with DataDirectory.open(tmp_path, new_secret=True) as directory:
        begun = list(begin(directory, [key, Key("a", "other", "secret")], NOW))
    assert (
        begun
        == list(read((tmp_path / "revocations").read_bytes(), NOW))
        == [Revocation("a.k", "all", "", NOW + 1, NOW)]
    )
    assert (tmp_path / "revocations.damaged").read_bytes() == content


def test_what_has_had_its_time_is_not_read_back() -> None:
    old, new = (Revocation("k", "client", "a", before, before) for before in (NOW - HOUR, NOW - HOUR + 1))
    assert list(read(dump([old, new]), NOW)) == [new]


# the request


class Asked:
    """A Revoker whose surroundings are visible."""

    def __init__(self, store: Callable[[bytes], None] | None = None) -> None:
        self.revocations = Revocations()
        self.stored: list[bytes] = []
        self.effects: list[list[Revocation]] = []
        self.revoker = Revoker(self.revocations, store or self.stored.append, self._effect, lambda: NOW)

    async def _effect(self, entries: list[Revocation]) -> None:
        self.effects.append(entries)

    def ask(self, body: dict[str, Any], *, key: Key | None = KEY, name: str = KEY.name) -> dict[str, Any]:
        return trio.run(self.revoker.revoke, name, body, key)

    def refusal(self, body: dict[str, Any], **options: Any) -> tuple[int, int]:
        with pytest.raises(PubSubError) as refused:
            self.ask(body, **options)
        assert not self.effects
        return refused.value.code, refused.value.status


def test_each_target_has_its_result_in_its_place() -> None:
    asked = Asked()
    answer = asked.ask({"targets": ["clientId:bob", "invalid:x", "channel:a:b", "revocationKey:r"]})
    assert (answer["successCount"], answer["failureCount"]) == (3, 1)
    assert answer["results"][0] == {"target": "clientId:bob", "issuedBefore": NOW + 1, "appliesAt": NOW}
    assert answer["results"][1]["error"]["code"] == 40000
    assert [result["target"] for result in answer["results"]][2:] == ["channel:a:b", "revocationKey:r"]
    found = [(entry.kind, entry.value) for entry in asked.effects[0]]
    assert found == [("client", "bob"), ("channel", "a:b"), ("key", "r")]
    assert set(read(asked.stored[-1], NOW)) == set(asked.effects[0]) == set(asked.revocations)


def test_each_request_lets_go_of_those_that_have_had_their_time() -> None:
    asked = Asked()
    asked.revocations.add(Revocation(KEY.name, "client", "old", NOW - HOUR, NOW - HOUR), NOW - HOUR)
    asked.ask({"targets": ["clientId:new"]})
    assert [entry.value for entry in asked.revocations] == ["new"]


def test_a_time_before_which_and_a_margin_may_be_given() -> None:
    asked = Asked()
    for given_, expected in ((NOW - HOUR, NOW - HOUR), (float(NOW), NOW), (None, NOW + 1)):
        answer = asked.ask({"targets": ["clientId:b"], "issuedBefore": given_, "allowReauthMargin": True})
        assert answer["results"][0] == {"target": "clientId:b", "issuedBefore": expected, "appliesAt": NOW + 30_000}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, 40000),
        ({"targets": "clientId:x"}, 40000),
        ({"targets": [5]}, 40000),
        ({"targets": []}, 40003),
        ({"targets": ["clientId:x"] * 101}, 40003),
        ({"targets": ["clientId:x"], "issuedBefore": NOW + 1}, 40003),
        ({"targets": ["clientId:x"], "issuedBefore": NOW - HOUR - 1}, 40003),
        ({"targets": ["clientId:x"], "issuedBefore": "x"}, 40003),
        ({"targets": ["clientId:x"], "issuedBefore": True}, 40003),
        ({"targets": ["clientId:x"], "issuedBefore": NOW - 0.5}, 40003),
        ({"targets": ["clientId:x"], "issuedBefore": math.nan}, 40003),
        ({"targets": ["clientId:x"], "allowReauthMargin": "yes"}, 40000),
    ],
)
def test_a_request_that_is_wrong_revokes_nothing(body: dict[str, Any], code: int) -> None:
    assert Asked().refusal(body) == (code, 400)


def test_who_may_revoke() -> None:
    body = {"targets": ["clientId:x"]}
    assert Asked().refusal(body, key=None) == (40162, 401)
    assert Asked().refusal(body, name="app1.other") == (40133, 401)
    assert Asked().refusal(body, key=Key("app1", "rev", "s")) == (40163, 401)


def test_unstored_revocation_fails_but_applies() -> None:
    def fail(content: bytes) -> None:
        raise OSError(28, "No space left on device")

    asked = Asked(fail)
    with pytest.raises(PubSubError) as refused:
        asked.ask({"targets": ["clientId:x"]})
    assert (refused.value.code, refused.value.status) == (50003, 500)
    assert len(asked.revocations) == 1


def test_token_of_the_same_millisecond_is_revoked() -> None:
    asked, begun = Asked(), time.monotonic()
    asked.ask({"targets": ["clientId:x"]})
    assert time.monotonic() - begun >= 0.001
    assert asked.revocations.applies_at(holder("x", issued=NOW)) == NOW
    assert asked.revocations.applies_at(holder("x", issued=NOW + 1)) is None


@pytest.mark.parametrize(
    ("before_in", "issued_in", "good_in"),
    [(1, 0, 1000), (1, -60_000, 1000), (1000, 0, 1000), (0, -1000, 0), (1, -1, 1), (300, 150, 300), (1001, 1000, 2000)],
)
def test_notice_says_when_a_new_token_is_valid(before_in: int, issued_in: int, good_in: int) -> None:
    kept = Revocations([Revocation(KEY.name, "client", "x", NOW + before_in, NOW + before_in)])
    with pytest.raises(TokenRevoked) as refused:
        kept.check(holder("x", issued=NOW + issued_in), NOW + 5000)
    assert refused.value.again_ms == NOW + good_in
    assert kept.applies_at(holder("x", issued=NOW + good_in)) is None


def test_many_at_once_are_all_stored_by_few_writes() -> None:
    asked = Asked()

    async def many() -> None:
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(asked.revoker.revoke, KEY.name, {"targets": [f"clientId:{n}"]}, KEY)

    trio.run(many)
    assert len(read(asked.stored[-1], NOW)) == 50
    assert len(asked.stored) < 10


def test_revocation_during_a_write_is_written_before_its_answer() -> None:
    stored: list[bytes] = []
    answered: list[int] = []

    def store(content: bytes) -> None:
        if not stored:
            trio.from_thread.run(slow.wait)
        stored.append(content)

    async def one(client_id: str) -> None:
        await asked.revoker.revoke(KEY.name, {"targets": [f"clientId:{client_id}"], "issuedBefore": NOW}, KEY)
        answered.append(len(stored))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "first")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(one, "second")
            await trio.testing.wait_all_tasks_blocked()
            slow.set()

    slow, asked = trio.Event(), Asked(store)
    trio.run(main)
    assert answered == [1, 2]
    assert [len(read(content, NOW)) for content in stored] == [1, 2]


# the running server

REVOCABLE = "app1.rev:topsecret"
CONFIG = """
[[apps]]
id = "app1"
keys = [{ key = "app1.rev:topsecret", revocable_tokens = true }, "app1.plain:topsecret"]
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Server(tmp_path_factory.mktemp("revoking"), config=CONFIG) as running:
        yield running
    assert not running.complaints(), running.complaints()


def token(server: Server, **fields: Any) -> str:
    status, details, _ = request(server.address, "POST", "/keys/app1.rev/requestToken", fields, key=REVOCABLE)
    assert status == 200, details
    return str(details["token"])


def revoke(server: Server, *targets: str, **fields: Any) -> dict[str, Any]:
    path, body = "/keys/app1.rev/revokeTokens", {"targets": targets, **fields}
    status, answer, _ = request(server.address, "POST", path, body, key=REVOCABLE)
    assert status == 201, answer
    return dict(answer)


def rest_code(server: Server, token: str) -> int:
    status, body, _ = request(
        server.address, "GET", "/channels/x/messages", headers={"Authorization": f"Bearer {token}"}
    )
    return 200 if status == 200 else int(body["error"]["code"])


def connect(server: Server, token: str) -> WsClient:
    return WsClient(server.address, key=None, access_token=token)


@pytest.mark.parametrize("kind", ["client", "key", "channel"])
def test_live_connections_and_rest_end_and_others_go_on(own: Server, kind: str) -> None:
    name = f"{kind}-{time.time_ns()}"
    made = {
        "client": (lambda: token(own, clientId=name), f"clientId:{name}"),
        "key": (lambda: jwt(key=REVOCABLE, revocation_key=name, iat=time.time()), f"revocationKey:{name}"),
        "channel": (lambda: token(own, capability=json.dumps({name: ["*"], "x": ["*"]})), f"channel:{name}"),
    }
    make, target = made[kind]
    old, other = make(), token(own, clientId="bystander", capability=json.dumps({"x": ["*"]}))
    with connect(own, old) as client, connect(own, other) as bystander:
        assert revoke(own, target)["successCount"] == 1
        error = ended_with(client, Action.DISCONNECTED)["error"]
        assert (error["code"], error["statusCode"]) == (40141, 401)
        bystander.publish("x", {"data": "y"})
    assert rest_code(own, old) == 40141
    assert refusal(own.address, key=None, access_token=old) == (40141, 401)
    assert rest_code(own, other) == rest_code(own, make()) == 200


def test_token_ends_only_for_its_revocation_targets(own: Server) -> None:
    wild = token(own, clientId="*")

    def as_whom(client_id: str) -> WsClient:
        return WsClient(own.address, key=None, access_token=wild, clientId=client_id)

    with as_whom("frank") as frank, as_whom("grace") as grace:
        revoke(own, "clientId:frank")
        assert ended_with(frank, Action.DISCONNECTED)["error"]["code"] == 40141
        grace.publish("x", {"data": "y"})
    assert refusal(own.address, key=None, access_token=wild, clientId="frank") == (40141, 401)
    assert rest_code(own, wild) == 200


def test_connection_ends_with_either_of_its_tokens(own: Server) -> None:
    with connect(own, token(own, clientId="heidi")) as heidi, connect(own, token(own, clientId="ivan")) as ivan:
        heidi.send({"action": Action.AUTH, "auth": {"accessToken": token(own, clientId="*")}})
        heidi.expect(Action.CONNECTED)
        revoke(own, "clientId:*")
        assert ended_with(heidi, Action.DISCONNECTED)["error"]["code"] == 40141
        ivan.publish("x", {"data": "y"})


def test_margin_asks_the_client_for_another_token(own: Server) -> None:
    old = token(own, clientId="carol")
    with connect(own, old) as client:
        answer = revoke(own, "clientId:carol", allowReauthMargin=True)["results"][0]
        assert answer["appliesAt"] - answer["issuedBefore"] == 29_999, "this very millisecond included"
        assert client.expect(Action.AUTH) == {"action": 17}
        client.publish("x", {"data": "still in"})
        client.send({"action": 17, "auth": {"accessToken": old}})
        assert [message["action"] for message in until_pong(client)] == [Action.CONNECTED], "and not asked at once"
        client.send({"action": 17, "auth": {"accessToken": token(own, clientId="carol")}})
        client.expect(Action.CONNECTED)
        assert rest_code(own, old) == 200
        revoke(own, "clientId:carol", issuedBefore=answer["issuedBefore"])  # at once now, but not the new one
        assert rest_code(own, old) == 40141
        client.publish("x", {"data": "still in"})
        client.send({"action": 17, "auth": {"accessToken": old}})
        assert ended_with(client, Action.ERROR)["error"]["code"] == 40141


def test_a_revocation_outlives_kill_9(make_server: Any) -> None:
    server = make_server(config=CONFIG)
    old, other = token(server, clientId="dave"), token(server, clientId="erin")
    revoke(server, "clientId:dave")
    server.restart()
    assert (rest_code(server, old), rest_code(server, other)) == (40141, 200)
    assert rest_code(server, token(server, clientId="dave")) == 200


def test_a_damaged_file_stops_the_start(make_server: Any) -> None:
    server = make_server(config=CONFIG)
    revoke(server, "clientId:x")
    server.stop()
    (server.data / "revocations").write_bytes(b"[[")
    with pytest.raises(RuntimeError, match="revocations"):
        server.start()


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        ("/keys/app1.rev/revokeTokens", {"key": "app1.plain:topsecret"}, (401, 40133)),
        ("/keys/app1.plain/revokeTokens", {"key": "app1.plain:topsecret"}, (401, 40163)),
        ("/keys/app1.rev/revokeTokens", {"key": "app1.rev:wrong"}, (401, 40101)),
        ("/keys/app1.rev/revokeTokens", {"headers": {"Authorization": ""}}, (401, 40101)),
    ],
)
def test_the_route_is_for_the_key_alone(own: Server, path: str, options: Any, expected: tuple[int, int]) -> None:
    status, body, _ = request(own.address, "POST", path, {"targets": ["clientId:x"]}, **options)
    assert (status, body["error"]["code"]) == expected


def test_the_route_takes_no_token(own: Server) -> None:
    headers = {"Authorization": f"Bearer {token(own)}"}
    status, body, _ = request(own.address, "POST", "/keys/app1.rev/revokeTokens", {"targets": []}, headers=headers)
    assert (status, body["error"]["code"]) == (401, 40162)
