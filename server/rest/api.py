"""The REST interface: a table of routes, and their handlers.

    HttpRequest -> preflight?           204, for everybody
            -> version, route       40017, 40400
            -> handler              authenticate, check, ask the backend
            -> Reply -> respond     format, envelope, CORS: server/http/reply.py

Handlers keep nothing of a request, and know neither HTTP nor sockets. A publish that is answered with 2xx is stored."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Protocol

import trio

from engine.auth.capability import Operation, not_permitted
from engine.auth.revocation import TokenRevoked
from engine.auth.tokens import Identity
from engine.channel import Channel
from engine.errors import OutcomeUnknown, PubSubError, StartupFailed
from engine.limits import FIXTURE_VALUES, INPUT_VALUES, LARGE_INPUT_BYTES, PAGES_AT_ONCE
from engine.names import ChannelName, parse_channel
from engine.publish_rules import Messages
from engine.statistics import Entries, Interval
from ext.log.terms import Terms
from server.http.reply import (
    Encoded,
    Reply,
    cors_headers,
    join_encoded,
    preflight,
    refusal,
    respond,
    response_format,
)
from server.http.request import (
    HttpRequest,
    Response,
    asserted_client_id,
    bad_request,
    credentials,
    decode_body,
    protocol_version,
)
from server.http.routes import Routes, Variables
from server.node.readers import alone
from server.pace import LoopPace
from server.rest.admin import Health, health_reply
from server.rest.batch import batch_reply, parse_specs, publish_batch
from server.rest.channels import page_of, parse_enumeration, status
from server.rest.history import (
    PART_BYTES,
    History,
    HistorySource,
    MessagePage,
    Shown,
    parse_query,
)
from server.rest.openapi import document
from server.rest.publishing import RestPublish, body_wire, check_request, published, read_plain, read_publish
from server.rest.stats import StatsQuery, parse_fixtures, parse_stats, stats_page
from server.rest.turns import Turns

LOGGER = logging.getLogger("unbroken.rest")

GREETING = b"This is Unbroken, a realtime message server. Its clients are Ably's SDKs.\n"
TOKEN_REQUEST_BYTES = 128 * 1024  # anybody may send one; a capability is by far its largest part
FEW_INTERVALS = 50  # of statistics: to sum them up takes 2 ms; for more of them, a thread
APART_BYTES = 64 * 1024  # larger bodies of publishes do not take the plane's way
NO_CACHE = ("Cache-Control", "no-store")  # of a reply that is stale at once, or secret


class Backend(HistorySource, Protocol):
    """The server's operations for a request. All of them may raise PubSubError."""

    @property
    def dev(self) -> bool:
        """Development mode: anybody can create and delete apps."""

    def authenticate(self, params: Mapping[str, str], authorization: str | None, client_id: str | None) -> Identity:
        """The client's identity: from credentials in header or query, and the clientId (decoded) that it asserts."""

    def request_token(self, key_name: str, body: dict[str, object], authorization: str | None) -> dict[str, object]:
        """The details of a new token."""

    async def revoke_tokens(
        self, key_name: str, body: dict[str, object], params: Mapping[str, str], authorization: str | None
    ) -> dict[str, object]:
        """Revoke tokens of this key; returns the result for each target, once it is stored.

        The client has been authenticated, with it or otherwise."""

    async def until_of_use(self, error: PubSubError) -> None:
        """Wait until a new token of the client would be valid."""

    def terms(self, identity: Identity) -> Terms:
        """What it may publish, by a request."""

    async def publish(self, identity: Identity, ready: RestPublish) -> list[str]:
        """Store it, and return the serials of its messages. If cancelled, it may be stored all the same."""

    def admit_reader(self, identity: Identity) -> None:
        """Raises: LimitExceeded 42910, if its key or app has used up its rate for now."""

    def charge_reader(self, identity: Identity, count: int, size: int) -> None:
        """The client receives so many messages, and bytes of them."""

    def behalf(self, key_text: str, app_id: str) -> tuple[str, str | None]:
        """connectionId and concrete clientId of the live connection with this key. Raises: PubSubError 40006."""

    def channel(self, app_id: str, name: str) -> Channel | None:
        """The channel, if it is in use."""

    def channel_names(self, app_id: str, prefix: str, after: str, most: int) -> list[str]:
        """Channels in use, in the order of their names: at most ``limit``, all with the prefix and after that name."""

    def app_of(self, key_name: str) -> str | None:
        """The app of an existing key: for others nothing is counted."""

    def count_request(self, app_id: str, counted_as: str) -> None:
        """Count a request in the statistics of an app."""

    async def statistics(self, app_id: str, query: StatsQuery) -> list[Interval]:
        """The intervals of a page, and one more if there are further ones."""

    async def put_statistics(self, app_id: str, minutes: list[tuple[int, Entries]]) -> None:
        """Add these to the app's statistics, in development mode."""

    def health(self) -> Health: ...
    def create_app(self, spec: dict[str, object]) -> dict[str, object]: ...
    async def delete_app(self, app_id: str) -> None: ...


class Rest:
    """Callable as a Handler: one request in, one response out."""

    def __init__(self, backend: Backend, pace: LoopPace | None = None) -> None:
        """``pace``: decides in which passes of the loop large bodies are read, and long answers made."""
        self._backend = backend
        self._pace = pace or LoopPace(lambda: None)
        self._pages = Turns(PAGES_AT_ONCE)
        self._sums = Turns(1)
        self.routes = Routes()
        for method, path, handle in (
            ("GET", "/time", self._time),
            ("GET", "/health", self._health),
            ("GET", "/openapi.json", self._openapi),
            ("POST", "/channels/{channelId}/messages", self._publish),
            ("GET", "/channels/{channelId}/messages", partial(self._history, "messages")),
            ("GET", "/channels/{channelId}/history", partial(self._history, "history")),
            ("GET", "/channels/{channelId}", self._status),
            ("GET", "/channels", self._enumerate),
            ("GET", "/stats", self._stats),
            ("POST", "/messages", self._publish_batch),
            ("POST", "/keys/{keyName}/requestToken", self._request_token),
            ("POST", "/keys/{keyName}/revokeTokens", self._revoke_tokens),
        ):
            self.routes.add(method, path, handle)
        for method, path, handle in (
            ("POST", "/apps", self._create_app),
            ("DELETE", "/apps/{appId}", self._delete_app),
            ("POST", "/stats", self._put_stats),
        ):
            if backend.dev:
                self.routes.add(method, path, handle)
            else:
                self.routes.add_dev(method, path)

    async def __call__(self, request: HttpRequest) -> Response:
        if request.method == "OPTIONS":
            return preflight(request)
        try:
            if request.path == "/" and request.method in ("GET", "HEAD"):
                return self._greeting(request)
            protocol_version(request)
            handle, variables = self.routes.find(request)
            reply = await handle(request, variables)
        except StartupFailed as error:  # one of the server's files cannot be used, and its path is confidential
            LOGGER.error("%s %s failed: %s", request.method, request.path, error)
            reply = refusal(PubSubError("internal error; see the server's log", code=50000, status=500))
        except PubSubError as error:
            if isinstance(error, TokenRevoked):
                await self._backend.until_of_use(error)
            reply = refusal(error)
        return self.finish(request, reply)

    def finish(self, request: HttpRequest, reply: Reply) -> Response:
        """Count the request, and write its answer in the requested form."""
        if request.asker.app_id is not None:
            self._backend.count_request(request.asker.app_id, _counted_as(request, reply.status))
        return respond(request, reply)

    def _greeting(self, request: HttpRequest) -> Response:
        cors = cors_headers(request.headers.get("origin"))
        return Response(200, [("Content-Type", "text/plain"), *cors], GREETING)

    def authenticate(self, request: HttpRequest) -> Identity:
        """Who asks. Raises: PubSubError 40101 and its like."""
        authorization = request.headers.get("authorization")
        identity = self._backend.authenticate(request.query, authorization, asserted_client_id(request))
        request.asker.app_id = identity.app_id
        return identity

    def _permitted(self, request: HttpRequest, text: str, operation: int, named: str) -> tuple[Identity, ChannelName]:
        """The client's identity and the channel. Raises: PubSubError 40101 and the like, 40010, 40160."""
        identity = self.authenticate(request)
        channel = parse_channel(text)
        _permit(identity, channel, operation, named)
        return identity, channel

    def _behalf(self, app_id: str, key: str) -> tuple[str, str | None]:
        return self._backend.behalf(key, app_id)

    async def _map(self, request: HttpRequest) -> dict[str, object]:
        """The body as a map; an empty body is an empty map."""
        body = await self._decoded(request) if request.body else {}
        if not isinstance(body, dict):
            raise bad_request(f"body: must be a map, got {type(body).__name__}")
        return body

    async def _time(self, request: HttpRequest, variables: Variables) -> Reply:
        return Reply(200, [self._backend.now_ms()], [NO_CACHE])

    async def _health(self, request: HttpRequest, variables: Variables) -> Reply:
        return health_reply(self._backend.health())

    async def _openapi(self, request: HttpRequest, variables: Variables) -> Reply:
        return Reply(200, document(dev=self._backend.dev))

    async def _publish(self, request: HttpRequest, variables: Variables) -> Reply:
        identity = self.authenticate(request)
        terms = self._backend.terms(identity)
        messages = await self._read_in_turn(request, terms.max_messages)
        ready = self._checked(request, identity, terms, messages, variables[0])
        return Reply(201, await self._store(identity, ready))

    def checked_publish(self, request: HttpRequest, identity: Identity, channel: str) -> RestPublish:
        """What this identity asks to publish, ready to be stored. Raises: PubSubError, as a handler."""
        terms = self._backend.terms(identity)
        messages = read_plain(request, terms.max_messages) or read_publish(request, terms.max_messages)
        return self._checked(request, identity, terms, messages, channel)

    async def _read_in_turn(self, request: HttpRequest, max_messages: int) -> Messages:
        """The messages of a request, where that may take long: in its turn, and in three steps."""
        await self._turn(request)
        messages = read_plain(request, max_messages)
        if messages is None:
            await self._turn(request)
            messages = read_publish(request, max_messages)
            await self._turn(request)
            messages.make()
        return messages

    async def _turn(self, request: HttpRequest) -> None:
        """Await this before each step of work on a large body, up to a few ms, so that others run in between."""
        if len(request.body) >= LARGE_INPUT_BYTES:
            await self._pace.turn(math.inf)

    async def _decoded(self, request: HttpRequest, most: int = INPUT_VALUES) -> object:
        """The body as values, in its turn. Raises: PubSubError 40001, 40009."""
        await self._turn(request)
        return decode_body(request, most)

    def _checked(
        self, request: HttpRequest, identity: Identity, terms: Terms, messages: Messages, channel: str
    ) -> RestPublish:
        return check_request(request, messages, channel, identity, terms, partial(self._behalf, identity.app_id))

    async def _store(self, identity: Identity, ready: RestPublish) -> dict[str, object]:
        try:
            serials = await self._backend.publish(identity, ready)
        except OutcomeUnknown as unknown:
            raise unknown.about(ready.first_id) from None
        return published(ready.channel.full, ready.message_id, serials)

    async def _publish_batch(self, request: HttpRequest, variables: Variables) -> Reply:
        identity = self.authenticate(request)
        specs, several = parse_specs(await self._decoded(request))
        wire = body_wire(request)

        terms = self._backend.terms(identity)

        async def publish(channel: str, messages: Messages) -> dict[str, object]:
            return await self._store(identity, self._checked(request, identity, terms, messages, channel))

        results = await publish_batch(
            [(channels, Messages(wire, values, request.query, terms.max_messages)) for channels, values in specs],
            publish,
        )
        return batch_reply(results, several=several, version=protocol_version(request))

    async def _history(self, resource: str, request: HttpRequest, variables: Variables) -> Reply:
        identity, channel = self._permitted(request, variables[0], Operation.HISTORY, "history")
        history = History(self._backend, identity.app_id, channel.name, response_format(request))
        query = parse_query(request.query)
        # Else a crowd would hold what it has read of all its pages while it waits to read on.
        async with self._pages.of(_asker(request, identity), request.has_left):
            self._backend.admit_reader(identity)
            page = await history.page(query, request.query, resource)
            body = await _made(page, self._pace)
        self._backend.charge_reader(identity, page.count, page.size)
        return Reply(200, body, [NO_CACHE], page.links)

    async def _long(self, reply: Reply) -> Reply:
        """Encoding it takes a few ms in one go."""
        await self._pace.turn(math.inf)
        return reply

    async def _status(self, request: HttpRequest, variables: Variables) -> Reply:
        identity, channel = self._permitted(request, variables[0], Operation.CHANNEL_METADATA, "channel-metadata")
        return Reply(200, status(channel.name, self._backend.channel(identity.app_id, channel.name)), [NO_CACHE])

    async def _enumerate(self, request: HttpRequest, variables: Variables) -> Reply:
        identity = self.authenticate(request)
        if not identity.capability.everywhere() & Operation.CHANNEL_METADATA:
            raise not_permitted("channel-metadata", "all channels")
        asked = parse_enumeration(request.query, protocol_version(request))
        find = partial(self._backend.channel, identity.app_id)
        names = self._backend.channel_names(identity.app_id, asked.prefix, asked.after, asked.limit + 1)
        page = await page_of(asked, names, find, request.query, self._pace)
        return await self._long(Reply(200, page.items, [NO_CACHE], page.links))

    async def _stats(self, request: HttpRequest, variables: Variables) -> Reply:
        identity = self.authenticate(request)
        if not identity.capability.everywhere() & Operation.STATS:
            raise not_permitted("stats", "all channels")
        now_ms, version = self._backend.now_ms(), protocol_version(request)
        query = parse_stats(request.query, now_ms)
        async with self._sums.of(_asker(request, identity), request.has_left):
            intervals = await self._backend.statistics(identity.app_id, query)
            make = partial(stats_page, query, intervals, identity.app_id, now_ms, version, request.query)
            page = make() if len(intervals) <= FEW_INTERVALS else await trio.to_thread.run_sync(alone, make)
        return await self._long(Reply(200, page.items, [NO_CACHE], page.links))

    async def _put_stats(self, request: HttpRequest, variables: Variables) -> Reply:
        identity = self.authenticate(request)
        fixtures = parse_fixtures(await self._decoded(request, FIXTURE_VALUES))
        await self._backend.put_statistics(identity.app_id, fixtures)
        return Reply(201, {})

    async def _request_token(self, request: HttpRequest, variables: Variables) -> Reply:
        if len(request.body) > TOKEN_REQUEST_BYTES:
            raise bad_request(f"body: larger than {TOKEN_REQUEST_BYTES} bytes", code=40009, status=413)
        body = await self._map(request)
        request.asker.app_id = self._backend.app_of(variables[0])
        return Reply(200, self._backend.request_token(variables[0], body, credentials(request)), [NO_CACHE])

    async def _revoke_tokens(self, request: HttpRequest, variables: Variables) -> Reply:
        self.authenticate(request)  # first: without credentials no body is decoded
        body = await self._map(request)
        authorization = request.headers.get("authorization")
        request.asker.app_id = self._backend.app_of(variables[0])
        answer = await self._backend.revoke_tokens(variables[0], body, request.query, authorization)
        return Reply(201, answer, [NO_CACHE])

    async def _create_app(self, request: HttpRequest, variables: Variables) -> Reply:
        return Reply(201, self._backend.create_app(await self._map(request)))

    async def _delete_app(self, request: HttpRequest, variables: Variables) -> Reply:
        authorization = credentials(request) or ""
        if not authorization.lower().startswith("basic "):
            raise PubSubError(
                "deleting an app requires one of its keys, by Basic authentication", code=40162, status=401
            )
        identity = self._backend.authenticate({}, authorization, None)  # with this, and not with a token beside it
        if identity.app_id != variables[0]:
            raise PubSubError("the key belongs to another app", code=40101, status=401)
        await self._backend.delete_app(identity.app_id)
        return Reply(204, None)


def _counted_as(request: HttpRequest, status: int) -> str:
    """The statistics entry for a request with this answer; refused means that better credentials, or a slower rate,
    would have succeeded."""
    token = request.path.startswith("/keys/") and request.path.endswith("/requestToken")
    kind = "tokenRequests" if token else "other"
    outcome = "succeeded" if status < 400 else "refused" if status in (401, 403, 429) else "failed"
    return f"apiRequests.{kind}.{outcome}"


def _permit(identity: Identity, channel: ChannelName, operation: int, named: str) -> None:
    if not identity.capability.permits(channel.name, operation):
        raise not_permitted(named, repr(channel.name))


def _asker(request: HttpRequest, identity: Identity) -> tuple[str, str]:
    """The client whose turn a request takes: connections have one request each, so the client behind them counts."""
    return identity.key_name, request.peer


async def _made(page: MessagePage, pace: LoopPace) -> Encoded:
    """The page's messages, encoded a part at a time, in turns; in a thread if a single entry may take long."""
    made: list[bytes] = []
    for n, part in enumerate(page.parts()):

        def make(part: list[Shown] = part) -> list[bytes]:
            return [each for entry in part for each in page.made(*entry)]

        if sum(len(stored.record) for stored, _ in part) > PART_BYTES:
            made += await trio.to_thread.run_sync(alone, make)
            continue
        if n:
            await trio.lowlevel.checkpoint()
            await pace.turn(math.inf)
        made += make()
    return join_encoded(made, page.wire)
