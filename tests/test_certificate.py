"""What server.certificate promises: a certificate that can't be used is named with its setting and the reason."""

from __future__ import annotations

import datetime
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from engine.errors import StartupFailed
from engine.settings import Settings
from server.certificate import load_certificate, stamp_of
from tests.harness import NO_PROXY, Server

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def root() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def settings(tmp_path: Path, root: trustme.CA) -> Settings:
    """With a certificate and its key, to be damaged."""
    made = root.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    return Settings(tls_cert=cert, tls_key=key)


def encrypted(pem: bytes, form: serialization.PrivateFormat) -> bytes:
    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"password"))


def encrypted_key(cert: Path, key: Path, root: trustme.CA) -> None:
    key.write_bytes(encrypted(key.read_bytes(), serialization.PrivateFormat.PKCS8))


def encrypted_as_before(cert: Path, key: Path, root: trustme.CA) -> None:
    key.write_bytes(encrypted(key.read_bytes(), serialization.PrivateFormat.TraditionalOpenSSL))


def another_key(cert: Path, key: Path, root: trustme.CA) -> None:
    root.issue_cert("127.0.0.1").private_key_pem.write_to_path(key)


def key_of_another_kind(cert: Path, key: Path, root: trustme.CA) -> None:
    root.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA).private_key_pem.write_to_path(key)


def no_cert(cert: Path, key: Path, root: trustme.CA) -> None:
    cert.unlink()


def no_key(cert: Path, key: Path, root: trustme.CA) -> None:
    key.unlink()


def directory(cert: Path, key: Path, root: trustme.CA) -> None:
    key.unlink()
    key.mkdir()


def empty_cert(cert: Path, key: Path, root: trustme.CA) -> None:
    cert.write_bytes(b"")


def der(cert: Path, key: Path, root: trustme.CA) -> None:
    cert.write_bytes(b"\x30\x82\x01\x01\xff")


def swapped(cert: Path, key: Path, root: trustme.CA) -> None:
    content = cert.read_bytes(), key.read_bytes()
    key.write_bytes(content[0])
    cert.write_bytes(content[1])


def cut_cert(cert: Path, key: Path, root: trustme.CA) -> None:
    cert.write_bytes(cert.read_bytes()[:200])


def cut_key(cert: Path, key: Path, root: trustme.CA) -> None:
    key.write_bytes(key.read_bytes()[:100])


DAMAGES: list[tuple[Any, str, str]] = [
    (encrypted_key, "tls_key", "is encrypted, and the server cannot ask for its password"),
    (encrypted_as_before, "tls_key", "is encrypted, and the server cannot ask for its password"),
    (another_key, "tls_key", "is not the key of the certificate in tls_cert"),
    (key_of_another_kind, "tls_key", "is not the key of the certificate in tls_cert"),
    (no_cert, "tls_cert", "cannot be read: No such file"),
    (no_key, "tls_key", "cannot be read: No such file"),
    (directory, "tls_key", "cannot be read: Is a directory"),
    (empty_cert, "tls_cert", "contains no certificate in PEM"),
    (der, "tls_cert", "contains no certificate in PEM"),
    (swapped, "tls_cert", "tls_cert and tls_key seem to be swapped"),
    (cut_cert, "tls_cert, tls_key", "cannot be used: "),
    (cut_key, "tls_cert, tls_key", "cannot be used: "),
]


@pytest.mark.parametrize(("damage", "setting", "reason"), DAMAGES, ids=[each[0].__name__ for each in DAMAGES])
def test_what_cannot_be_used_is_named(
    settings: Settings, root: trustme.CA, damage: Any, setting: str, reason: str
) -> None:
    assert settings.tls_cert is not None and settings.tls_key is not None
    damage(settings.tls_cert, settings.tls_key, root)
    with pytest.raises(StartupFailed) as refused:
        load_certificate(settings)
    assert str(refused.value).startswith(f"{setting}: ")
    assert reason in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(settings: Settings) -> None:
    assert settings.tls_key is not None
    settings.tls_key.chmod(0)
    with pytest.raises(StartupFailed, match=r"^tls_key: .*Permission denied"):
        load_certificate(settings)


def test_command_reports_it_in_one_line_without_a_prompt(settings: Settings, root: trustme.CA, tmp_path: Path) -> None:
    assert settings.tls_cert is not None and settings.tls_key is not None
    encrypted_key(settings.tls_cert, settings.tls_key, root)
    command = [Server(tmp_path).executable, "serve", "--listen", "127.0.0.1:0", "--data", tmp_path / "data"]
    command += ["--tls-cert", settings.tls_cert, "--tls-key", settings.tls_key]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env={**os.environ, **NO_PROXY}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("unbroken: tls_key: ") and "is encrypted" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists(), "nothing has been made yet"


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        (NOW - 3 * DAY, NOW - DAY, "has expired"),
        (NOW + DAY, NOW + 3 * DAY, "is not valid yet"),
        (NOW - DAY, NOW + DAY, None),
    ],
    ids=["expired", "not yet", "valid"],
)
def test_a_certificate_past_its_time_is_warned_of_and_taken(
    settings: Settings,
    root: trustme.CA,
    caplog: pytest.LogCaptureFixture,
    begin: datetime.datetime,
    end: datetime.datetime,
    said: str | None,
) -> None:
    assert settings.tls_cert is not None and settings.tls_key is not None
    made = root.issue_cert("127.0.0.1", not_before=begin, not_after=end)
    made.private_key_and_cert_chain_pem.write_to_path(settings.tls_cert)  # of both, as some keep them
    settings.tls_key.write_bytes(settings.tls_cert.read_bytes())
    assert load_certificate(settings) is not None
    warned = [record.getMessage() for record in caplog.records]
    if said is None:
        assert not warned
    else:
        (line,) = warned
        assert line.startswith(f"tls_cert: {settings.tls_cert}: the certificate {said}")


def test_change_of_either_file_is_seen(settings: Settings) -> None:
    assert settings.tls_cert is not None and settings.tls_key is not None
    stamps = [stamp_of(settings)]
    assert stamp_of(settings) == stamps[0] is not None
    for path in (settings.tls_cert, settings.tls_key):
        new = path.with_suffix(".new")
        new.write_bytes(path.read_bytes())
        new.replace(path)
        stamps.append(stamp_of(settings))
    assert len(set(stamps)) == 3
    settings.tls_key.unlink()
    assert stamp_of(settings) is None
    assert stamp_of(Settings()) is None and load_certificate(Settings()) is None
