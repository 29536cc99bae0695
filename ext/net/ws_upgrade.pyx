# cython: language_level=3
"""Parse the usual WebSocket upgrade request (RFC 6455, section 4.2.1) strictly, and make the response.

    GET <target> HTTP/1.1 CRLF          "/", perhaps with a query, visible ASCII
    <name>: <value> CRLF ...            tokens and ASCII text; no name twice
    CRLF

    required    Host; Upgrade: websocket; Connection with the token upgrade; Sec-WebSocket-Version: 13;
                Sec-WebSocket-Key of 16 bytes in base64
    left to the library (None here)     a body, expectations, negotiation by name, any other form

Offers in Sec-WebSocket-Extensions are ignored: we support none, and the response names none. So this module refuses
nothing. Each request that it takes, a WebSocket library would take too, with the same meaning."""
from binascii import Error, a2b_base64, b2a_base64
from hashlib import sha1

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from ext.net.head_fields cimport FIELD, MALFORMED, Field, Step, ascii_of, next_field, request_line
from ext.text.utf8 cimport Text

cdef bytes GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
cdef frozenset UNUSUAL = frozenset(
    ["content-length", "transfer-encoding", "expect", "trailer", "te", "sec-websocket-protocol", "http2-settings"])

cdef enum:
    MAX_HEADERS = 100           # with more, the library decides


@cython.final
cdef class Request:
    """A request that may become a WebSocket: its target, its headers (names in lower case), and its response."""

    cdef readonly str target
    cdef readonly dict headers
    cdef readonly bytes answer


def parse_upgrade(bytes head not None):
    """Parse these bytes, up to and including the empty line; None: not of the usual kind."""
    cdef const uint8_t* data = <const uint8_t*><const char*>head
    cdef size_t size = <size_t>len(head), at
    cdef dict headers = {}
    cdef str name
    cdef Text target
    cdef Field field
    cdef Step step
    cdef Request request
    at = request_line(data, size, b"GET ", 4, &target)
    if at == 0 or target.data[0] != c'/' or (target.size > 1 and target.data[1] != c'?'):
        return None
    while True:
        step = next_field(data, size, &at, &field)
        if step != FIELD:
            break
        if len(headers) == MAX_HEADERS:
            return None
        name = ascii_of(&field.name).lower()
        if name in headers or name in UNUSUAL:
            return None
        headers[name] = ascii_of(&field.value)
    if step == MALFORMED:
        return None
    answer = _answer(headers)
    if answer is None:
        return None
    request = Request.__new__(Request)
    request.target = ascii_of(&target)
    request.headers = headers
    request.answer = answer
    return request


cdef bytes _answer(dict headers):
    cdef str key = headers.get("sec-websocket-key", "")
    if (not headers.get("host") or headers.get("upgrade", "").lower() != "websocket"
            or headers.get("sec-websocket-version") != "13"
            or "upgrade" not in [token.strip(" \t") for token in headers.get("connection", "").lower().split(",")]):
        return None
    if len(key) != 24 or not key.endswith("=="):
        return None
    try:
        nonce = a2b_base64(key, strict_mode=True)
    except Error:
        return None
    if len(nonce) != 16 or b2a_base64(nonce, newline=False) != key.encode():
        return None
    accept = b2a_base64(sha1(key.encode() + GUID).digest(), newline=False)
    return (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept + b"\r\n\r\n")
