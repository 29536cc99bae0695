# cython: language_level=3
"""The usual request to become a WebSocket (RFC 6455, section 4.2.1), read strictly, and its answer.

    GET <target> HTTP/1.1 CRLF          "/", perhaps with a query, of visible ASCII
    <name>: <value> CRLF ...            tokens and ASCII text; no name twice
    CRLF

    needed      Host; Upgrade: websocket; Connection with the token upgrade; Sec-WebSocket-Version: 13;
                Sec-WebSocket-Key of 16 bytes in base64
    left to the library (None here)     a body, anything to expect or to negotiate by name, anything that is not as above

What is offered as Sec-WebSocket-Extensions is passed over: none is ours, and the answer says so by naming none. So this
room refuses nothing, and what it takes a library for WebSockets would take too, with the same meaning."""
from binascii import Error, a2b_base64, b2a_base64
from hashlib import sha1

cimport cython
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef bytes GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
cdef frozenset UNUSUAL = frozenset(
    ["content-length", "transfer-encoding", "expect", "trailer", "te", "sec-websocket-protocol", "http2-settings"])

cdef enum:
    MOST_HEADERS = 100          # a library reads more of them, if it likes


cdef inline bint _is_token(uint8_t c) noexcept nogil:
    """RFC 9110, section 5.6.2."""
    return (48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122
            or c == 33 or 35 <= c <= 39 or c == 42 or c == 43 or c == 45 or c == 46 or c == 94 or c == 95 or c == 96
            or c == 124 or c == 126)


@cython.final
cdef class Request:
    """A request that may become a WebSocket: its target, its headers (names in lower case), and what to answer."""

    cdef readonly str target
    cdef readonly dict headers
    cdef readonly bytes answer


def parse_upgrade(bytes head not None):
    """The request that these bytes are, up to and with its empty line; None: it is not of the usual kind."""
    cdef const uint8_t* data = <const uint8_t*><const char*>head
    cdef size_t size = <size_t>len(head), at = 4, start, end
    cdef dict headers = {}
    cdef str name, value
    cdef Request request
    if size < 18 or head[:4] != b"GET ":
        return None
    while at < size and 33 <= data[at] <= 126:
        at += 1
    if at == 4 or data[4] != 47 or (at > 5 and data[5] != 63) or head[at:at + 11] != b" HTTP/1.1\r\n":
        return None
    target = PyUnicode_DecodeASCII(<const char*>data + 4, <Py_ssize_t>(at - 4), NULL)
    at += 11
    while True:
        if size - at < 2:
            return None
        if data[at] == 13:
            if data[at + 1] != 10 or at + 2 != size:
                return None
            break
        start = at
        while at < size and _is_token(data[at]):
            at += 1
        if at == start or at == size or data[at] != 58 or len(headers) == MOST_HEADERS:
            return None
        name = PyUnicode_DecodeASCII(<const char*>data + start, <Py_ssize_t>(at - start), NULL).lower()
        at += 1
        while at < size and (data[at] == 32 or data[at] == 9):
            at += 1
        start = at
        while at < size and (32 <= data[at] <= 126 or data[at] == 9):
            at += 1
        if size - at < 2 or data[at] != 13 or data[at + 1] != 10:
            return None
        end = at
        while end > start and (data[end - 1] == 32 or data[end - 1] == 9):
            end -= 1
        if name in headers or name in UNUSUAL:
            return None
        headers[name] = PyUnicode_DecodeASCII(<const char*>data + start, <Py_ssize_t>(end - start), NULL)
        at += 2
    answer = _answer(headers)
    if answer is None:
        return None
    request = Request.__new__(Request)
    request.target = target
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
