"""Finds the handler of a request in a table of methods and paths with variables.

    /channels/{channelId}/messages    GET  -> handler      two segments are fixed, one is a variable
                                      POST -> handler
    /channels/a%2Fb/messages          its variable is "a/b": paths are cut at slashes before they are decoded

An unknown path gets 404. A method that a path does not support gets 405 with ``Allow``. The exception is GET on a path
without it, which gets 404, because libraries and their tests expect that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine import absent
from engine.errors import PubSubError
from server.http.foreign import of_another, protocol_of
from server.http.reply import Reply, not_allowed
from server.http.request import HttpRequest, path_segments

Variables = list[str]
Handle = Callable[[HttpRequest, Variables], Awaitable[Reply]]

SHOWN = 200  # characters of a path in an error
ONLY_DEV = "is available only with --dev, for tests and development"


class Routes:
    """The table; ``paths`` are its entries, in the order in which they were added."""

    def __init__(self) -> None:
        self.paths: dict[str, dict[str, Handle]] = {}
        self._by_shape: dict[tuple[int, str], list[tuple[tuple[str | None, ...], dict[str, Handle]]]] = {}
        self._with_dev: set[tuple[str, int, str]] = set()  # method, number of segments, the first one

    def add(self, method: str, path: str, handle: Handle) -> None:
        """``path`` begins with a fixed segment; one in braces is a variable."""
        methods = self.paths.get(path)
        if methods is None:
            methods = self.paths[path] = {}
            pattern = tuple(None if part.startswith("{") else part for part in path.split("/")[1:])
            assert pattern[0] is not None
            self._by_shape.setdefault((len(pattern), pattern[0]), []).append((pattern, methods))
        methods[method] = handle

    def add_dev(self, method: str, path: str) -> None:
        """A route that exists only with ``--dev``: without it, the refusal says so."""
        segments = path.split("/")[1:]
        self._with_dev.add((method, len(segments), segments[0]))

    def find(self, request: HttpRequest) -> tuple[Handle, Variables]:
        """The handler, and the path's variables, decoded.

        Raises: PubSubError: 40400; 40500, with the header Allow; 40000 for a path that is not UTF-8.
        """
        segments = path_segments(request.path)
        method = "GET" if request.method == "HEAD" else request.method  # whose body is left out further down
        with_dev = (method, len(segments), "".join(segments[:1])) in self._with_dev
        for pattern, methods in self._by_shape.get((len(segments), "".join(segments[:1])), ()):
            if all(wanted is None or wanted == segment for wanted, segment in zip(pattern, segments, strict=True)):
                handle = methods.get(method)
                if handle is None:
                    raise _not_allowed(request, method, methods, ONLY_DEV if with_dev else "")
                return handle, [segment for wanted, segment in zip(pattern, segments, strict=True) if wanted is None]
        shown = f"{request.method} {request.path[:SHOWN]}"
        feature = absent.of_path(segments)
        if feature is not None:
            raise absent.refusal(shown, feature, code=40400)
        if with_dev:
            raise PubSubError(f"{shown} {ONLY_DEV}", code=40400)
        protocol = protocol_of(segments)
        if protocol is not None:
            raise PubSubError(f"{shown} {of_another(protocol)}", code=40400)
        raise PubSubError(f"unknown route: {shown}", code=40400)


def _not_allowed(request: HttpRequest, method: str, methods: dict[str, Handle], why: str) -> PubSubError:
    shown = f"{request.method} {request.path[:SHOWN]}"
    names = sorted(methods)
    if method == "GET":
        told = f"{request.path[:SHOWN]} does not support GET; use {' or '.join(names)}"
        return PubSubError(told, code=40400)
    allow = [*names, "HEAD"] if "GET" in methods else names
    why = why or f"is not allowed; use {', '.join(allow)}"
    return not_allowed(f"{shown} {why}", ", ".join([*allow, "OPTIONS"]))
