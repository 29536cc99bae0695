"""Loads the server's certificate and key for TLS, and names the setting if one of them is wrong.

    tls_cert   PEM: the certificate, and its chain      tls_key   PEM: its private key, not encrypted

An unusable file is refused. A usable certificate that clients will refuse (it has expired) causes a warning."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from engine.errors import StartupFailed
from engine.settings import Settings

LOGGER = logging.getLogger("unbroken.tls")

CERTIFICATE, PRIVATE_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"
NOT_YET_VALID, EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED
NO_PAIR = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")  # the last: of another kind of key
ROUNDS = 10  # of a handshake within memory; TLS 1.3 takes two

Stamp = tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A usable certificate, and the stamp of its files when they were read."""

    context: ssl.SSLContext
    stamp: Stamp


def stamp_of(settings: Settings) -> Stamp:
    """Changes once a file has been replaced or written to; None: there is no TLS, or a file is missing."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        found = [os.stat(path) for path in (settings.tls_cert, settings.tls_key)]
    except OSError:
        return None
    return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found)


def load_certificate(settings: Settings) -> Certificate | None:
    """None: no TLS. Raises: StartupFailed, with the setting of the unusable file, and the reason."""
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None or key is None:
        return None
    stamp = stamp_of(settings)  # first: a change that comes in between is looked at again
    _check_content("tls_cert", certificate, CERTIFICATE, "a certificate")
    _check_content("tls_key", key, PRIVATE_KEY, "a private key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, _password(key))
    except ssl.SSLError as error:
        if error.reason in NO_PAIR:
            reason = f"tls_key: {key}: is not the key of the certificate in tls_cert, {certificate}"
        else:
            reason = f"tls_cert, tls_key: {certificate} and {key} cannot be used: {error.reason or error}"
        raise StartupFailed(reason) from error
    except OSError as error:
        raise StartupFailed(f"tls_cert, tls_key: {certificate} and {key} cannot be read: {error.strerror}") from error
    _warn(context, certificate)
    return Certificate(context, stamp)


def _check_content(name: str, path: Path, wanted: bytes, what: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StartupFailed(f"{name}: {path}: cannot be read: {error.strerror}") from error
    if wanted not in content:
        other = CERTIFICATE in content or PRIVATE_KEY in content
        swapped = "; tls_cert and tls_key seem to be swapped" if other else ""
        raise StartupFailed(f"{name}: {path}: contains no {what.removeprefix('a ')} in PEM{swapped}")


def _password(key: Path):  # type: ignore[no-untyped-def]  # a callable that never returns
    def refuse() -> str:
        """OpenSSL would prompt on the terminal, which a server may not have."""
        raise StartupFailed(
            f"tls_key: {key}: is encrypted, and the server cannot ask for its password; use an unencrypted "
            f"key that only the server can read (openssl pkey -in {key.name} -out plain.pem)"
        )

    return refuse


def _warn(context: ssl.SSLContext, path: Path) -> None:
    """Log a warning if the certificate has expired, or is not valid yet."""
    code = _judged(context, path)
    if code in (NOT_YET_VALID, EXPIRED):
        what = "has expired" if code == EXPIRED else "is not valid yet, by this machine's clock"
        LOGGER.warning("tls_cert: %s: the certificate %s; clients will refuse it", path, what)


def _judged(context: ssl.SSLContext, path: Path) -> int:
    """The fault that a client finds which trusts just this certificate, as an OpenSSL error number; 0: none."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with contextlib.suppress(ssl.SSLError):  # of a chain that holds what is no authority: then that is told below
        client.load_verify_locations(path)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_side=False),
        context.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for turn in range(2 * ROUNDS):
            with contextlib.suppress(ssl.SSLWantReadError):
                ends[turn % 2].do_handshake()
    except ssl.SSLCertVerificationError as error:
        return int(error.verify_code)
    except ssl.SSLError:
        return 0
    return 0
