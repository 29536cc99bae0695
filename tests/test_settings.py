"""What engine.settings promises: the server runs with what is written, or says which entry of which file is wrong."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import FieldInfo, fields, replace

from engine import limits
from engine.auth.capability import Operation
from engine.errors import StartupFailed
from engine.quota import NOTHING_SAID, SCOPES, Quota
from engine.settings import Namespace, Settings, load, parse_listen

EXAMPLE = Path(__file__).parent.parent / "docs" / "unbroken.example.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "unbroken.toml"


def read(file: Path, text: str) -> Settings:
    file.write_text(text, encoding="utf-8")
    return load(file)


def test_example_is_valid_and_shows_every_default() -> None:
    settings = load(EXAMPLE)
    assert settings.limits == limits.Limits()
    shown = tomllib.loads(EXAMPLE.read_text())["limits"]
    assert set(shown) == {known.name for known in fields(limits.Limits)} | set(SCOPES)
    assert set(shown["connection"]) == set(SCOPES["connection"].__struct_fields__)
    assert settings == replace(Settings(), quotas=settings.quotas), "nothing in it is no default"
    told = set(Settings.__struct_fields__) - {"host", "port", "keys", "quotas", "app_quotas"}
    text = EXAMPLE.read_text()
    assert [
        name for name in (*told, "listen", "apps") if not re.search(rf"^(# )?\[*{name}\b", text, re.MULTILINE)
    ] == []
    for scope in SCOPES:
        assert settings.general_quota(scope).over(NOTHING_SAID) == NOTHING_SAID, (
            "all are unlimited unless they are given"
        )


def test_commented_examples_are_valid_except_their_secrets(file: Path) -> None:
    shown = re.sub(r"^# (\[|\]|\w+ = |    \{)", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    with pytest.raises(StartupFailed, match=r"apps\[0\]\.keys\[0\]\.key: its secret is from a public example"):
        read(file, shown)
    with pytest.raises(StartupFailed, match=r"apps\[0\]\.keys\[1\]\.key: its secret is from a public example"):
        read(file, shown.replace("change-me-please", "aSecret"))
    settings = read(file, shown.replace("change-me-please", "aSecret").replace("change-me-too", "another"))
    assert settings.namespaces["chat"].persisted_hours == 72
    assert settings.namespaces["ticker"].durability == "memory"
    root, reader = settings.keys
    assert root.name == "example.root"
    assert reader.capability.operations("news:1") == Operation.SUBSCRIBE | Operation.HISTORY


def test_limits_are_read_for_all_of_a_kind_and_for_one(file: Path) -> None:
    settings = read(
        file,
        """
        [limits]
        connections = 5
        [limits.connection]
        messages_in = 7
        [limits.app]
        connections = 3
        [[apps]]
        id = "app1"
        limits = { connections = "unlimited", bytes_out = 9 }
        keys = [{ key = "app1.k:s", limits = { connections = 2, connection = { messages_out = 4 } } }]
        [namespaces.chat]
        limits = { messages_in = 11 }
        """,
    )
    assert settings.limits.connections == 5
    assert settings.general_quota("connection") == Quota(messages_in=7)
    assert settings.app_quotas["app1"].over(settings.general_quota("app")) == Quota(bytes_out=9)
    assert (settings.keys[0].quota, settings.keys[0].connection_quota) == (Quota(connections=2), Quota(messages_out=4))
    assert settings.namespaces["chat"].quota == Quota(messages_in=11)


def test_an_empty_file_changes_nothing(file: Path) -> None:
    assert read(file, "") == Settings()


def test_what_is_written_is_what_holds(file: Path) -> None:
    settings = read(
        file,
        """
        listen = "[::1]:0"
        data = "/var/lib/unbroken"
        dev = true
        durability = "written"
        tls_cert = "cert.pem"
        tls_key = "key.pem"
        [limits]
        window_seconds = 1
        ring_entries_per_channel = 64
        [namespaces.chat]
        persisted_hours = 72
        durability = "synced"
        [namespaces.news]
        persisted = true
        [namespaces."with.dot"]
        persisted = false
        [[apps]]
        id = "a"
        keys = ["a.k:s", { key = "a.off:s", enabled = false, revocable_tokens = true }]
        """,
    )
    assert (settings.host, settings.port, settings.data, settings.dev) == ("::1", 0, Path("/var/lib/unbroken"), True)
    assert (settings.durability, settings.tls_cert, settings.tls_key) == ("written", Path("cert.pem"), Path("key.pem"))
    assert (settings.limits.window_seconds, settings.limits.ring_entries_per_channel) == (1, 64)
    assert settings.limits.max_message_size == limits.Limits().max_message_size
    assert settings.namespaces == {
        "chat": Namespace("chat", 72, "synced"),
        "news": Namespace("news", 24, None),
        "with.dot": Namespace("with.dot", 0, None),
    }
    on, off = settings.keys
    assert (on.name, on.enabled, on.revocable_tokens) == ("a.k", True, False)
    assert (off.name, off.enabled, off.revocable_tokens) == ("a.off", False, True)


@pytest.mark.parametrize(
    ("text", "entry", "reason"),
    [
        ("liste = 'x'", "liste", "unknown setting; did you mean listen?"),
        ("port = 8080", "port", "unknown setting; did you mean listen?"),
        ("log-level = 'info'", "log-level", "unknown setting; did you mean log_level?"),
        ("nonsense = 5", "nonsense", "unknown setting"),
        ("max_mesage_size = 5", "max_mesage_size", "unknown setting; did you mean limits.max_message_size?"),
        ("[limits]\nlog_level = 'info'", "limits.log_level", "belongs above the first [table]"),
        ("[limits.app]\ndev = true", "limits.app.dev", "belongs above the first [table]"),
        ("[[apps]]\nid='a'\nkeys=[{key='a.k:s', limits={data='x'}}]", "apps[0].keys[0].limits.data", "above the first"),
        ("log_level = 'warn'", "log_level", "one of debug, info, warning, error, got 'warn'; did you mean warning?"),
        ("log_format = 'xml'", "log_format", "one of text, json, got 'xml'"),
        ("dev_anywhere = true", "dev_anywhere", "requires dev"),
        ("[limits]\nconnections = 5000000000000", "limits.connections", "from 1 to 1,099,511,627,776, got 5,000,"),
        ("[limits.app]\nconections = 5", "limits.app.conections", "did you mean connections?"),
        ("[[apps]]\nid = 'a'\nkey = []", "apps[0].key", "did you mean keys?"),
        ("[[apps]]\nid = 'a'\nkeys = [{key='a.k:s', enable=false}]", "apps[0].keys[0].enable", "mean enabled?"),
        ("[[apps]]\nid = 'a'\nkeys = ['a.k:Change-Me-please']", "apps[0].keys[0].key", "public example"),
        ("[namespaces.n]\npersisted_hour = 5", "namespaces.n.persisted_hour", "did you mean persisted_hours?"),
        ("listen = 8080", "listen", "must be a string, got 8080"),
        ("listen = 'localhost'", "listen", "HOST:PORT"),
        ("dev = 1", "dev", "true or false"),
        ("durability = 'sync'", "durability", "one of synced, written, memory"),
        ("limits = 5", "limits", "must be a table"),
        ("[limits]\nmax_messages = 5", "limits.max_messages", "unknown setting"),
        ("[limits]\nmax_message_size = '64k'", "limits.max_message_size", "from 1 to 268,435,456, got '64k'"),
        ("[limits]\nmax_message_size = true", "limits.max_message_size", "a whole number"),
        ("[limits]\nmax_message_size = 1.5", "limits.max_message_size", "a whole number"),
        ("[limits]\nmax_message_size = 0", "limits.max_message_size", "from 1 to"),
        ("[limits]\nwindow_seconds = -1", "limits.window_seconds", "from 1 to 86,400, got -1"),
        ("[limits]\nring_entries_per_channel = 100", "limits.ring_entries_per_channel", "power of two"),
        ("[limits]\nmax_frame_size = 1024", "limits.max_frame_size", "not be less than limits.max_message_size"),
        ("[namespaces]\nchat = 5", "namespaces.chat", "must be a table"),
        (
            "[namespaces.chat]\npersistent = true",
            "namespaces.chat.persistent",
            "known settings are persisted_hours, persisted, dur",
        ),
        ("[namespaces.chat]\npersisted = 24", "namespaces.chat.persisted", "true or false"),
        ("[namespaces.chat]\npersisted_hours = 8761", "namespaces.chat.persisted_hours", "from 0 to 8,760"),
        ("[namespaces.chat]\npersisted_hours = -1", "namespaces.chat.persisted_hours", "from 0 to 8,760"),
        ("[namespaces.chat]\npersisted = false\npersisted_hours = 1", "namespaces.chat.persisted", "is false, but"),
        ("[namespaces.chat]\ndurability = 'x'", "namespaces.chat.durability", "one of"),
        ("[namespaces.chat]\npersisted = true\ndurability = 'memory'", "namespaces.chat", "memory"),
        ("durability = 'memory'\n[namespaces.chat]\npersisted = true", "namespaces.chat", "durability is memory"),
        ("[namespaces.'a:b']", "namespaces.a:b", "contain colons"),
        ("apps = 5", "apps", "an array"),
        ("apps = [5]", "apps[0]", "a table"),
        ("[limits]\nconnection = 5", "limits.connection", "a table"),
        ("[limits.connection]\nconnections = 5", "limits.connection.connections", "unknown limit"),
        ("[limits.channel]\nmessages_in = 0", "limits.channel.messages_in", "a whole number from 1"),
        ("[[apps]]\nid = 'a'\nlimits = { x = 1 }", "apps[0].limits.x", "unknown limit"),
        ("[[apps]]\nid = 'a'\n[[apps]]\nid = 'a'", "apps[1].id", "twice"),
        (
            "[[apps]]\nid='a'\nkeys=[{key='a.k:s', limits={connection={x=1}}}]",
            "apps[0].keys[0].limits.connection.x",
            "no",
        ),
        ("[namespaces.n]\nlimits = { connections = 1 }", "namespaces.n.limits.connections", "unknown limit"),
        ("[[apps]]\nkeys = []", "apps[0].id", "is missing"),
        ("[[apps]]\nid = 'a'\nname = 'x'", "apps[0].name", "unknown setting"),
        ("[[apps]]\nid = 'a'\nkeys = [5]", "apps[0].keys[0]", "a table"),
        ("[[apps]]\nid = 'a'\nkeys = ['b.k:s']", "apps[0].keys[0].key", "belongs to the app 'b'"),
        ("[[apps]]\nid = 'a'\nkeys = ['nonsense']", "apps[0].keys[0].key", "appId.keyId:secret"),
        ("[[apps]]\nid = 'a'\nkeys = [{}]", "apps[0].keys[0].key", "is missing"),
        ("[[apps]]\nid = 'a'\nkeys = [{key='a.k:s', x=1}]", "apps[0].keys[0].x", "unknown setting"),
        ("[[apps]]\nid = 'a'\nkeys = ['a.k:s', 'a.k:t']", "apps[0].keys[1].key", "key a.k is defined twice"),
        ("[[apps]]\nid='a'\nkeys=[{key='a.k:s',capability={a=['x']}}]", "apps[0].keys[0].capability", "an operation"),
        ("[[apps]]\nid='a'\nkeys=[{key='a.k:s',capability='*'}]", "apps[0].keys[0].capability", "a table"),
        ("tls_cert = 'cert.pem'", "tls_key", "needs both"),
    ],
)
def test_a_wrong_entry_is_named_with_file_and_reason(file: Path, text: str, entry: str, reason: str) -> None:
    with pytest.raises(StartupFailed) as refused:
        read(file, text)
    said = str(refused.value)
    assert said.startswith(f"{file}: ")
    assert entry in said
    assert reason in said


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("apps = 'a.k:topsecret'", "apps"),
        ("apps = {id = 'a', keys = ['a.k:topsecret']}", "apps"),  # [apps] for [[apps]]
        ("[[apps]]\nid = 'a'\nkeys = 'a.k:topsecret'", "apps[0].keys"),
        ("[[apps]]\nid = 'a'\nkeys = {one = 'a.k:topsecret'}", "apps[0].keys"),
        ("[[apps]]\nid = 'a'\nkeys = [['a.k:topsecret']]", "apps[0].keys[0]"),
        ("[[apps]]\nid = 'a'\nkeys = [{key = ['a.k:topsecret']}]", "apps[0].keys[0].key"),
        ("[[apps]]\nid = 'a.k:topsecret'", "apps[0].id"),
        ("[[apps]]\nid = 'a.k:topsecret'\nkeys = ['a.k:topsecret']", "apps[0].id"),
        ("[[apps]]\nid = ['a.k:topsecret']", "apps[0].id"),
        ("listen = {keys = ['a.k:topsecret']}", "listen"),
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(file: Path, text: str, entry: str) -> None:
    with pytest.raises(StartupFailed) as refused:
        read(file, text)
    assert str(refused.value).startswith(f"{file}: {entry}: ")
    assert "topsecret" not in str(refused.value)


@pytest.mark.parametrize("text", ["x", "a = ", "[limits\n", "a = 1\na = 2", "a = " + "[" * 10_000, "a = " + "9" * 5000])
def test_what_is_no_toml_is_refused(file: Path, text: str) -> None:
    with pytest.raises(StartupFailed, match="not valid TOML"):
        read(file, text)


def test_a_file_in_another_encoding_is_refused(file: Path) -> None:
    file.write_bytes(b"data = '\xff'")
    with pytest.raises(StartupFailed, match="not valid TOML"):
        load(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(StartupFailed, match="cannot be read"):
            load(path)


@pytest.mark.parametrize("entry", ["'a.k.top:secret'", "{key=['a.k:topsecret']}", "'a.k:top:secret'"])
def test_a_misspelt_key_is_not_repeated(file: Path, entry: str) -> None:
    with pytest.raises(StartupFailed) as refused:
        read(file, f"[[apps]]\nid = 'a'\nkeys = [{entry}]")
    assert "top" not in str(refused.value)


@given(name=st.sampled_from(fields(limits.Limits)), value=st.integers(-5, 1 << 64))
def test_a_limit_within_its_bounds_is_taken_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, name: FieldInfo, value: int
) -> None:
    file = tmp_path_factory.mktemp("settings") / "x.toml"
    allowed = get_args(name.type)[1]
    bounds = allowed.ge, allowed.le
    other = "max_message_size = 1" if name.name == "max_frame_size" else f"max_frame_size = {1 << 28}"
    try:
        found = read(file, f"[limits]\n{other}\n{name.name} = {value}")
    except StartupFailed as refused:
        odd = name.name == "ring_entries_per_channel" and value & (value - 1)
        assert odd or not bounds[0] <= value <= bounds[1], refused
        return
    assert bounds[0] <= value <= bounds[1]
    assert getattr(found.limits, name.name) == value


def test_the_defaults_are_within_their_own_bounds(file: Path) -> None:
    lines = [f"{known.name} = {known.default}" for known in fields(limits.Limits)]
    assert read(file, "[limits]\n" + "\n".join(lines)).limits == limits.Limits()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:8080", ("::1", 8080)),
        ("[::]:65535", ("::", 65535)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":8080",
        "localhost",
        "localhost:",
        "localhost:x",
        "localhost:65536",
        "localhost:-1",
        "::1:80",
        "localhost:8_0",
        "localhost:\u0663",
        "[]:80",
        "[::1]",
        "a:" + "9" * 5000,
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|brackets|missing"):
        parse_listen(text)
