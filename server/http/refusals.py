"""Summarizes refusals: one line in the log for each key and minute, however many there are.

    request, WebSocket --401, 403, 429--> note --> key that they name --> counts by code --each minute--> a line

The key is the one that the credentials name, proven or not, if a key of that name exists. So no text invented by a
client gets into the log, and there are never more lines than keys (at most ``REFUSED_KEYS``)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping

from engine.errors import PubSubError
from engine.limits import REFUSED_KEYS
from server.http.request import Handler, HttpRequest, Response
from server.logs import facts

LOGGER = logging.getLogger("unbroken.refusals")

STATUSES = (401, 403, 429)
MINUTE_MS = 60_000
NO_KEY, OTHER_KEYS = "no known key", "other keys"


class Refusals:
    """The refusals of one server."""

    def __init__(self, key_named: Callable[[Mapping[str, str], str | None], str | None]) -> None:
        """``key_named``: the name of the existing key in a query or Authorization header."""
        self._key_named = key_named
        self._counts: dict[str, Counter[int]] = {}
        self._since_ms: int | None = None  # the first that is not told yet

    def note(self, params: Mapping[str, str], authorization: str | None, status: int, code: int) -> None:
        """Count a response, if it is a refusal."""
        if status not in STATUSES:
            return
        name = self._key_named(params, authorization) or NO_KEY
        if name not in self._counts and name != NO_KEY and len(self._counts) >= REFUSED_KEYS:
            name = OTHER_KEYS
        self._counts.setdefault(name, Counter())[code] += 1

    def note_error(self, params: Mapping[str, str], authorization: str | None, error: PubSubError) -> None:
        self.note(params, authorization, error.status, error.code)

    def note_request(self, request: HttpRequest) -> None:
        """Count an answered request, if it was refused."""
        if request.asker.refused is not None:
            self.note(request.query, request.headers.get("authorization"), *request.asker.refused)

    def around(self, handler: Handler) -> Handler:
        """The handler, with its refusals counted."""

        async def noted(request: HttpRequest) -> Response:
            response = await handler(request)
            self.note_request(request)
            return response

        return noted

    def tick(self, now_ms: int) -> None:
        """Call this about once a second; ``now_ms``: steady."""
        if not self._counts:
            self._since_ms = None
        elif self._since_ms is None:
            self._since_ms = now_ms
        elif now_ms - self._since_ms >= MINUTE_MS:
            self.tell()

    def tell(self) -> None:
        """Log everything that has not been logged yet; also at the end."""
        counts, self._counts, self._since_ms = self._counts, {}, None
        for name, codes in counts.items():
            shown = ", ".join(f"{code}: {times}" for code, times in sorted(codes.items()))
            by_code = {str(code): times for code, times in codes.items()}
            LOGGER.info(
                "refusals for %s within a minute: %d (%s)",
                name,
                codes.total(),
                shown,
                extra=facts("refusals", key=name, count=codes.total(), codes=by_code),
            )
