"""The REST interface: a table of routes, and what each of them does.

    Request -> preflight?           204, whoever asks
            -> version, route       40017, 40400
            -> handler              authenticate, check, ask the backend
            -> Reply -> respond     format, envelope, CORS: server/reply.py

Handlers hold no state, and know neither HTTP nor sockets. What is acknowledged here with 2xx is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import trio

from engine.auth.capability import Operation
from engine.auth.tokens import Identity
from engine.errors import PubSubError
from engine.names import ChannelName, parse_channel
from ext.publish import Publish
from server.admin import Health, health_reply
from server.history import Archive, History, parse_query
from server.publishing import Bounds, check_publish, read_messages
from server.reply import Reply, preflight, refusal, respond, response_format
from server.request import (
    Request,
    Response,
    asserted_client_id,
    bad_request,
    credentials,
    decode_body,
    path_segments,
    protocol_version,
)

GREETING = b"This is Unbroken, a realtime message server. Its clients are Ably's SDKs.\n"
LATER = {"push", "stats", "presence", "sse", "event-stream", "comet"}  # first segments that clients may try
TOKEN_REQUEST_BYTES = 128 * 1024  # anybody may send one; a capability is by far its largest part
APART_BYTES = 64 * 1024  # larger bodies are decoded in a thread: they can be a million tiny values
NO_CACHE = ("Cache-Control", "no-store")  # of a reply that is stale at once, or secret


class Backend(Archive, Protocol):
    """What the server can do for a request. Everything may raise PubSubError."""

    @property
    def dev(self) -> bool:
        """Development mode: apps can be made and deleted by anybody."""

    def authenticate(self, params: Mapping[str, str], authorization: str | None, client_id: str | None) -> Identity:
        """Who asks: from credentials in header or query, and the clientId (decoded) that it says it is."""

    def request_token(self, key_name: str, body: dict[str, object], authorization: str | None) -> dict[str, object]:
        """The details of a new token."""

    async def revoke_tokens(
        self, key_name: str, body: dict[str, object], params: Mapping[str, str], authorization: str | None
    ) -> dict[str, object]:
        """Take back tokens of this key; the result for each target, once it is stored."""

    async def publish(
        self,
        identity: Identity,
        channel: ChannelName,
        publish: Publish,
        *,
        base_id: str,
        connection_id: str | None,
        client_id: str | None,
    ) -> list[str]:
        """Store it; the serials of its messages. If cancelled, it may be stored all the same."""

    def behalf(self, key_text: str, app_id: str) -> tuple[str, str | None]:
        """connectionId and concrete clientId of the live connection with this key. Raises: PubSubError 40006."""

    def health(self) -> Health: ...
    def create_app(self, spec: dict[str, object]) -> dict[str, object]: ...
    async def delete_app(self, app_id: str) -> None: ...


Result = TypeVar("Result")
Variables = list[str]
Handle = Callable[[Request, Variables], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """``pattern`` has None where the path has a variable."""

    method: str
    pattern: tuple[str | None, ...]
    handle: Handle

    def match(self, method: str, segments: list[str]) -> Variables | None:
        if method != self.method or len(segments) != len(self.pattern):
            return None
        pairs = list(zip(self.pattern, segments, strict=True))
        if any(wanted is not None and wanted != segment for wanted, segment in pairs):
            return None
        return [segment for wanted, segment in pairs if wanted is None]


class Rest:
    """Callable as a Handler: one request in, one response out."""

    def __init__(self, backend: Backend, bounds: Bounds) -> None:
        self._backend = backend
        self._bounds = bounds
        self._routes = [
            Route("GET", ("time",), self._time),
            Route("GET", ("health",), self._health),
            Route("POST", ("channels", None, "messages"), self._publish),
            Route("GET", ("channels", None, "messages"), partial(self._history, "messages")),
            Route("GET", ("channels", None, "history"), partial(self._history, "history")),
            Route("POST", ("keys", None, "requestToken"), self._request_token),
            Route("POST", ("keys", None, "revokeTokens"), self._revoke_tokens),
        ]
        if backend.dev:
            self._routes += [
                Route("POST", ("apps",), self._create_app),
                Route("DELETE", ("apps", None), self._delete_app),
            ]

    async def __call__(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return preflight(request)
        try:
            if request.path == "/" and request.method in ("GET", "HEAD"):
                return self._greeting(request)
            protocol_version(request)
            handle, variables = self._find(request)
            reply = await handle(request, variables)
        except PubSubError as error:
            reply = refusal(error)
        return respond(request, reply)

    def _find(self, request: Request) -> tuple[Handle, Variables]:
        segments = path_segments(request.path)
        method = "GET" if request.method == "HEAD" else request.method  # whose body is left out further down
        for route in self._routes:
            variables = route.match(method, segments)
            if variables is not None:
                return route.handle, variables
        why = "is not available on this server" if segments[0] in LATER else "is no route of this server"
        raise PubSubError(f"{request.method} {request.path[:200]} {why}", code=40400, status=404)

    def _greeting(self, request: Request) -> Response:
        answer = respond(request, Reply(200, None))  # for its CORS headers
        return Response(200, [("Content-Type", "text/plain"), *answer.headers], GREETING)

    def _authenticate(self, request: Request) -> Identity:
        authorization = request.headers.get("authorization")
        return self._backend.authenticate(request.query, authorization, asserted_client_id(request))

    def _behalf(self, app_id: str, key: str) -> tuple[str, str | None]:
        return self._backend.behalf(key, app_id)

    async def _map(self, request: Request) -> dict[str, object]:
        """The body as a map; nothing is an empty one."""
        body = await _apart(decode_body, request) if request.body else {}
        if not isinstance(body, dict):
            raise bad_request(f"body: must be a map, got {type(body).__name__}")
        return body

    async def _time(self, request: Request, variables: Variables) -> Reply:
        return Reply(200, [self._backend.now_ms()], [NO_CACHE])

    async def _health(self, request: Request, variables: Variables) -> Reply:
        return health_reply(self._backend.health())

    async def _publish(self, request: Request, variables: Variables) -> Reply:
        identity = self._authenticate(request)
        wire, messages = await _apart(read_messages, request)
        behalf = partial(self._behalf, identity.app_id)
        ready = check_publish(request, wire, messages, variables[0], identity, self._bounds, behalf)
        serials = await self._backend.publish(
            identity,
            ready.channel,
            ready.publish,
            base_id=ready.base_id,
            connection_id=ready.connection_id,
            client_id=ready.client_id,
        )
        return Reply(201, {"channel": ready.channel.full, "messageId": ready.message_id, "serials": serials})

    async def _history(self, resource: str, request: Request, variables: Variables) -> Reply:
        identity = self._authenticate(request)
        channel = parse_channel(variables[0])
        if not identity.capability.operations(channel.name) & Operation.HISTORY:
            raise PubSubError(f"the credentials do not permit history on {channel.name!r}", code=40160, status=401)
        history = History(self._backend, identity.app_id, channel.name, response_format(request))
        page = await history.page(parse_query(request.query), request.query, resource)
        return Reply(200, page.messages, [NO_CACHE], page.links)

    async def _request_token(self, request: Request, variables: Variables) -> Reply:
        if len(request.body) > TOKEN_REQUEST_BYTES:
            raise bad_request(f"body: larger than {TOKEN_REQUEST_BYTES} bytes", code=40009, status=413)
        body = await self._map(request)
        return Reply(200, self._backend.request_token(variables[0], body, credentials(request)), [NO_CACHE])

    async def _revoke_tokens(self, request: Request, variables: Variables) -> Reply:
        body = await self._map(request)
        authorization = request.headers.get("authorization")
        answer = await self._backend.revoke_tokens(variables[0], body, request.query, authorization)
        return Reply(201, answer, [NO_CACHE])

    async def _create_app(self, request: Request, variables: Variables) -> Reply:
        return Reply(201, self._backend.create_app(await self._map(request)))

    async def _delete_app(self, request: Request, variables: Variables) -> Reply:
        authorization = credentials(request) or ""
        if not authorization.lower().startswith("basic "):
            raise PubSubError("an app is deleted with one of its keys, by Basic authentication", code=40162, status=401)
        identity = self._backend.authenticate({}, authorization, None)  # with this, and not with a token beside it
        if identity.app_id != variables[0]:
            raise PubSubError("the key is of another app", code=40101, status=401)
        await self._backend.delete_app(identity.app_id)
        return Reply(204, None)


async def _apart(function: Callable[[Request], Result], request: Request) -> Result:
    """The function's result; got in a worker thread when it may take long."""
    if len(request.body) <= APART_BYTES:
        return function(request)
    return await trio.to_thread.run_sync(function, request)
