"""Serves POST /channels/{channelId}/messages on plain connections in the plane's turn, without a task.

    Posts.poll --what it could not decide alone--> _begin --check, stage--> Posts.flush: the answer, once it is stored
                                                     |         +--refused--> the answer with the reason
                                                     |         +--permit: the next one like it needs no Python
                                                     +-- unusual --> on_leaving: a task, and the library for HTTP

It calls the rules of server/rest/api.py and server/rest/publishing.py. Permits record what these have accepted before,
and become void as soon as a key, a quota or a revocation changes."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from engine import limits
from engine.allowance import Allowances
from engine.auth.keys import Keyring
from engine.auth.revocation import Revocations, TokenRevoked
from engine.auth.tokens import Identity
from engine.errors import PubSubError
from engine.hub import Hub
from ext.log.terms import Terms
from ext.net.caller import Caller
from ext.net.permit import Permit, Place
from ext.net.plane import Plane
from ext.net.posts import Posts
from server.http.bodies import Bodies
from server.http.keyguard import KeyGuard, is_loopback, peer_of
from server.http.refusals import Refusals
from server.http.reply import Reply, refusal, respond, response_format
from server.http.request import (
    MEDIA_TYPES,
    HttpRequest,
    Response,
    media_type,
    parse_target,
    path_segments,
    protocol_version,
)
from server.http.serving import HttpLimits, date_now, too_slow, whole_response
from server.node.counting import Counting
from server.node.now import Now
from server.realtime.wire import MSGPACK
from server.rest.api import APART_BYTES, Rest
from server.rest.backend import NodeBackend

LOGGER = logging.getLogger("unbroken.posting")

START = b"POST /channels/"
REFUSALS_A_TURN = 32  # of half requests: about 3 ms; they hold nothing while they wait
STAY_SECONDS = 0.002  # for requests that need Python, each up to a few ms; others wait for the next turn
RENEW_MS = 60_000  # permits refer to channels, and would keep those in memory that have fallen asleep meanwhile
FOREVER_MS = (1 << 63) - 1
COUNTED_AS = "apiRequests.other.succeeded"


class PostDesk:
    """Serves such connections; the node calls it in its turns."""

    def __init__(
        self,
        rest: Rest,
        backend: NodeBackend,
        keyring: Keyring,
        http: HttpLimits,
        on_leaving: Callable[[int, bytes, float], None],
        *,
        hub: Hub,
        plane: Plane,
        now: Now,
        bodies: Bodies,
        allowances: Allowances,
        revocations: Revocations,
        keyguard: KeyGuard,
        refusals: Refusals,
        counting: Counting,
    ) -> None:
        """
        Args:
            on_leaving: takes over a descriptor with its received bytes, the first request being so many seconds old.
        """
        self.posts = Posts(
            max_connections=limits.POST_CONNECTIONS,
            head_bytes=http.head_bytes,
            body_bytes=min(http.body_bytes, APART_BYTES),
            idle_ms=int(http.idle_seconds * 1000),
            patience_ms=int(http.request_seconds * 1000),
            response_ms=int(http.response_seconds * 1000),
            room=bodies.room,
            answers_late=True,
        )
        self._seconds = http.request_seconds
        self._hub = hub
        self._plane = plane
        self._now = now
        self._bodies = bodies
        self._allowances = allowances
        self._revocations = revocations
        self._keyguard = keyguard
        self._refusals = refusals
        self._counting = counting
        self._rest = rest
        self._backend = backend
        self._keyring = keyring
        self._on_leaving = on_leaving
        self._draining = False
        self._renewed_ms = now.steady_ms()
        self._asked: deque[tuple[Caller, bytes, str, dict[str, str], bytes]] = deque()
        self._versions = self._now_versions()
        plane.listen_to(self.posts.fd)

    def limit(self, http: HttpLimits) -> None:
        """Apply these limits from now on; earlier permits are void with the version of the allowances."""
        self.posts.limit(head_bytes=http.head_bytes, body_bytes=min(http.body_bytes, APART_BYTES))

    def __len__(self) -> int:
        return len(self.posts)

    def take(self, descriptor: int, received: bytes) -> bool:
        """Serve this connection, if it seems to be of the kind; otherwise the caller keeps it."""
        if not received.startswith(START):
            return False
        peer = peer_of(descriptor)
        trusted = self._keyguard.anywhere or is_loopback(peer)
        if not self.posts.take(descriptor, received, peer, trusted, self._now.steady_ms()):
            return False
        self._plane.kick()
        return True

    def turn(self) -> None:
        """Read input, and stage publishes."""
        versions = self._now_versions()
        if versions != self._versions:
            self._versions = versions
            self.posts.permits.revoke_all()
        wall_ms = self._hub.common.now_ms
        self._asked.extend(self.posts.poll(self._now.turn_ms(), wall_ms))
        leave = time.perf_counter() + STAY_SECONDS
        while self._asked:  # they wait for nothing but this, and each by itself
            caller, key, target, headers, body = self._asked.popleft()
            self._answer(caller, key, HttpRequest("POST", target, {}, headers, body, False, caller.peer))
            if time.perf_counter() >= leave:
                break
        if self._asked:
            self._plane.kick()
        for caller, begun, late in self.posts.take_turned_away(REFUSALS_A_TURN):
            error = too_slow(self._seconds) if late else self._bodies.full()
            refused = respond(_request_of(begun, caller.peer), refusal(error))
            self.posts.refuse(caller, whole_response(refused, last=True))
        self._see_off()

    @property
    def due(self) -> bool:
        return self.posts.due

    def flush(self) -> bool:
        """Send the answers that are ready; True: there is input for the next turn."""
        for app_id, times in self.posts.flush(_date):
            self._counting.count(app_id, COUNTED_AS, times)
        return self.posts.waiting

    def tick(self) -> None:
        """Once a second: handle requests that take too long."""
        now_ms = self._now.steady_ms()
        if now_ms - self._renewed_ms >= RENEW_MS:
            self._renewed_ms = now_ms
            self.posts.permits.revoke_all()
        self.posts.tick(now_ms)
        self._see_off()

    def statistics(self) -> dict[str, int]:
        """The number of connections, and of requests served without Python and with it."""
        posts = self.posts
        return {"publishers": len(posts), "plainPublishes": posts.served, "askedPublishes": posts.asked}

    def drain(self) -> None:
        """Accept no further connections, close idle ones, and end the others with their answers."""
        self._draining = True
        self.posts.drain()
        self._see_off()

    def _now_versions(self) -> tuple[int, int, int]:
        return self._keyring.version, self._revocations.version, self._allowances.version

    def _see_off(self) -> None:
        for descriptor, received, waited_ms in self.posts.take_leaving():
            self._on_leaving(descriptor, received, waited_ms / 1000)
        while self.posts.failures:
            LOGGER.error("a connection failed", exc_info=self.posts.failures.pop())

    def _answer(self, caller: Caller, key: bytes, request: HttpRequest) -> None:
        if media_type(request.headers.get("content-type", "")) not in MEDIA_TYPES:
            self.posts.hand_over(caller)
            return
        try:
            refused = self._begin(caller, key, request)
            if refused is not None:
                self._refusals.note_request(request)
                caller.reply(self._whole(refused))
        except TokenRevoked:  # it may have to wait for its answer
            self.posts.hand_over(caller)
        except Exception:
            LOGGER.exception("POST %s from %s failed", request.path, request.peer)
            internal = PubSubError("internal error", code=50000, status=500)
            caller.reply(self._whole(respond(request, refusal(internal))))

    def _begin(self, caller: Caller, key: bytes, request: HttpRequest) -> Response | None:
        """Stage it, and tell the caller later; or return the answer. Raises: TokenRevoked, with nothing done."""
        try:
            self._keyguard.check({}, request.headers.get("authorization"), lambda: caller.peer)
        except PubSubError as error:
            return respond(request, refusal(error))
        try:
            protocol_version(request)
            _, channel, _ = path_segments(request.path)
            identity = self._rest.authenticate(request)
            ready = self._rest.checked_publish(request, identity, channel)
            permit = self._permit(key, request, identity, ready.terms)
            log = self._backend.stage(identity, ready, caller)
        except TokenRevoked:
            raise
        except PubSubError as error:
            return self._rest.finish(request, refusal(error))
        place = Place(log, ready.channel.full, msgpack=response_format(request) == MSGPACK)
        permit.grant(request.path, place)
        caller.expect(permit, place, ready.message_id, ready.named)
        return None

    def _permit(self, key: bytes, request: HttpRequest, identity: Identity, terms: Terms) -> Permit:
        """The data for requests with this key, shared by all of them."""
        now_ms = self._now.wall_ms()
        permit = self.posts.permits.find(key)
        if permit is not None and now_ms < permit.good_until_ms:
            return permit
        accepted = respond(request, Reply(201, {}))
        template = HttpRequest("POST", request.path, {}, request.headers, b"", False, request.peer, request.asker)
        permit = Permit(
            self._hub.common,
            identity.author(),
            terms,
            identity.app_id,
            _head(accepted),
            lambda error: self._refused(template, error),
            msgpack_in=MEDIA_TYPES[media_type(request.headers["content-type"])] == MSGPACK,
            msgpack_out=response_format(request) == MSGPACK,
            good_until_ms=good_until(identity, self._revocations),
        )
        self.posts.permits.grant(key, permit)
        return permit

    def _refused(self, request: HttpRequest, error: object) -> bytes:
        """The whole answer to a publish that could not be stored."""
        assert isinstance(error, PubSubError)
        return self._whole(self._rest.finish(request, refusal(error)))

    def _whole(self, response: Response) -> bytes:
        return whole_response(response, last=self._draining)


def good_until(identity: Identity, revocations: Revocations) -> int:
    """The first time, in ms, at which its credentials are no longer valid, as far as is known now."""
    ends = (identity.expires_ms, revocations.applies_at(identity))
    return min((end for end in ends if end is not None), default=FOREVER_MS)


def _request_of(begun: bytes, peer: str) -> HttpRequest:
    """The request, as far as its beginning shows it: enough to answer it in the requested form."""
    line, *fields = begun.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    named = (field.partition(":") for field in fields)
    headers = {name.lower(): value.strip() for name, colon, value in named if colon}
    try:
        path, query = parse_target(line.split(" ")[1])
    except (IndexError, ValueError):  # it is refused in any case
        path, query = "", {}
    return HttpRequest("POST", path, query, headers, b"", False, peer)


def _date() -> bytes:
    return date_now().encode()


def _head(response: Response) -> bytes:
    """The head of a response like this one, up to the number of bytes in it."""
    whole = whole_response(response, last=False)
    mark = b"\r\nContent-Length: "
    return whole[: whole.index(mark) + len(mark)]
