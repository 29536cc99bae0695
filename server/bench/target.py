"""The server under test: its address, resolved and tried once, and the request that opens a connection."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
from contextlib import suppress
from urllib.parse import quote, urlencode

from server.bench.options import Options

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONNECT_SECONDS = 10.0
PORTS_OF_ONE_SOURCE = 20_000  # connections from one address to one port: the kernel has about 28,000 ports for them
VERSION = "2"


class Unreachable(Exception):
    """No connection can be made; the text says why, and what to do."""


class Target:
    """A server that has been reached once."""

    def __init__(self, options: Options) -> None:
        """Raises: Unreachable."""
        self.host, self.port, self.secure = options.host, options.port, options.secure
        self._key, self._binary = options.key, options.binary
        self.context: ssl.SSLContext | None = None
        if options.secure:
            self.context = ssl.create_default_context()
            if not options.verify:
                self.context.check_hostname = False
                self.context.verify_mode = ssl.CERT_NONE
        self.family, self.address = self._find()
        self._made = 0

    def _find(self) -> tuple[int, tuple[object, ...]]:
        where = f"{self.host}:{self.port}"
        try:
            with socket.create_connection((self.host, self.port), CONNECT_SECONDS) as probe:
                found = probe.family, probe.getpeername()
                if self.context is not None:
                    with self.context.wrap_socket(probe, server_hostname=self.host):
                        pass
                return found
        except socket.gaierror as error:
            raise Unreachable(f"unknown host {self.host!r}: {error.strerror}") from error
        except UnicodeError as error:  # as text it can't be asked for: a label is empty, or has more than 63 bytes
            raise Unreachable(f"unknown host {self.host!r}: not a valid host name") from error
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(
                f"{where}: its certificate is not trusted: {error.verify_message} (--insecure?)"
            ) from error
        except ssl.SSLError as error:
            raise Unreachable(
                f"{where}: no TLS there ({error.reason or error}); use ws:// instead of wss://?"
            ) from error
        except TimeoutError as error:
            raise Unreachable(f"{where} does not answer within {CONNECT_SECONDS:g} s") from error
        except ConnectionRefusedError as error:
            raise Unreachable(f"{where} refuses connections; is the server running on this port?") from error
        except OSError as error:
            raise Unreachable(f"{where} cannot be reached: {error}") from error

    def plain_socket(self) -> socket.socket:
        """A socket that does not block and is being connected."""
        made = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        source = self._made // PORTS_OF_ONE_SOURCE
        self._made += 1
        if source and self.address[0] == "127.0.0.1":
            made.bind((f"127.0.0.{1 + source % 250}", 0))
        with suppress(BlockingIOError):
            made.connect(self.address)
        return made

    def request(self, resume: str | None) -> tuple[bytes, bytes]:
        """The request for a WebSocket, and what Sec-WebSocket-Accept has to be in the answer."""
        nonce = base64.b64encode(os.urandom(16))
        query = {
            "key": f"{self._key.name}:{self._key.secret}",
            "v": VERSION,
            "format": "msgpack" if self._binary else "json",
            "heartbeats": "false",
        }
        if resume is not None:
            query["resume"] = resume
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = (
            f"GET /?{urlencode(query, quote_via=quote)} HTTP/1.1\r\nHost: {host}:{self.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce.decode()}\r\n\r\n"
        )
        return head.encode(), base64.b64encode(hashlib.sha1(nonce + GUID).digest())
