"""What engine.auth.requests promises: a token for who holds the key, once per request, with no more than it has."""

import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import limits
from engine.auth.capability import Capability
from engine.auth.keys import LONGEST_TTL_MS, Key, Keyring
from engine.auth.requests import CLOCK_SKEW_MS, DEFAULT_TTL_MS, TokenIssuer
from engine.auth.tokens import TokenSeal, sign
from engine.errors import PubSubError

NOW = 1_700_000_000_000
KEY = Key("app1", "key1", "topsecret")
NARROW = Key("app1", "narrow", "s", Capability.parse('{"channel2":["publish","subscribe"]}'))
REVOCABLE = Key("app1", "revocable", "s", revocable_tokens=True)
NONCE = "0123456789abcdef"
DEEP = json.loads("[" * 900 + "]" * 900)  # as deep as a body may be, and deeper than some can follow
KEYS = Keyring([KEY, NARROW, REVOCABLE, Key("app1", "off", "s", enabled=False)])
SEAL = TokenSeal(bytes(32))
ALICE = {
    "keyName": "app1.key1",
    "ttl": 3600000,
    "capability": '{"room:*":["publish","subscribe"]}',
    "clientId": "alice",
    "timestamp": NOW,
    "nonce": NONCE,
    "mac": "5yJDjBid5K29AJVNglHj4dG4GBf7em3Rlvryq9mLVRU=",
}
BARE = {
    "keyName": "app1.key1",
    "timestamp": NOW,
    "nonce": NONCE,
    "mac": "xXtBl312w+QIBUHUDJ8i7hUmIvhHkRareEL/HcSFbik=",
}


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer(KEYS, SEAL, lambda size: b"r" * size)


def signed(key: Key = KEY, **values: Any) -> dict[str, Any]:
    """As a library does it: absent values are empty lines, numbers are decimal."""
    body = {"keyName": key.name, "timestamp": NOW, "nonce": NONCE, **values}
    order = ("keyName", "ttl", "capability", "clientId", "timestamp", "nonce")
    texts = ["" if body.get(name) is None else str(body[name]) for name in order]
    return {**body, "mac": sign(key.secret, tuple(texts))}


def refusal(issuer: TokenIssuer, body: object, *, key: Key | None = None, path: str = "app1.key1") -> tuple[int, int]:
    with pytest.raises(PubSubError) as refused:
        issuer.issue(path, body, key, NOW)
    return refused.value.code, refused.value.status


# signed requests


def test_the_signatures_that_the_protocol_gives_are_accepted(issuer: TokenIssuer) -> None:
    assert issuer.issue("app1.key1", ALICE, None, NOW)["clientId"] == "alice"
    assert issuer.issue("app1.key1", BARE, None, NOW)["expires"] == NOW + DEFAULT_TTL_MS


def test_the_details_say_what_the_token_says(issuer: TokenIssuer) -> None:
    details = issuer.issue("app1.key1", ALICE, None, NOW)
    assert set(details) == {"token", "keyName", "issued", "expires", "capability", "clientId"}
    found = SEAL.open(details["token"], KEYS, NOW)
    assert (found.key_name, found.client_id, found.expires_ms) == ("app1.key1", "alice", NOW + 3_600_000)
    assert found.capability.text == details["capability"] == ALICE["capability"]
    assert (details["keyName"], details["issued"], details["expires"]) == ("app1.key1", NOW, NOW + 3_600_000)


def test_without_a_client_id_there_is_none_in_the_details(issuer: TokenIssuer) -> None:
    assert "clientId" not in issuer.issue("app1.key1", BARE, None, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"ttl": 3600001},
        {"ttl": None},
        {"capability": '{"room:*": ["publish","subscribe"]}'},
        {"clientId": "bob"},
        {"clientId": None},
        {"timestamp": NOW + 1},
        {"nonce": "0123456789abcdeF"},
        {"mac": ""},
        {"mac": "x"},
        {"mac": "\u00e9"},
    ],
)
def test_nothing_that_is_signed_can_be_changed(issuer: TokenIssuer, change: dict[str, Any]) -> None:
    assert refusal(issuer, {**ALICE, **change}) == (40101, 401)


def test_the_mac_of_another_key_does_not_do(issuer: TokenIssuer) -> None:
    assert refusal(issuer, signed(Key("app1", "key1", "wrong"))) == (40101, 401)
    assert refusal(issuer, signed(Key("app1", "unknown", "x")), path="app1.unknown") == (40101, 401)
    assert refusal(issuer, signed(Key("app1", "off", "guess")), path="app1.off") == (40101, 401)
    assert refusal(issuer, signed(Key("app1", "off", "s")), path="app1.off") == (40131, 401)
    assert refusal(issuer, signed(Key("app1", "unknown", "-" * 32)), path="app1.unknown") == (40101, 401)


def test_macs_are_compared_in_constant_time_even_if_unknown(
    issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    equal = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append(other) or equal(one, other))
    token = issuer.issue("app1.key1", ALICE, None, NOW)["token"]
    refusal(issuer, {**ALICE, "mac": "x"})
    refusal(issuer, {**ALICE, "keyName": "app1.nobody", "mac": "y"}, path="app1.nobody")
    assert compared == [str(ALICE["mac"]).encode(), b"x", b"y"]
    assert SEAL.open(token, KEYS, NOW)
    assert len(compared) == 4 and len(compared[3]) == 32


def test_the_key_is_the_one_in_the_path(issuer: TokenIssuer) -> None:
    assert refusal(issuer, signed(NARROW)) == (40101, 401)
    body = signed()
    del body["keyName"]
    assert issuer.issue("app1.key1", body, None, NOW)["keyName"] == "app1.key1"


def test_numbers_may_be_text_and_null_is_absent(issuer: TokenIssuer) -> None:
    body = signed(ttl="5000", timestamp=str(NOW), capability=None, clientId=None)
    details = issuer.issue("app1.key1", body, None, NOW)
    assert details["expires"] == NOW + 5000
    assert details["capability"] == '{"*":["*"]}'
    assert "clientId" not in details


def test_an_empty_capability_is_absent_where_it_is_signed_so(issuer: TokenIssuer) -> None:
    """ably-js sends one for ``{capability: undefined}``. Whoever has such a request could leave it out as well."""
    body = signed(NARROW, capability="")
    assert body["mac"] == signed(NARROW)["mac"]
    assert issuer.issue("app1.narrow", body, None, NOW)["capability"] == NARROW.capability.text
    assert refusal(issuer, {"capability": ""}, key=KEY) == (40000, 400), "nobody has signed that it is absent"


@pytest.mark.parametrize(
    ("granted", "tried"),
    [  # what an application has signed for one who may choose his clientId; what he makes of the same text
        (
            {"clientId": f"alice\n{NOW}\n{'x' * 16}"},
            {"clientId": "alice", "nonce": f"{'x' * 16}\n{NOW}\n{NONCE}"},
        ),
        (
            {"capability": '{"a":["publish"]}', "clientId": "\nadmin"},
            {"capability": '{"a":["publish"]}\n', "clientId": "admin"},
        ),
        ({"clientId": ' \n{"*":["*"]}\nadmin'}, {"capability": ' \n\n{"*":["*"]}', "clientId": "admin"}),
        ({"clientId": '{"*":["*"]}\nadmin'}, {"capability": '\n{"*":["*"]}', "clientId": "admin"}),
    ],
)
def test_what_is_signed_can_be_read_in_one_way_only(
    issuer: TokenIssuer, granted: dict[str, Any], tried: dict[str, Any]
) -> None:
    assert refusal(issuer, signed(**granted)) == (40012, 400)
    assert refusal(issuer, {**signed(**granted), **tried})[0] in (40000, 40101)
    pretty = json.dumps({"a": ["publish"]}, indent=2)
    assert issuer.issue("app1.key1", signed(capability=pretty), None, NOW)["capability"] == pretty


@pytest.mark.parametrize("off", [-CLOCK_SKEW_MS, CLOCK_SKEW_MS])
def test_a_timestamp_may_be_two_minutes_off_and_no_more(issuer: TokenIssuer, off: int) -> None:
    assert issuer.issue("app1.key1", signed(timestamp=NOW + off), None, NOW)["issued"] == NOW
    beyond = off + (1 if off > 0 else -1)
    assert refusal(issuer, signed(timestamp=NOW + beyond)) == (40104, 401)


def test_a_request_counts_once(issuer: TokenIssuer) -> None:
    issuer.issue("app1.key1", signed(), None, NOW)
    assert refusal(issuer, signed()) == (40105, 401)


def test_a_nonce_may_come_again_with_another_timestamp(issuer: TokenIssuer) -> None:
    issuer.issue("app1.key1", signed(), None, NOW)
    assert issuer.issue("app1.key1", signed(timestamp=NOW + 1), None, NOW)["issued"] == NOW


@given(ages=st.lists(st.integers(0, CLOCK_SKEW_MS), min_size=1, max_size=20), stamp=st.integers(-120_000, 120_000))
def test_no_request_is_accepted_twice_at_whatever_time(ages: list[int], stamp: int) -> None:
    issuer = TokenIssuer(KEYS, SEAL, lambda size: b"r" * size)
    body, now, accepted = signed(timestamp=NOW + stamp), NOW, 0
    for age in ages:
        now += age
        try:
            issuer.issue("app1.key1", body, None, now)
            accepted += 1
        except PubSubError as refused:
            assert refused.code in (40104, 40105)
    assert accepted <= 1


def test_remembered_request_is_forgotten_once_unreplayable(
    issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NONCES", 3)
    for nonce in range(3):
        issuer.issue("app1.key1", signed(nonce=f"{NONCE}{nonce}"), None, NOW)
    assert refusal(issuer, signed(nonce=NONCE + "x")) == (42910, 429)
    later = NOW + 2 * CLOCK_SKEW_MS + 1
    assert issuer.issue("app1.key1", signed(timestamp=later), None, later)["issued"] == later


def test_requests_that_nobody_signed_are_not_remembered(issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NONCES", 1)
    for nonce in range(5):
        assert refusal(issuer, {**signed(), "nonce": f"{NONCE}{nonce}"}) == (40101, 401)
    issuer.issue("app1.key1", signed(), None, NOW)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"nonce": "short"}, 40000),
        ({"nonce": None}, 40000),
        ({"nonce": 5}, 40000),
        ({"timestamp": None}, 40000),
        ({"timestamp": "today"}, 40000),
        ({"timestamp": True}, 40000),
        ({"mac": 5}, 40000),
        ({"ttl": "x"}, 40101),  # the mac comes first
        ({"ttl": []}, 40003),
        ({"ttl": DEEP}, 40003),
        ({"clientId": DEEP}, 40012),
        ({"clientId": b"\xff"}, 40012),
        ({"capability": DEEP}, 40000),
        ({"capability": {"a": DEEP}}, 40000),
        ({"capability": {b"\xff": ["*"]}}, 40000),
        ({"capability": b"\xff"}, 40000),
        ({"timestamp": DEEP}, 40000),
        ({"nonce": DEEP}, 40000),
    ],
)
def test_each_field_has_a_refusal_of_its_own(issuer: TokenIssuer, change: dict[str, Any], code: int) -> None:
    assert refusal(issuer, {**signed(), **change})[0] == code


# requests sent with the key


def test_the_key_itself_needs_no_signature(issuer: TokenIssuer) -> None:
    assert issuer.issue("app1.key1", {}, KEY, NOW)["issued"] == NOW
    assert issuer.issue("app1.key1", None, KEY, NOW)["issued"] == NOW
    assert issuer.issue("app1.key1", {"clientId": "*"}, KEY, NOW)["clientId"] == "*"
    assert issuer.issue("app1.key1", {"timestamp": NOW - CLOCK_SKEW_MS}, KEY, NOW)["issued"] == NOW
    assert refusal(issuer, {"timestamp": NOW - CLOCK_SKEW_MS - 1}, key=KEY) == (40104, 401)
    assert refusal(issuer, {"timestamp": "today"}, key=KEY) == (40000, 400)


def test_without_signature_and_key_there_is_no_token(issuer: TokenIssuer) -> None:
    assert refusal(issuer, {}) == (40101, 401)
    assert refusal(issuer, {}, key=NARROW) == (40101, 401)
    assert refusal(issuer, {"mac": None}) == (40101, 401)
    assert refusal(issuer, {}, key=KEY, path="app1.nobody") == (40101, 401)


def test_a_wrong_mac_is_wrong_also_when_the_key_comes_with_it(issuer: TokenIssuer) -> None:
    assert refusal(issuer, {**signed(), "mac": "x"}, key=KEY) == (40101, 401)


@pytest.mark.parametrize("body", [[], "x", 5, [{}]])
def test_the_body_is_a_map(issuer: TokenIssuer, body: object) -> None:
    assert refusal(issuer, body, key=KEY) == (40000, 400)


@pytest.mark.parametrize("ttl", [-1, 0, LONGEST_TTL_MS + 1, "x", "", "--5", "1.5", "\u0663", 1.5, True, [], 1 << 70])
def test_a_ttl_out_of_range_is_refused(issuer: TokenIssuer, ttl: object) -> None:
    assert refusal(issuer, {"ttl": ttl}, key=KEY) == (40003, 400)
    if not isinstance(ttl, list):
        assert refusal(issuer, signed(ttl=ttl)) == (40003, 400)


@pytest.mark.parametrize(("ttl", "lives"), [(1, 1), (LONGEST_TTL_MS, LONGEST_TTL_MS), ("5000", 5000), (5000.0, 5000)])
def test_a_ttl_is_kept_to_the_millisecond(issuer: TokenIssuer, ttl: object, lives: int) -> None:
    assert issuer.issue("app1.key1", {"ttl": ttl}, KEY, NOW)["expires"] == NOW + lives


def test_tokens_of_revocable_keys_live_an_hour_at_most(issuer: TokenIssuer) -> None:
    assert issuer.issue("app1.revocable", {"ttl": LONGEST_TTL_MS}, REVOCABLE, NOW)["expires"] == NOW + 3_600_000


@pytest.mark.parametrize("client_id", ["", 5, "x" * (limits.CLIENT_ID_BYTES + 1), []])
def test_a_client_id_is_a_text_of_bounded_length(issuer: TokenIssuer, client_id: object) -> None:
    assert refusal(issuer, {"clientId": client_id}, key=KEY) == (40012, 400)


# capability


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"channel2": ["subscribe_"]}, (40000, 400)),
        ({"channel2": []}, (40000, 400)),
        ("nonsense", (40000, 400)),
        ("", (40000, 400)),
        (5, (40000, 400)),
        ({"channelx": ["publish"]}, (40160, 401)),
        ({}, (40160, 401)),
        ("{}", (40160, 401)),
    ],
)
def test_a_capability_is_valid_first_and_then_within_the_keys(
    issuer: TokenIssuer, wanted: object, code: tuple[int, int]
) -> None:
    assert refusal(issuer, {"capability": wanted}, key=NARROW, path="app1.narrow") == code


def test_token_gets_the_requested_part_of_the_key_capability(issuer: TokenIssuer) -> None:
    wanted = {"channel2": ["presence", "subscribe"], "channelx": ["presence"]}
    for form in (wanted, json.dumps(wanted)):
        details = issuer.issue("app1.narrow", {"capability": form}, NARROW, NOW)
        assert details["capability"] == '{"channel2":["subscribe"]}'


def test_token_without_a_capability_has_the_key_s_own_exactly(issuer: TokenIssuer) -> None:
    assert issuer.issue("app1.narrow", {}, NARROW, NOW)["capability"] == NARROW.capability.text
    assert issuer.issue("app1.narrow", {"capability": None}, NARROW, NOW)["capability"] == NARROW.capability.text


# across restarts


def test_answered_request_is_known_and_the_answer_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    first = TokenIssuer(KEYS, SEAL, lambda size: b"r" * size, remember=lambda *what: told.append(what))
    first.issue("app1.key1", ALICE, None, NOW)
    assert told == [(ALICE["mac"], NOW + 240_000, NOW)]
    again = TokenIssuer(KEYS, SEAL, lambda size: b"r" * size, known={str(ALICE["mac"]): NOW + 240_000})
    assert refusal(again, ALICE) == (40105, 401)
    assert again.issue("app1.key1", BARE, None, NOW)


def test_no_token_is_given_out_for_what_could_not_be_remembered() -> None:
    def full(mac: str, until_ms: int, now_ms: int) -> None:
        raise PubSubError("the disk is full", code=50003)

    issuer = TokenIssuer(KEYS, SEAL, lambda size: b"r" * size, remember=full)
    assert refusal(issuer, ALICE) == (50003, 500)
    assert refusal(issuer, ALICE) == (50003, 500), "it may be sent again"


def test_a_token_makes_no_token() -> None:
    issuer = TokenIssuer(KEYS, SEAL, lambda size: b"r" * size)
    with pytest.raises(PubSubError) as refused:
        issuer.issue("app1.key1", {"keyName": "app1.key1"}, None, NOW, with_token=True)
    assert (refused.value.code, refused.value.status) == (40162, 401)
    assert issuer.issue("app1.key1", ALICE, None, NOW, with_token=True), "a signed request needs no other credentials"
