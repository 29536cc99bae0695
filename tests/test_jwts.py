"""What engine.auth.jwts promises: a JWT is what its key's holder has signed, no more than its key, and no longer."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine import limits
from engine.auth.authenticator import Authenticator
from engine.auth.capability import Capability, Operation
from engine.auth.jwts import open_jwt
from engine.auth.keys import Key, Keyring
from engine.auth.rates import CLAIM, WHOLE, Pace
from engine.auth.tokens import LONGEST_CREDENTIAL, Identity, TokenSeal
from engine.errors import PubSubError
from tests.jwts import jwt, segment, signed

NOW = 1_700_000_000_000
DEEP = b"[" * 1000 + b"]" * 1000  # one reader of JSON takes it, others do not
DAY, HOUR = 86_400, 3_600
SEAL = TokenSeal(bytes(range(32)))
KEYS = {
    "root": Key("app1", "key1", "topsecret"),
    "rooms": Key("app1", "rooms", "s", Capability.parse('{"room:*":["publish","subscribe"]}')),
    "revocable": Key("app1", "rev", "s", revocable_tokens=True),
    "revoked": Key("app1", "gone", "s", enabled=False),
    "other": Key("app2", "key1", "topsecret"),
}
KEYRING = Keyring(KEYS.values())


def make(key: str = "root", **claims: Any) -> str:
    return jwt(key=KEYS[key].text, now_ms=NOW, **claims)


def opened(token: str, now_ms: int = NOW) -> Identity:
    return open_jwt(token, KEYRING, SEAL, now_ms)


def refusal(token: str, now_ms: int = NOW) -> tuple[int, int]:
    with pytest.raises(PubSubError) as refused:
        opened(token, now_ms)
    if refused.value.code == 40144:
        assert "invalid JWT format" in str(refused.value)
    assert "topsecret" not in str(refused.value)
    return refused.value.code, refused.value.status


def sealed(key: str = "root", ttl: int = 60_000, client_id: str | None = "alice") -> str:
    return SEAL.seal(KEYS[key], NOW, NOW + ttl, client_id, '{"inner":["publish"]}', b"12345678")


# what it says


def test_without_claims_it_is_anonymous_with_its_key_rights() -> None:
    found = opened(make("rooms"))
    assert (found.app_id, found.key_name, found.client_id, found.wildcard) == ("app1", "app1.rooms", None, False)
    assert found.capability == KEYS["rooms"].capability
    assert (found.issued_ms, found.expires_ms) == (NOW, NOW + 60_000)
    assert found.revocation_key is None


@pytest.mark.parametrize("wanted", ['{"room:a":["*"]}', {"room:a": ["*"]}])
def test_it_may_do_what_it_says_as_far_as_its_key_may(wanted: object) -> None:
    found = opened(make("rooms", capability=wanted))
    assert found.capability.operations("room:a") == Operation.PUBLISH | Operation.SUBSCRIBE
    assert found.capability.operations("room:b") == 0


@pytest.mark.parametrize(
    ("claim", "expected"), [("alice", ("alice", False)), ("*", (None, True)), (None, (None, False))]
)
def test_it_is_of_one_client_or_of_any_or_of_nobody(claim: str | None, expected: tuple[str | None, bool]) -> None:
    found = opened(make(client_id=claim))
    assert (found.client_id, found.wildcard) == expected


def test_it_says_by_what_it_may_be_revoked() -> None:
    assert opened(make("revocable", revocation_key="group")).revocation_key == "group"
    for client_id in ("alice", "*", None):  # whom it was made for counts, whoever uses it
        assert opened(make("revocable", client_id=client_id)).token_client_id == client_id


def test_what_other_parties_have_put_into_it_does_not_matter() -> None:
    assert opened(make(sub=5, aud="x", jti=["y"], header={"cty": "x", "x5t": 1})).client_id is None


def test_a_time_may_have_a_fraction() -> None:
    assert opened(make(exp=NOW / 1000 + 0.25)).expires_ms == NOW + 250


# what is wrong with it


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"iat": None},
        {"exp": "1800000000"},
        {"exp": True},
        {"exp": [1]},
        {"exp": 1 << 62},
        {"exp": 1e300},
        {"exp": -1},
        {"iat": {}},
        {"nbf": "x"},
        {"ttl": DAY + 1},
        {"token": 5},
        {"token": "a.b.c"},
        {"header": {"alg": "HS512"}},
        {"header": {"alg": "none"}},
        {"header": {"alg": None}},
        {"header": {"typ": "JWS"}},
        {"header": {"typ": ["JWT"]}},
        {"header": {"kid": None}},
        {"header": {"kid": ""}},
        {"header": {"kid": 5}},
        {"header": {"crit": ["b64"], "b64": False}},
        {"header": {"crit": []}},
    ],
    ids=str,
)
def test_what_is_missing_or_wrong_makes_it_invalid(claims: dict[str, Any]) -> None:
    assert refusal(make(**claims)) == (40144, 401)


@pytest.mark.parametrize(
    "token",
    [
        "..",
        "....",
        "a.b.c",
        "a.b.c.d",
        "eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
        "\u00e9.b.c",
        "a.b." + "c" * LONGEST_CREDENTIAL,
        segment(b"[]") + ".e30.AAAA",
        signed(b"{", {}, "topsecret"),
        signed({"alg": "HS256", "kid": "app1.key1"}, b"[]", "topsecret"),
        signed({"alg": "HS256", "kid": "app1.key1"}, b"{", "topsecret"),
        signed({"alg": "HS256", "kid": "app1.key1"}, b'{"exp":NaN}', "topsecret"),
        signed({"alg": "HS256", "kid": "app1.key1"}, b"[" * 5000, "topsecret"),
        signed(b'{"alg":"HS256","kid":"app1.key1","typ":' + DEEP + b"}", {}, "topsecret"),
        signed(b'{"alg":"HS256","kid":"app1.key1","x":' + DEEP + b"}", {}, "topsecret"),
        jwt(key="app1.key1:another", now_ms=NOW),
        make()[:-1],
        make() + "A",
        make().rpartition(".")[0] + ".",
        signed({"alg": "none", "kid": "app1.key1"}, {"iat": 1, "exp": 1 << 33}, "").rpartition(".")[0] + ".",
    ],
)
def test_what_is_no_jwt_is_invalid(token: str) -> None:
    assert refusal(token) == (40144, 401)


@pytest.mark.parametrize(
    ("token", "refused"),
    [
        (make(exp=NOW / 1000), (40142, 401)),
        (make(iat=NOW / 1000 - 10, exp=NOW / 1000 - 5), (40142, 401)),
        (make(iat=NOW / 1000 + 121, exp=NOW / 1000 + 200), (40104, 401)),
        (make(nbf=NOW / 1000 + 121), (40104, 401)),
        (make("revocable", ttl=HOUR + 1), (40144, 401)),
        (jwt(key="nowhere.key1:topsecret", now_ms=NOW), (40400, 404)),
        (jwt(key="app1.unknown:topsecret", now_ms=NOW), (40130, 401)),
        (make("revoked"), (40131, 401)),
        (make("rooms", capability={"lobby": ["*"]}), (40160, 401)),
        (make(capability="nonsense"), (40000, 400)),
        (make(capability={"a": ["fly"]}), (40000, 400)),
        (make(capability=5), (40000, 400)),
        (make(client_id=""), (40012, 400)),
        (make(client_id=5), (40012, 400)),
        (make(client_id="x" * (limits.CLIENT_ID_BYTES + 1)), (40012, 400)),
        (make(revocation_key=""), (40000, 400)),
        (make(revocation_key=5), (40000, 400)),
    ],
)
def test_each_fault_has_its_code(token: str, refused: tuple[int, int]) -> None:
    assert refusal(token) == refused


@pytest.mark.parametrize(("key", "longest"), [("root", DAY), ("revocable", HOUR)])
def test_it_lives_as_long_as_its_key_allows_to_the_millisecond(key: str, longest: int) -> None:
    token = make(key, ttl=longest)
    assert opened(token, NOW + longest * 1000 - 1).expires_ms == NOW + longest * 1000
    assert refusal(token, NOW + longest * 1000) == (40142, 401)


def test_a_clock_that_is_two_minutes_ahead_is_forgiven() -> None:
    assert opened(make(iat=NOW / 1000 + 120, exp=NOW / 1000 + 180)).issued_ms == NOW + 120_000


@given(at=st.integers(0, 1 << 12), bit=st.integers(0, 7))
def test_no_bit_of_it_can_be_changed(at: int, bit: int) -> None:
    token = make(client_id="alice", capability={"a": ["publish"]})
    parts = [bytearray(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in token.split(".")]
    part = parts[at % 3]
    part[at // 3 % len(part)] ^= 1 << bit
    assert refusal(".".join(segment(bytes(part)) for part in parts))[0] in (40144, 40130, 40400)


@given(text=st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=60))
@example("...")
def test_garbage_is_refused_as_what_it_looks_like(text: str) -> None:
    with pytest.raises(PubSubError) as refused:
        Authenticator(KEYRING, SEAL).token(text, NOW)
    assert refused.value.code == (40144 if text.count(".") >= 2 else 40101)


# rates


RATES = {"room:1": 10, "room:*": 0.5, "room:*:x": 3, "*": 7, "[*]*": 100, "foo*": 2}


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ("room:1", 10_000),
        ("room:2", 500),
        ("room:2:y", 500),
        ("room:2:x", 3_000),
        ("foo*", 2_000),
        ("foobar", 7_000),
        ("[meta]room:1", 100_000),
    ],
)
@pytest.mark.parametrize("inner", [False, True])
def test_of_the_rates_that_it_names_the_closest_counts(channel: str, expected: int, inner: bool) -> None:
    claims = {CLAIM + resource: rate for resource, rate in RATES.items()}
    for ordered in (claims, dict(reversed(claims.items()))):
        found = opened(make(token=sealed() if inner else None, **ordered)).rates
        assert found is not None
        assert found.of(channel) == expected
    only = opened(make(**{CLAIM + "room:*": 1})).rates
    assert only is not None and only.of("room") is None
    assert opened(make(**{"ably.limits.other": 5})).rates is None


@pytest.mark.parametrize("rate", [0, -1, 0.0004, 1 << 31, "5", True, None, [], {}])
def test_a_rate_is_a_number_above_nothing(rate: object) -> None:
    header = {"alg": "HS256", "kid": "app1.key1"}
    claims = {"iat": NOW // 1000, "exp": NOW // 1000 + 9, CLAIM + "room": rate}
    assert refusal(signed(header, claims, "topsecret")) == (40000, 400)


def test_rates_are_of_resources_and_not_too_many() -> None:
    assert refusal(make(**{CLAIM: 5})) == (40000, 400)
    many = {f"{CLAIM}{number}": 1 for number in range(limits.CAPABILITY_RESOURCES + 1)}
    assert refusal(make(**many)) == (40000, 400)


def test_rates_beyond_the_remembered_channels_are_not_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REMEMBERED_NAMES", 2)
    pace = Pace()
    for channel in ("a", "b"):
        pace.rate(channel, WHOLE, NOW).take(NOW, 0, WHOLE)
    for channel in ("a", "b", "c"):
        with pytest.raises(PubSubError, match="token") as refused:
            pace.rate(channel, WHOLE, NOW)
        assert (refused.value.code, refused.value.status) == (42911, 429)
    assert pace.rate("a", 2 * WHOLE, NOW).room(NOW), "a faster rate holds at once"
    assert pace.rate("c", WHOLE, NOW + 1_001).room(NOW + 1_001)


# a token of ours inside


@pytest.mark.parametrize("place", ["claim", "header", "both"])
def test_one_with_a_token_inside_is_whom_the_token_says(place: str) -> None:
    inner = sealed()
    header = {"x-ably-token": inner} if place != "claim" else None
    found = opened(make("rooms", header=header, token=inner if place != "header" else None, client_id="mallory"))
    assert (found.client_id, found.key_name) == ("alice", "app1.key1")
    assert found.capability.text == '{"inner":["publish"]}'
    assert found.expires_ms == NOW + 60_000


def test_embedded_token_may_end_early_and_be_revoked_alone() -> None:
    found = opened(make(token=sealed(), ttl=10, revocation_key="group"))
    assert (found.issued_ms, found.expires_ms, found.revocation_key) == (NOW, NOW + 10_000, "group")
    assert (found.client_id, found.token_client_id) == ("alice", "alice")


def test_one_with_another_keys_token_inside_needs_both_keys() -> None:
    found = opened(make("rooms", token=sealed()))
    assert found.made_with == (("app1.key1", NOW), ("app1.rooms", NOW))
    for alone in (opened(make(token=sealed())), opened(make())):
        assert alone.made_with == (("app1.key1", NOW),)


def test_what_is_around_a_token_is_checked_all_the_same() -> None:
    good = make(token=sealed())
    assert refusal(good[:-2] + "AA") == (40144, 401)
    assert refusal(make(token=sealed(), exp=NOW / 1000)) == (40142, 401)
    assert refusal(make(token=sealed(ttl=59_999))) == (40144, 401), "it must not outlive the token"
    assert refusal(make(token=sealed(ttl=0))) == (40142, 401)
    assert refusal(make(token=sealed("other"))) == (40144, 401)
    assert refusal(make(token="app1.AAAA")) == (40101, 401)
    assert refusal(make(token=sealed(), header={"x-ably-token": sealed(client_id="bob")})) == (40144, 401)


def test_encrypted_jwt_is_good_only_for_the_token_in_its_header() -> None:
    def encrypted(header: dict[str, Any]) -> str:
        return segment(json.dumps(header).encode()) + ".AAAA.AAAA.AAAA.AAAA"

    assert opened(encrypted({"alg": "dir", "enc": "A256GCM", "x-ably-token": sealed()})).client_id == "alice"
    assert refusal(encrypted({"alg": "dir", "enc": "A256GCM"})) == (40144, 401)
    assert refusal(encrypted({"x-ably-token": sealed(ttl=0)})) == (40142, 401)
    assert refusal(encrypted({"x-ably-token": sealed()[:-3] + "AAA"})) == (40101, 401)


# where it is found


@pytest.mark.parametrize(
    ("params", "authorization"),
    [
        ({"access_token": make()}, None),
        ({"accessToken": make()}, None),
        ({}, "Bearer " + make()),
        ({}, "Bearer " + base64.b64encode(make().encode()).decode()),
        ({}, "Bearer " + segment(make().encode())),
    ],
)
def test_it_is_found_wherever_a_token_is(params: dict[str, str], authorization: str | None) -> None:
    found = Authenticator(KEYRING, SEAL).authenticate(params, authorization, NOW)
    assert found.key_name == "app1.key1"
