"""What engine.auth.keys promises: a key is known exactly or not at all, and nobody reads its secret out of anything."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.auth.keys import Key, KeyFormatError, Keyring, parse_key
from engine.errors import AuthError

KEY = Key("app1", "key1", "topsecret")
OTHER = Key("app1", "key2", "othersecret")


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([KEY, OTHER, Key("app2", "key1", "topsecret"), Key("app3", "off", "topsecret", enabled=False)])


def test_a_key_is_taken_apart_into_app_id_and_secret() -> None:
    assert parse_key("app1.key1:topsecret") == ("app1", "key1", "topsecret")
    assert KEY.name == "app1.key1"
    assert KEY.text == "app1.key1:topsecret"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app1",
        "app1.key1",
        "app1.key1:",
        ".key1:secret",
        "app1.:secret",
        "app1.key1:sec:ret",
        "app1.key1:sec.ret",
        "a.b.c:secret",
        "app 1.key1:secret",
        "app1.key1:secret\n",
        "app1.key1:\x00secret",
        "app1.key1:\udcffsecret",
        "app1.key1:" + "x" * 257,
        "x" * 65 + ".key1:secret",
    ],
)
def test_what_is_no_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(KeyFormatError) as refused:
        parse_key(text)
    assert "secret" not in str(refused.value).replace("appId.keyId:secret", "")


@given(st.text(max_size=40))
def test_any_other_text_is_no_key(text: str) -> None:
    with pytest.raises(AuthError) as refused:
        Keyring([KEY]).authenticate(text)
    assert (refused.value.code, refused.value.status) == (40101, 401)


def test_the_right_text_finds_its_key(keyring: Keyring) -> None:
    assert keyring.authenticate("app1.key1:topsecret") is KEY
    assert keyring.authenticate("app2.key1:topsecret").app_id == "app2"


@pytest.mark.parametrize(
    "text",
    ["app1.key1:topsecreT", "app1.key1:othersecret", "app1.key9:topsecret", "app9.k:topsecret", "app3.off:guess"],
)
def test_wrong_unknown_and_disabled_keys_are_refused_alike(keyring: Keyring, text: str) -> None:
    with pytest.raises(AuthError) as refused:
        keyring.authenticate(text)
    assert refused.value.code == 40101
    assert str(refused.value) == "key: unknown key, or wrong secret"


def test_a_revoked_key_is_told_so_once_its_secret_is_right(keyring: Keyring) -> None:
    with pytest.raises(AuthError) as refused:
        keyring.authenticate("app3.off:topsecret")
    assert (refused.value.code, refused.value.status) == (40131, 401)


def test_secrets_are_compared_in_constant_time_even_if_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def watch(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", watch)
    for text in ("app1.key1:topsecret", "app1.key1:guess", "nobody.here:guess"):
        try:
            Keyring([KEY]).authenticate(text)
        except AuthError:
            assert text.endswith("guess")
    assert compared == [b"topsecret", b"guess", b"guess"]


def test_the_placeholder_for_an_unknown_key_is_no_password() -> None:
    with pytest.raises(AuthError):
        Keyring([KEY]).authenticate("nobody.here:" + "-" * 32)


def test_no_representation_of_a_key_shows_its_secret(keyring: Keyring) -> None:
    for shown in (repr(KEY), str(KEY), f"{KEY}", repr(keyring), repr([KEY])):
        assert "topsecret" not in shown


def test_an_app_goes_with_all_its_keys_and_no_others(keyring: Keyring) -> None:
    assert keyring.has_app("app1")
    assert keyring.remove_app("app1") == [KEY, OTHER]
    assert not keyring.has_app("app1")
    assert keyring.find("app1.key1") is None
    assert keyring.find("app2.key1") is not None
    assert len(keyring) == 2


def test_a_new_key_is_fully_capable() -> None:
    assert KEY.capability.text == '{"*":["*"]}'


def test_a_key_can_only_be_found_while_it_is_enabled(keyring: Keyring) -> None:
    assert keyring.find("app3.off") is None
    assert keyring.has_app("app3")
