"""A certificate for servers in tests, made once for a run, and the client's side of it."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Authority:
    arguments: tuple[str, ...]
    """Of ``unbroken serve``: where its certificate is."""
    client: ssl.SSLContext
    """For clients who trust it."""
    root: bytes
    """What that takes, as PEM."""

    def server(self) -> ssl.SSLContext:
        """For a server within the test."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.arguments[1], self.arguments[3])
        return context


@cache
def authority() -> Authority:
    """The same for all who ask: a key takes a moment to make."""
    directory = tempfile.TemporaryDirectory()
    _KEPT.append(directory)
    root = trustme.CA()
    made = root.issue_cert("127.0.0.1")
    certificate, key = Path(directory.name) / "cert.pem", Path(directory.name) / "key.pem"
    made.private_key_pem.write_to_path(key)
    for n, blob in enumerate(made.cert_chain_pems):
        blob.write_to_path(certificate, append=n > 0)
    client = ssl.create_default_context()
    root.configure_trust(client)
    return Authority(("--tls-cert", str(certificate), "--tls-key", str(key)), client, root.cert_pem.bytes())


_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends
