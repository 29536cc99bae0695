"""Batch publish: one request, many channels.

    {"channels": ["a", "b"], "messages": [...]}    a spec, or an array of them
        -> for each spec, each channel: a publish of its own, checked and stored by itself
        -> {"successCount": 1, "failureCount": 1, "results": [{channel, messageId, serials}, {channel, error}]}

A channel's messages are stored together or not at all. A failure of one channel does not affect another. The channels
of one spec are stored concurrently, so that they share a sync. Specs are processed one after the other, so that the
last one writes last. After every few channels everybody else has a turn: a batch has up to 100,000 messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import trio

from engine.errors import PubSubError
from server.http.reply import Reply, told
from server.http.request import bad_request

MAX_CHANNELS = 100  # of one spec
MAX_MESSAGES = 1000  # of all specs of a request
MAX_PUBLISHES = 1000  # channels of all specs together: each is an entry, whatever its size
CHANNELS_A_TURN = 4  # of up to 1,000 messages: about 0.3 ms each
BATCH_FAILED = 40020
ERRORS_SINCE_VERSION = 3  # from then on failures are results; before, they made the whole request one

Spec = tuple[list[str], list[object]]  # channels, messages
Result = dict[str, Any]
Content = TypeVar("Content")


def parse_specs(body: object) -> tuple[list[Spec], bool]:
    """The specs of a batch publish, and whether there was an array of them.

    Raises: PubSubError 40000, naming the field; 40034, if there are too many messages.
    """
    several = isinstance(body, list)
    given = body if isinstance(body, list) else [body]
    if not given:
        raise bad_request("body: must contain at least one spec, {channels, messages}")
    specs = [_spec(spec, f"body[{at}]" if several else "body") for at, spec in enumerate(given)]
    if sum(len(messages) for _, messages in specs) > MAX_MESSAGES:
        raise bad_request(f"messages: more than {MAX_MESSAGES} in one batch", code=40034)
    if sum(len(channels) for channels, _ in specs) > MAX_PUBLISHES:
        raise bad_request(f"channels: more than {MAX_PUBLISHES} in one batch")
    return specs, several


def _spec(spec: object, field: str) -> Spec:
    if not isinstance(spec, Mapping):
        raise bad_request(f"{field}: must be a map of channels and messages, got {type(spec).__name__}")
    channels = spec.get("channels")
    if isinstance(channels, str):
        channels = [channels]
    if not isinstance(channels, list) or not channels or not all(isinstance(name, str) for name in channels):
        raise bad_request(f"{field}.channels: must be a channel name, or an array of them")
    if len(channels) > MAX_CHANNELS:
        raise bad_request(f"{field}.channels: {len(channels)} are more than {MAX_CHANNELS}")
    messages = spec.get("messages")
    if isinstance(messages, Mapping):
        messages = [messages]
    if not isinstance(messages, list) or not messages:
        raise bad_request(f"{field}.messages: must be a message, or an array of them")
    return channels, messages


async def publish_batch(
    specs: list[tuple[list[str], Content]], publish: Callable[[str, Content], Awaitable[Result]]
) -> list[list[Result]]:
    """Publish every spec on its channels; the results of each, in the order of its channels.

    Args:
        publish: publishes on one channel and returns the result. If it raises PubSubError, that is the result.
    If cancelled, some may be stored.
    """
    return [await _publish_spec(channels, content, publish) for channels, content in specs]


async def _publish_spec(
    channels: list[str], content: Content, publish: Callable[[str, Content], Awaitable[Result]]
) -> list[Result]:
    results: list[Result] = [{} for _ in channels]

    async def one(at: int, channel: str) -> None:
        try:
            results[at] = await publish(channel, content)
        except PubSubError as error:
            results[at] = {"channel": channel, **told(error)}

    if len(set(channels)) < len(channels):  # twice on one channel: in their order
        for at, channel in enumerate(channels):
            await one(at, channel)
        return results
    async with trio.open_nursery() as nursery:
        for at, channel in enumerate(channels):
            nursery.start_soon(one, at, channel)
            if (at + 1) % CHANNELS_A_TURN == 0:  # those that have been started run now
                await trio.lowlevel.checkpoint()
    return results


def counted(results: list[Result]) -> Result:
    failures = len([result for result in results if "error" in result])
    return {"successCount": len(results) - failures, "failureCount": failures, "results": results}


def batch_reply(results: list[list[Result]], *, several: bool, version: int) -> Reply:
    """The results, in the form of this version of the protocol."""
    if version >= ERRORS_SINCE_VERSION:
        told = [counted(of_spec) for of_spec in results]
        return Reply(201, told if several else told[0])
    flat = [{name: value for name, value in result.items() if name != "serials"} for spec in results for result in spec]
    failures = len([result for result in flat if "error" in result])
    if not failures:
        return Reply(201, flat)
    error = bad_request(f"{failures} of {len(flat)} publishes of the batch failed; see batchResponse", BATCH_FAILED)
    headers = [("X-Ably-Errorcode", str(BATCH_FAILED)), ("X-Ably-Errormessage", str(error))]
    return Reply(400, {"error": error.info(), "batchResponse": flat}, headers)
