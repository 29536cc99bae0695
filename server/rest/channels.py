"""Status of a channel, and enumeration of the channels in use.

    channel.modes (flags -> attachments)  --metrics-->  {"connections": 2, "subscribers": 2, "publishers": 1, ...}
    hub.names  --of an app, in order, after the cursor-->  a page

The channels in memory are in use: somebody is attached, or a message was published within the window. The cursor of a
page is the last name of the page before. So pages neither repeat nor skip a channel that exists throughout, whatever
channels appear and disappear in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from engine.channel import Channel
from server.http.request import bad_request
from server.pace import LoopPace
from server.realtime.actions import Flag
from server.rest.history import CARRIED, Page, link_url, parse_limit

NAMES_SINCE_VERSION = 3  # from then on an enumeration lists names, unless it is asked otherwise
BY = ("id", "value")
STATUSES_A_TURN = 200  # made in one go: some ms

_METRICS = {
    "publishers": Flag.PUBLISH,
    "subscribers": Flag.SUBSCRIBE,
    "presenceConnections": Flag.PRESENCE,
    "presenceSubscribers": Flag.PRESENCE_SUBSCRIBE,
    "objectPublishers": Flag.OBJECT_PUBLISH,
    "objectSubscribers": Flag.OBJECT_SUBSCRIBE,
}


def metrics(channel: Channel | None) -> dict[str, int]:
    """The number of attachments, in total and by mode. Nobody can be present yet."""
    modes = (channel.modes if channel is not None else None) or {}
    counts = {name: sum(many for flags, many in modes.items() if flags & flag) for name, flag in _METRICS.items()}
    return {"connections": sum(modes.values()), "presenceMembers": 0, **counts}


def status(name: str, channel: Channel | None) -> dict[str, object]:
    """ChannelDetails of the protocol; ``channel`` None: it is not in use."""
    return {
        "channelId": name,
        "name": name,
        "status": {"isActive": channel is not None, "occupancy": {"metrics": metrics(channel)}},
    }


@dataclass(frozen=True, slots=True)
class Enumeration:
    """The checked parameters of a request."""

    prefix: str
    limit: int
    by_id: bool
    after: str


def parse_enumeration(params: Mapping[str, str], version: int) -> Enumeration:
    """Raises: PubSubError 40003, naming the parameter."""
    by = params.get("by", "id" if version >= NAMES_SINCE_VERSION else "value")
    if by not in BY:
        raise bad_request(f"by: must be id or value, got {by[:32]!r}", code=40003)
    return Enumeration(params.get("prefix", ""), parse_limit(params), by == "id", params.get("cursor", ""))


async def page_of(
    asked: Enumeration,
    names: list[str],
    find: Callable[[str], Channel | None],
    params: Mapping[str, str],
    pace: LoopPace,
) -> Page:
    """A page, from its names and one more, if there are further ones. Details are made in turns."""
    shown = names[: asked.limit]
    base = {"limit": str(asked.limit), "by": "id" if asked.by_id else "value"}
    if asked.prefix:
        base["prefix"] = asked.prefix
    base |= {name: params[name] for name in CARRIED if name in params}
    links = [("first", base), ("current", base | {"cursor": asked.after} if asked.after else base)]
    if len(names) > asked.limit:
        links.append(("next", base | {"cursor": shown[-1]}))
    items: list[object] = list(shown)
    if not asked.by_id:
        for at, name in enumerate(shown):
            if at % STATUSES_A_TURN == 0:
                await trio.lowlevel.checkpoint()
                await pace.turn(math.inf)
            items[at] = status(name, find(name))
    return Page(items, [(relation, link_url("channels", fields)) for relation, fields in links])
