"""What server.cli promises: the command line decides over the file, a mistake costs one clear line, and help helps."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import server
from engine.errors import StartupFailed
from engine.settings import Settings
from server import cli
from server.cli import build_parser, main, settings_from


def parsed(*arguments: str, environment: dict[str, str] | None = None) -> Settings:
    return settings_from(build_parser().parse_args(["serve", *arguments]), environment or {})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "unbroken.toml"
    file.write_text(
        """
        listen = "10.0.0.1:1"
        data = "from-file"
        durability = "written"
        [limits]
        window_seconds = 5
        [[apps]]
        id = "file"
        keys = [{ key = "file.k:s", capability = { a = ["publish"] } }]
        """
    )
    return file


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that the server was started with; it ends at once."""
    seen: list[Settings] = []

    def run(settings: Settings, reread: Callable[[], Settings], *, new_secret: bool) -> int:
        seen.append(settings)
        return 0

    _replace_app(monkeypatch, run)
    monkeypatch.delenv("UNBROKEN_KEY", raising=False)
    return seen


def _replace_app(monkeypatch: pytest.MonkeyPatch, run: Callable[..., int]) -> None:
    monkeypatch.setitem(sys.modules, "server.app", SimpleNamespace(run=run))  # type: ignore[arg-type]


def test_without_arguments_the_defaults_hold() -> None:
    assert parsed() == Settings()
    assert (Settings().host, Settings().port, Settings().data) == ("127.0.0.1", 8080, Path("data"))


def test_every_option_is_taken(tmp_path: Path) -> None:
    settings = parsed(
        *["--listen", "[::1]:0", "--data", str(tmp_path), "--dev", "--durability", "memory"],
        *["--key", "a.k:s", "--key", "b.k:s", "--tls-cert", "c.pem", "--tls-key", "k.pem"],
    )
    assert (settings.host, settings.port, settings.data, settings.dev) == ("::1", 0, tmp_path, True)
    assert settings.durability == "memory"
    assert [key.text for key in settings.keys] == ["a.k:s", "b.k:s"]
    assert (settings.tls_cert, settings.tls_key) == (Path("c.pem"), Path("k.pem"))


def test_what_the_command_line_does_not_say_the_file_decides(config: Path) -> None:
    settings = parsed("--config", str(config), "--listen", "127.0.0.1:0")
    assert (settings.host, settings.port) == ("127.0.0.1", 0)
    assert (settings.data, settings.durability) == (Path("from-file"), "written")
    assert settings.limits.window_seconds == 5


def test_development_is_on_if_either_says_so(config: Path) -> None:
    assert not parsed("--config", str(config)).dev
    config.write_text("dev = true")
    assert parsed("--config", str(config)).dev


def test_keys_of_file_command_line_and_environment_add_up(config: Path) -> None:
    settings = parsed(*["--config", str(config), "--key", "a.k:s"], environment={"UNBROKEN_KEY": "env.k:s"})
    assert sorted(key.name for key in settings.keys) == ["a.k", "env.k", "file.k"]


def test_repeated_key_has_the_last_secret_and_full_capability(config: Path) -> None:
    (key,) = parsed("--config", str(config), "--key", "file.k:other").keys
    assert (key.secret, key.capability.text) == ("other", '{"*":["*"]}')


def test_an_empty_environment_variable_is_none() -> None:
    assert parsed(environment={"UNBROKEN_KEY": ""}).keys == ()


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--listen", "nonsense"], {}, "--listen: must be HOST:PORT"),
        (["--listen", "::1:80"], {}, "--listen: an IPv6 address must be in brackets"),
        (["--key", "nonsense"], {}, "--key or UNBROKEN_KEY: a key must have the form appId.keyId:secret"),
        (["--key", "a.k:change-me-please"], {}, "--key or UNBROKEN_KEY: its secret is from a public example"),
        ([], {"UNBROKEN_KEY": "a.k:change-me-too"}, "--key or UNBROKEN_KEY: its secret is from a public example"),
        (["--dev-anywhere"], {}, "dev_anywhere: says where development mode may listen, so it requires dev (--dev)"),
        ([], {"UNBROKEN_KEYS": "a.b:topsecret"}, "UNBROKEN_KEYS: unknown variable; known variables are UNBROKEN_KEY, "),
        ([], {"UNBROKEN_LOG_LEVLE": "info"}, "did you mean UNBROKEN_LOG_LEVEL?"),
        ([], {"UNBROKEN_PORT": "8080"}, "did you mean --listen?"),
        ([], {"UNBROKEN_LISTEN": "8080"}, "did you mean --listen?"),
        (
            [],
            {"UNBROKEN_LOG_LEVEL": "loud"},
            "UNBROKEN_LOG_LEVEL: must be one of debug, info, warning, error, got 'loud'",
        ),
        (
            [],
            {"UNBROKEN_LOG_FORMAT": "jsn"},
            "UNBROKEN_LOG_FORMAT: must be one of text, json, got 'jsn'; did you mean json",
        ),
        ([], {"UNBROKEN_KEY": "a.b:top:secret"}, "--key or UNBROKEN_KEY: a key must have the form"),
        (["--config", "/nowhere/x.toml"], {}, "/nowhere/x.toml: cannot be read"),
        (["--tls-cert", "c.pem"], {}, "needs both"),
        (["--tls-key", "k.pem"], {}, "needs both"),
    ],
)
def test_a_wrong_value_is_one_clear_line_and_exit_status_2(
    started: list[Settings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    environment: dict[str, str],
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["serve", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("unbroken: ")
    assert said in output.err
    assert output.err.count("\n") == 1
    assert "top" not in output.err
    assert not started


def test_a_memory_server_with_persisted_namespaces_is_refused(config: Path) -> None:
    config.write_text("[namespaces.chat]\npersisted = true")
    with pytest.raises(StartupFailed, match=r"namespaces\.chat"):
        parsed("--config", str(config), "--durability", "memory")


def test_kubernetes_variables_of_a_service_are_ignored() -> None:
    told = {"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "80", "SERVICE_PORT_HTTP": "80", "PORT": "tcp://10.0.0.1:80"}
    told |= {"PORT_80_TCP": "tcp://10.0.0.1:80", "PORT_80_TCP_PROTO": "tcp", "PORT_80_TCP_ADDR": "10.0.0.1"}
    assert parsed(environment={f"UNBROKEN_{name}": value for name, value in told.items()}) == Settings()


def test_log_settings_follow_options_then_environment_then_file(config: Path) -> None:
    config.write_text('log_level = "error"\nlog_format = "json"')
    environment = {"UNBROKEN_LOG_LEVEL": "debug", "UNBROKEN_LOG_FORMAT": ""}
    levels = []
    for arguments, variables in (([], {}), ([], environment), (["--log-level", "warning"], environment)):
        settings = parsed("--config", str(config), *arguments, environment=variables)
        levels.append((settings.log_level, settings.log_format))
    assert levels == [("error", "json"), ("debug", "json"), ("warning", "json")]
    assert parsed("--log-format", "json").log_format == "json"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "8080"], "unrecognized arguments: --port 8080; did you mean --listen?"),
        (["serve", "--host=0.0.0.0"], "unrecognized arguments: --host=0.0.0.0; did you mean --listen?"),
        (["serve", "--lisen", "127.0.0.1:1"], "did you mean --listen?"),
        (["serve", "--log_level", "info"], "did you mean --log-level?"),
        (["serve", "--durabilty=memory"], "did you mean --durability?"),
        (["keys", "create", "--ap", "x", "--capabilty", "{}"], "did you mean --capability?"),
        (["keys", "list", "--datta", "x"], "did you mean --data?"),
        (["bench", "--publisher-count", "5"], "unrecognized arguments: --publisher-count 5"),
        (["bench", "--publihers", "5"], "did you mean --publishers?"),
        (["bench", "--connections", "5"], "did you mean --subscribers?"),
        (["serve", "--kye", "app1.key1:topsecret"], "--kye app1.key1:*** did you mean --key?"),
    ],
)
def test_unknown_option_is_refused_with_a_suggestion(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    output = capsys.readouterr().err
    assert said in output
    assert output.startswith(f"usage: unbroken {arguments[0]}")


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["serve", "--nonsense"], ["serve", "--durability", "x"]])
def test_wrong_usage_is_exit_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: unbroken" in capsys.readouterr().err


def test_serve_starts_with_the_settings_and_returns_the_status(started: list[Settings]) -> None:
    assert main(["serve", "--listen", "127.0.0.1:0", "--dev"]) == 0
    assert [(settings.port, settings.dev) for settings in started] == [(0, True)]


def test_a_failed_start_is_one_clear_line_and_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(settings: Settings, reread: Callable[[], Settings], *, new_secret: bool) -> int:
        raise StartupFailed("cannot listen on 127.0.0.1:80: Permission denied")

    _replace_app(monkeypatch, run)
    assert main(["serve"]) == 1
    assert capsys.readouterr().err == "unbroken: cannot listen on 127.0.0.1:80: Permission denied\n"


def test_a_bug_is_not_dressed_up_as_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(settings: Settings, reread: Callable[[], Settings], *, new_secret: bool) -> int:
        raise ZeroDivisionError

    _replace_app(monkeypatch, run)
    with pytest.raises(ZeroDivisionError):
        main(["serve"])


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"unbroken {server.VERSION}\n"


def test_listen_examples_mention_that_keys_need_tls() -> None:
    """Else who follows the example has 40103 from the first client on."""
    readme = Path(__file__).parent.parent / "README.md"
    for text in (readme.read_text(), cli.SERVE_EXAMPLES):
        places = [found.start() for found in re.finditer(r"--listen 0\.0\.0\.0", text)]
        assert places
        for place in places:
            beside = text[place : place + 300]
            assert "40103" in beside and "TLS" in beside


def test_help_shows_every_default_and_how_to_hide_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for words in (
        "--listen HOST:PORT",
        "127.0.0.1:8080",
        "--data DIR",
        "./data",
        "--new-secret",
        "--config FILE",
        "--key appId.keyId:secret",
        "UNBROKEN_KEY",
        "--dev",
        "--dev-anywhere",
        "--log-level {debug,info,warning,error}",
        "--log-format {text,json}",
        "--tls-cert FILE",
        "--tls-key FILE",
        "--durability {synced,written,memory}",
        "examples:",
    ):
        assert words in text, words
