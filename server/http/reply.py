"""Turns a handler's reply into an HTTP response that every client library can read.

    Reply(status, value, headers) --+-- format: Accept, else ``format=``, else JSON --> body
                                    +-- envelope=json|msgpack: status and headers go into the body
                                    +-- CORS, on every response, refusals too

An error is a reply as well: its facts are in the body, and in headers for clients that cannot read bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgpack
import orjson

from engine.errors import LimitExceeded, OutcomeUnknown, PubSubError
from server.http.request import MEDIA_TYPES, HttpRequest, Response, format_parameter, media_type
from server.realtime.wire import JSON, MSGPACK

CONTENT_TYPES = ("application/json", "application/x-msgpack")  # exactly so: libraries compare for equality
ENVELOPES = {"json": JSON, "msgpack": MSGPACK}
ERROR_TEXT = 500  # characters of a header; servers in between refuse long ones, and the body has it all
_packer = msgpack.Packer()
RETRY_MS = 1000  # for a 429 without a known end: full resources empty all the time

ALLOWED_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = (  # for a preflight without its own list
    "Authorization, Content-Type, Accept, X-Ably-Version, X-Ably-ClientId, X-Ably-MessageId, X-Ably-Name,"
    " X-Ably-ConnectionKey, X-Ably-Encoding, Ably-Agent"
)
EXPOSED_HEADERS = "Link, Retry-After, X-Ably-Errorcode, X-Ably-Errormessage, X-Ably-Serverid"
PREFLIGHT_SECONDS = 86400


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value that has been encoded, in the format that the client prefers."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """``value`` None means an empty body; ``links`` are (relation, URL) pairs; ``code``: of an error."""

    status: int
    value: object
    headers: Sequence[tuple[str, str]] = ()
    links: Sequence[tuple[str, str]] = ()
    code: int = 0


class HttpRefusal(PubSubError):
    """A refusal with additional HTTP headers."""

    def __init__(self, message: str, *, code: int, status: int, headers: Sequence[tuple[str, str]]) -> None:
        super().__init__(message, code=code, status=status)
        self.headers = headers


def not_allowed(message: str, allow: str) -> HttpRefusal:
    """The refusal of a method; ``allow`` is the value of the Allow header."""
    return HttpRefusal(message, code=40500, status=405, headers=[("Allow", allow)])


def refusal(error: PubSubError) -> Reply:
    """The reply for an error."""
    status = error.status if 400 <= error.status < 600 else 500
    info = error.info()
    headers = [("X-Ably-Errorcode", str(error.code)), ("X-Ably-Errormessage", header_value(str(info["message"])))]
    if status == 401:
        # Not Basic: browsers would ask their user for a password.
        headers.append(("WWW-Authenticate", 'Bearer realm="unbroken"'))
    wait_ms = error.retry_after_ms if isinstance(error, LimitExceeded) else None
    if wait_ms is None and status == 429:
        wait_ms = RETRY_MS
    if wait_ms is not None:
        headers.append(("Retry-After", str(-(-wait_ms // 1000))))  # whole seconds, and none too early
    if isinstance(error, HttpRefusal):
        headers += error.headers
    return Reply(status, told(error), headers, code=error.code)


def told(error: PubSubError) -> dict[str, object]:
    """The body of an error; if a publish may be stored, it includes the id by which a repeat is recognized."""
    if isinstance(error, OutcomeUnknown) and error.message_id is not None:
        return {"error": error.info(), "messageId": error.message_id}
    return {"error": error.info()}


def header_value(text: str) -> str:
    """The text on one line, in characters that a header may contain; others are escaped."""
    printable = "".join(char if char.isprintable() else " " for char in text[:ERROR_TEXT])
    return printable.encode("latin-1", errors="backslashreplace").decode("latin-1").strip()


def response_format(request: HttpRequest) -> int:
    """The format that the client prefers, of the two supported ones."""
    envelope = ENVELOPES.get(request.query.get("envelope", ""))
    if envelope is not None:
        return envelope
    best, best_weight = None, 0.0
    for item in request.headers.get("accept", "").split(","):
        wire = MEDIA_TYPES.get(media_type(item))
        weight = _weight(item)
        if wire is not None and weight > best_weight:  # of equals the first: JS asks for msgpack, then JSON
            best, best_weight = wire, weight
    return format_parameter(request) if best is None else best


def _weight(item: str) -> float:
    for parameter in item.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def respond(request: HttpRequest, reply: Reply) -> Response:
    """The response, in the format that this client prefers."""
    wire = response_format(request)
    if reply.code:
        request.asker.refused = reply.status, reply.code
    headers = [*reply.headers, *(("Link", f'<{url}>; rel="{relation}"') for relation, url in reply.links)]
    if request.query.get("envelope") in ENVELOPES:
        reply, headers = _enveloped(reply, headers), []
    headers += cors_headers(request.headers.get("origin"))
    if reply.value is None:
        return Response(reply.status, headers, b"")
    return Response(reply.status, [("Content-Type", CONTENT_TYPES[wire]), *headers], encode(reply.value, wire))


def _enveloped(reply: Reply, headers: Sequence[tuple[str, str]]) -> Reply:
    joined: dict[str, str] = {}
    for name, text in headers:
        name = name.lower()
        joined[name] = f"{joined[name]}, {text}" if name in joined else text
    value: dict[str, object] = {"statusCode": reply.status, "headers": joined}
    if reply.value is not None:
        value["response"] = reply.value
    if reply.links:
        value["rel"] = dict(reply.links)
    return Reply(200, value)


def encode(value: object, wire: int) -> bytes:
    if isinstance(value, Encoded):
        return value.content
    if isinstance(value, dict) and isinstance(value.get("response"), Encoded):  # in an envelope
        if wire == JSON:
            return orjson.dumps(value | {"response": orjson.Fragment(value["response"].content)})
        pairs = [encode(name, wire) + encode(inner, wire) for name, inner in value.items()]
        return b"".join([_packer.pack_map_header(len(pairs)), *pairs])
    return orjson.dumps(value) if wire == JSON else msgpack.packb(value)


def join_encoded(values: Sequence[bytes], wire: int) -> Encoded:
    """A JSON or msgpack array of encoded items."""
    if wire == JSON:
        return Encoded(b"[" + b",".join(values) + b"]")
    return Encoded(b"".join([_packer.pack_array_header(len(values)), *values]))


def cors_headers(origin: str | None) -> list[tuple[str, str]]:
    """The CORS headers of every response. A browser sends credentials only if its exact origin is named."""
    headers = [("Access-Control-Allow-Origin", origin or "*"), ("Access-Control-Expose-Headers", EXPOSED_HEADERS)]
    if origin:
        headers.append(("Access-Control-Allow-Credentials", "true"))
    headers.append(("Vary", "Origin"))
    return headers


def preflight(request: HttpRequest) -> Response:
    """OPTIONS, on any path."""
    wanted = request.headers.get("access-control-request-headers") or ALLOWED_HEADERS
    headers = [
        ("Access-Control-Allow-Methods", ALLOWED_METHODS),
        ("Access-Control-Allow-Headers", wanted),
        ("Access-Control-Max-Age", str(PREFLIGHT_SECONDS)),
        *cors_headers(request.headers.get("origin")),
    ]
    return Response(204, headers, b"")
