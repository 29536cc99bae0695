"""What engine.auth.tokens promises: an identity is what its credentials say, and no byte of a token can be changed."""

import base64
import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine import limits
from engine.auth.authenticator import Authenticator
from engine.auth.capability import Capability, Operation
from engine.auth.keys import Key, Keyring
from engine.auth.tokens import (
    LONGEST_CREDENTIAL,
    Identity,
    TokenSeal,
    with_client_id,
)
from engine.errors import AuthError, BadRequest, PubSubError
from engine.message import check_client_ids

NOW = 1_700_000_000_000
SECRET = bytes(range(32))
KEY = Key("app1", "key1", "topsecret")
SEAL = TokenSeal(SECRET)
CAPABILITY = '{"room:*":["publish"]}'


def token(client_id: str | None = None, *, ttl: int = 60_000, key: Key = KEY, seal: TokenSeal = SEAL) -> str:
    return seal.seal(key, NOW, NOW + ttl, client_id, CAPABILITY, b"12345678")


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([KEY, Key("app2", "key1", "topsecret")])


@pytest.fixture
def authenticator(keyring: Keyring) -> Authenticator:
    return Authenticator(keyring, SEAL)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def refusal(do: object, *arguments: object) -> tuple[int, int]:
    with pytest.raises(PubSubError) as refused:
        do(*arguments)  # type: ignore[operator]
    return refused.value.code, refused.value.status


# tokens


def test_a_token_says_what_it_was_issued_with(authenticator: Authenticator) -> None:
    found = authenticator.token(token("alice"), NOW)
    assert (found.app_id, found.key_name, found.client_id, found.wildcard) == ("app1", "app1.key1", "alice", False)
    assert found.expires_ms == NOW + 60_000
    assert found.capability.text == CAPABILITY


@pytest.mark.parametrize(("client_id", "expected"), [(None, (None, False)), ("*", (None, True)), ("x", ("x", False))])
def test_a_token_is_of_one_client_or_of_any_or_of_nobody(
    authenticator: Authenticator, client_id: str | None, expected: tuple[str | None, bool]
) -> None:
    found = authenticator.token(token(client_id), NOW)
    assert (found.client_id, found.wildcard) == expected


def test_a_token_ends_with_the_millisecond(authenticator: Authenticator) -> None:
    assert authenticator.token(token(ttl=1), NOW).expires_ms == NOW + 1
    assert refusal(authenticator.token, token(ttl=1), NOW + 1) == (40142, 401)


def test_a_token_outlives_a_restart(keyring: Keyring) -> None:
    assert Authenticator(keyring, TokenSeal(bytes(SECRET))).token(token(), NOW).app_id == "app1"


def test_a_token_of_another_servers_secret_is_unknown(keyring: Keyring) -> None:
    assert refusal(Authenticator(keyring, TokenSeal(bytes(32))).token, token(), NOW) == (40101, 401)


def test_a_token_ends_with_its_key(authenticator: Authenticator, keyring: Keyring) -> None:
    sealed = token()
    keyring.add(dataclasses.replace(KEY, enabled=False))
    assert refusal(authenticator.token, sealed, NOW) == (40131, 401)
    keyring.remove_app("app1")
    assert refusal(authenticator.token, sealed, NOW) == (40101, 401)
    assert refusal(authenticator.token, token(ttl=1), NOW + 5) == (40101, 401)  # renewing it would not help


def test_a_token_ends_with_its_keys_secret(authenticator: Authenticator, keyring: Keyring) -> None:
    sealed = token()
    keyring.add(dataclasses.replace(KEY, secret="another"))
    assert refusal(authenticator.token, sealed, NOW) == (40101, 401)
    keyring.add(KEY)
    assert authenticator.token(sealed, NOW).key_name == KEY.name


def test_no_revocable_token_outlives_its_revocation(authenticator: Authenticator, keyring: Keyring) -> None:
    """Nor does one that was made before its key became such a key."""
    sealed = token(ttl=86_400_000)
    keyring.add(dataclasses.replace(KEY, revocable_tokens=True))
    assert authenticator.token(sealed, NOW + 3_599_999).expires_ms == NOW + 3_600_000
    assert refusal(authenticator.token, sealed, NOW + 3_600_000) == (40142, 401)


@given(at=st.integers(0, 1 << 12), bit=st.integers(0, 7))
def test_no_bit_of_a_token_can_be_changed(at: int, bit: int) -> None:
    app_id, _, text = token("alice").partition(".")
    sealed = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    sealed[at % len(sealed)] ^= 1 << bit
    forged = f"{app_id}.{base64.urlsafe_b64encode(bytes(sealed)).decode().rstrip('=')}"
    assert refusal(SEAL.open, forged, Keyring([KEY]), NOW) == (40101, 401)


def test_a_token_cannot_be_moved_to_another_app(authenticator: Authenticator) -> None:
    assert refusal(authenticator.token, "app2" + token()[4:], NOW) == (40101, 401)


@given(text=st.text(max_size=60))
@example("")
@example(".")
@example("app1.")
@example("app1.AAAA")
@example("app1." + "A" * LONGEST_CREDENTIAL)
@example("app1.\ud800")
def test_garbage_is_an_unknown_token(text: str) -> None:
    assert refusal(SEAL.open, text, Keyring([KEY]), NOW) == (40101, 401)


def test_a_token_fits_into_a_query_and_looks_like_no_jwt() -> None:
    sealed = token("\u00e9" * 100)
    assert sealed.count(".") == 1
    assert all(character.isalnum() or character in "-_." for character in sealed)
    assert sealed.isascii()


def test_largest_token_fits_twice_into_a_request_head(authenticator: Authenticator) -> None:
    text = '{"' + "x" * (limits.CAPABILITY_BYTES - 10) + '":["*"]}'
    largest = SEAL.seal(KEY, NOW, NOW + 1, "c" * limits.CLIENT_ID_BYTES, Capability.parse(text).text, b"12345678")
    assert len(encoded(largest)) < limits.Limits().request_head_bytes - 2048
    assert authenticator.token(largest, NOW).client_id == "c" * limits.CLIENT_ID_BYTES


def test_a_jwt_is_refused_as_one(authenticator: Authenticator) -> None:
    assert refusal(authenticator.token, "eyJhbGciOiJIUzI1NiJ9.e30.c2ln", NOW) == (40144, 401)


# where credentials are found


@pytest.mark.parametrize(
    ("params", "authorization", "expected"),
    [
        ({"key": "app1.key1:topsecret"}, None, "key"),
        ({}, "Basic " + encoded("app1.key1:topsecret"), "key"),
        ({}, "basic  " + encoded("app1.key1:topsecret"), "key"),
        ({"access_token": token("t")}, None, "token"),
        ({"accessToken": token("t")}, None, "token"),
        ({}, "Bearer " + encoded(token("t")), "token"),
        ({}, "Bearer " + token("t"), "token"),
        ({"key": "app1.key1:topsecret", "access_token": token("t")}, None, "token"),
        ({"key": "app1.key1:topsecret"}, "Bearer " + token("t"), "token"),
        ({"accessToken": token("t")}, "Basic " + encoded("app1.key1:wrong"), "token"),
    ],
)
def test_credentials_are_found_in_query_and_header_token_first(
    authenticator: Authenticator, params: dict[str, str], authorization: str | None, expected: str
) -> None:
    found = authenticator.authenticate(params, authorization, NOW)
    assert found.app_id == "app1"
    assert (found.client_id, found.wildcard) == (("t", False) if expected == "token" else (None, True))
    assert (found.expires_ms is None) == (expected == "key")


@pytest.mark.parametrize(
    ("params", "authorization", "code"),
    [
        ({}, None, 40101),
        ({}, "", 40101),
        ({"key": ""}, None, 40101),
        ({"key": "app1.key1:wrong"}, None, 40101),
        ({"key": "nonsense"}, None, 40101),
        ({"access_token": "nonsense"}, None, 40101),
        ({}, "Basic", 40101),
        ({}, "Basic ***", 40101),
        ({}, "Basic " + encoded("app1.key1:wrong"), 40101),
        ({}, "Bearer", 40101),
        ({}, "Bearer nonsense", 40101),
        ({}, "Digest x", 40101),
        ({}, "Bearer " + encoded("eyJh.e30.c2ln"), 40144),
        ({}, "Bearer eyJh.e30.c2ln", 40144),
    ],
)
def test_missing_and_wrong_credentials_are_refused(
    authenticator: Authenticator, params: dict[str, str], authorization: str | None, code: int
) -> None:
    assert refusal(authenticator.authenticate, params, authorization, NOW) == (code, 401)


def test_a_refusal_repeats_no_secret_and_no_token(authenticator: Authenticator) -> None:
    for params in ({"key": "app1.key1:topsecret2"}, {"key": "x:topsecret2:"}, {"access_token": "app1.topsecret2"}):
        with pytest.raises(AuthError) as refused:
            authenticator.authenticate(params, None, NOW)
        assert "topsecret" not in str(refused.value)


def test_a_key_gives_its_capability(keyring: Keyring) -> None:
    keyring.add(Key("app1", "reader", "s", Capability.parse('{"a":["subscribe"]}')))
    found = Authenticator(keyring, SEAL).basic("app1.reader:s")
    assert found.capability.operations("a") == Operation.SUBSCRIBE


def test_only_basic_authentication_is_with_the_key_itself(authenticator: Authenticator) -> None:
    assert authenticator.basic_key({}, "Basic " + encoded(KEY.text)) is KEY
    assert authenticator.basic_key({"key": KEY.text}, None) is KEY
    assert authenticator.basic_key({}, "Bearer " + token()) is None
    assert authenticator.basic_key({}, None) is None
    assert refusal(authenticator.basic_key, {}, "Basic " + encoded("app1.key1:wrong")) == (40101, 401)


# identities


def identity(client_id: str | None, wildcard: bool = False) -> Identity:
    return Identity("app1", "app1.key1", client_id, wildcard, KEY.capability)


ANY, NOBODY, ALICE = identity(None, True), identity(None), identity("alice")


@pytest.mark.parametrize(
    ("before", "asserted", "after"),
    [
        (ANY, None, ANY),
        (ANY, "alice", ALICE),
        (ANY, "*", ANY),
        (NOBODY, None, NOBODY),
        (ALICE, None, ALICE),
        (ALICE, "alice", ALICE),
    ],
)
def test_who_the_client_is(before: Identity, asserted: str | None, after: Identity) -> None:
    assert with_client_id(before, asserted) == after


@pytest.mark.parametrize(("before", "asserted"), [(NOBODY, "alice"), (NOBODY, "*"), (ALICE, "bob"), (ALICE, "*")])
def test_nobody_can_be_whom_the_credentials_do_not_name(before: Identity, asserted: str) -> None:
    assert refusal(with_client_id, before, asserted) == (40102, 401)


@pytest.mark.parametrize("asserted", ["", "x" * (limits.CLIENT_ID_BYTES + 1)])
def test_a_client_id_has_a_length(asserted: str) -> None:
    assert refusal(with_client_id, ANY, asserted) == (40012, 400)


def test_asserting_who_one_is_keeps_everything_else() -> None:
    sealed = Identity("a", "a.k", None, True, KEY.capability, 5)
    assert with_client_id(sealed, "x") == Identity("a", "a.k", "x", False, KEY.capability, 5)


@pytest.mark.parametrize(
    ("who", "client_id"), [(ALICE, None), (ALICE, "alice"), (ANY, None), (ANY, "bob"), (NOBODY, None)]
)
def test_messages_may_carry_these_client_ids(who: Identity, client_id: str | None) -> None:
    check_client_ids(who.author(), [client_id])


@pytest.mark.parametrize(
    ("who", "client_id"),
    [(ALICE, "bob"), (NOBODY, "bob"), (ANY, "*"), (ALICE, "*"), (identity("*"), "*"), (ANY, ""), (ALICE, "")],
)
def test_messages_may_not_carry_these(who: Identity, client_id: str) -> None:
    with pytest.raises(BadRequest) as refused:
        check_client_ids(who.author(), [client_id])
    assert (refused.value.code, refused.value.status) == (40012, 400)


@pytest.mark.parametrize(("who", "told"), [(ANY, "*"), (ALICE, "alice"), (NOBODY, None)])
def test_the_client_is_told_who_it_is(who: Identity, told: str | None) -> None:
    assert who.told_client_id == told


def test_an_identity_is_shared_by_all_of_a_key_and_ends_with_it(keyring: Keyring) -> None:
    """A key of the same name that has another capability, or secret, is another key."""
    authenticator = Authenticator(keyring, SEAL)
    first = authenticator.basic(KEY.text)
    assert authenticator.basic(KEY.text) is first
    assert authenticator.basic("app2.key1:topsecret").app_id == "app2"
    narrowed = dataclasses.replace(KEY, capability=Capability.parse(CAPABILITY))
    keyring.add(narrowed)
    assert authenticator.basic(KEY.text).capability == narrowed.capability
    keyring.remove_app("app1")
    assert refusal(authenticator.basic, KEY.text) == (40101, 401)


def test_keys_beyond_the_cache_still_get_their_identity(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDENTITIES_SHARED", 2)
    authenticator = Authenticator(keyring, SEAL)
    for number in range(5):
        keyring.add(Key("app3", f"key{number}", "s"))
    for number in [*range(5), *range(5)]:
        assert authenticator.basic(f"app3.key{number}:s").key_name == f"app3.key{number}"
