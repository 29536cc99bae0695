"""An HTTP request and its response, as handlers see them, and the parsing of both targets and bodies.

    head --parse_target--> path (raw), query --+
         --headers, lower-case-----------------+--> HttpRequest --handler--> Response
    body (bytes, whole) -----------------------+

A handler is a function from the one to the other, and knows nothing of the HTTP library."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.errors import PubSubError
from engine.limits import INPUT_VALUES
from ext.text.percent import unquote
from server.realtime.wire import JSON, MSGPACK, decode_value

QUERY_FIELDS = 256  # in one query or form; ours have a dozen

MEDIA_TYPES = {"application/json": JSON, "application/x-msgpack": MSGPACK}
FORM = "application/x-www-form-urlencoded"


@dataclass(slots=True)
class Asker:
    """Facts about a request that are found during its processing: its app, once its credentials were checked; and
    the status and code of its answer, if it was an error."""

    app_id: str | None = None
    refused: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request; ``path`` is as it was sent, ``query`` and ``headers`` (names in lower case) are decoded."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    is_tls: bool
    peer: str
    asker: Asker = field(default_factory=Asker)
    has_left: Callable[[], bool] = bool  # the client, as far as is known; False if that is unknown


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


Handler = Callable[[HttpRequest], Awaitable[Response]]


def bad_request(message: str, code: int = 40000, status: int = 400) -> PubSubError:
    return PubSubError(message, code=code, status=status)


def parse_target(target: str) -> tuple[str, dict[str, str]]:
    """Path and query of a request target; of a repeated parameter the last one counts.

    Raises: ValueError, if the query has too many fields or is not UTF-8.
    Source: RFC 9112, section 3.2 (the absolute form names a host in front, which does not concern us).
    """
    path, query = split_target(target)
    return path, parse_fields(query.encode())


def split_target(target: str) -> tuple[str, str]:
    """Path and query, both as they were sent; no path is ``/``."""
    if not target.startswith("/") and "://" in target:
        _, _, rest = target.partition("://")
        slash = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        target = rest[slash:]
    path, _, query = target.partition("?")
    return path or "/", query


def parse_fields(encoded: bytes) -> dict[str, str]:
    """The fields of a query or a form, in order; of a repeated one the last counts. Those without a value are empty.

    Raises: ValueError, if there are too many, or one is not UTF-8.
    """
    pairs = encoded.split(b"&", QUERY_FIELDS)
    if len(pairs) > QUERY_FIELDS:
        raise ValueError(f"it has more than {QUERY_FIELDS} fields")
    fields = {}
    for pair in pairs:
        if pair:
            name, _, value = pair.partition(b"=")
            fields[unquote(name, plus=True).decode()] = unquote(value, plus=True).decode()
    return fields


def path_segments(path: str) -> list[str]:
    """The path cut at its slashes, then decoded: a channel name may hold an encoded slash.

    Raises: PubSubError 40000, if a segment is not UTF-8.
    """
    try:
        return [unquote(segment).decode() for segment in path.encode().split(b"/")[1:]]
    except UnicodeDecodeError as error:
        raise bad_request(f"path: not UTF-8 once decoded: {error.reason}") from error


def media_type(value: str) -> str:
    """The type without its parameters: ``application/json; charset=utf-8`` is ``application/json``."""
    return value.partition(";")[0].strip().lower()


def format_parameter(request: HttpRequest) -> int:
    """The ``format`` in the query; JSON if it is missing or unknown."""
    return MSGPACK if request.query.get("format") == "msgpack" else JSON


def header_text(request: HttpRequest, name: str) -> str | None:
    """A header meant for people: many clients write UTF-8 where HTTP says Latin-1."""
    value = request.headers.get(name)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def protocol_version(request: HttpRequest) -> int:
    """The major version of the client; the newest if it does not say (99: newer than any).

    Raises: PubSubError 40017, if it is invalid.
    """
    text = request.query.get("v") or request.headers.get("x-ably-version")
    if not text:
        return 99
    major, _, minor = text.partition(".")
    for part in (major, minor or "0"):
        if not (part.isascii() and part.isdigit() and len(part) <= 6):
            raise bad_request(f"X-Ably-Version: {text[:32]!r} is not a version such as 2 or 1.2", code=40017)
    return int(major)


def asserted_client_id(request: HttpRequest) -> str | None:
    """The clientId that the client asserts: X-Ably-ClientId (base64), else ``clientId`` in the query of a POST.

    In that of a GET it says of whom something is wanted, such as whose presence.

    Raises: PubSubError 40012, if the header is not base64 of UTF-8.
    """
    value = request.headers.get("x-ably-clientid")
    if value is None:
        return request.query.get("clientId") if request.method == "POST" else None
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise bad_request("X-Ably-ClientId: must be base64 of a UTF-8 text", code=40012) from error


def credentials(request: HttpRequest) -> str | None:
    """The Authorization header, or the equivalent of ``key`` or a token in the query."""
    authorization = request.headers.get("authorization") or None
    key = request.query.get("key")
    token = request.query.get("access_token") or request.query.get("accessToken")
    if authorization is None and key is not None:
        return "Basic " + base64.b64encode(key.encode()).decode()
    if authorization is None and token:
        return f"Bearer {token}"
    return authorization


def check_plain(request: HttpRequest) -> None:
    """Raises: PubSubError 40001 with 415, if the body is compressed, because the server does not decompress it."""
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise bad_request(f"Content-Encoding: {coding[:64]!r} is not supported", code=40001, status=415)


def decode_body(request: HttpRequest, most: int = INPUT_VALUES) -> object:
    """The body as plain values, by its Content-Type. Binary is bytes, and so is a msgpack text that is not UTF-8.

    Raises: PubSubError 40001, if it cannot be decoded; 40009, if it has more than ``most`` values in it.
    """
    check_plain(request)
    declared = request.headers.get("content-type")
    kind = media_type(declared) if declared else ""
    wire = MEDIA_TYPES.get(kind, format_parameter(request) if not kind else None)
    try:
        if wire is not None:
            return decode_value(request.body, wire, most)
        if kind == FORM:
            fields = parse_fields(request.body)
            if next(iter(fields), "").lstrip()[:1] in ("{", "["):  # curl -d does this; its contents would be ignored
                raise ValueError("it is JSON; send it with Content-Type: application/json")
            return fields
    except OverflowError as error:
        raise bad_request(f"body: {error}", code=40009) from error
    except ValueError as error:
        name = "form" if wire is None else ("JSON", "msgpack")[wire]
        raise bad_request(f"body: not valid {name}: {str(error)[:200]}", code=40001) from error
    raise bad_request(f"Content-Type: {kind[:64]!r} is not supported", code=40001)
