"""What the Python client has calls for and the server has not: as asking.mjs, which says more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ably import AblyRealtime, AblyRest
from ably.types.annotation import Annotation
from ably.types.channelmode import ChannelMode
from ably.types.channeloptions import ChannelOptions
from ably.types.message import Message

SERIAL = "001700000000000-00000@none:000"
REACTION = Annotation(type="reaction:distinct.v1", name="x")
PUSH = {"notification": {"title": "t"}}
CHANGED = Message(serial=SERIAL, data="x")


@dataclass(frozen=True)
class Asker:
    realtime: AblyRealtime
    rest: AblyRest
    name: str

    def channel(self, **options: Any) -> Any:
        return self.realtime.channels.get(self.name, ChannelOptions(**options))

    @property
    def stored(self) -> Any:
        return self.rest.channels.get(self.name)

    @property
    def registrations(self) -> Any:
        return self.rest.push.admin.device_registrations

    @property
    def subscriptions(self) -> Any:
        return self.rest.push.admin.channel_subscriptions


Ask = Callable[[Asker], Awaitable[Any]]


def listener(message: object) -> None:
    pass


def pushed() -> Message:
    return Message(name="n", extras={"push": PUSH})


def with_mode(mode: ChannelMode) -> Ask:
    return lambda asker: asker.channel(modes=[mode]).attach()


def with_param(name: str, value: str) -> Ask:
    return lambda asker: asker.channel(params={name: value}).attach()


async def leave(asker: Asker) -> None:
    await asker.channel().attach()
    await asker.channel().presence.leave()


async def leave_client(asker: Asker) -> None:
    await asker.channel().attach()
    await asker.channel().presence.leave_client("me")


DEVICE = {"id": "d", "platform": "browser", "formFactor": "desktop", "push": {"recipient": {"transportType": "fcm"}}}

ASKS: dict[str, Ask] = {
    "presence.enter": lambda asker: asker.channel().presence.enter("x"),
    "presence.update": lambda asker: asker.channel().presence.update("x"),
    "presence.leave": leave,
    "presence.enterClient": lambda asker: asker.channel().presence.enter_client("me"),
    "presence.updateClient": lambda asker: asker.channel().presence.update_client("me"),
    "presence.leaveClient": leave_client,
    "presence.get": lambda asker: asker.channel().presence.get(),
    "presence.subscribe": lambda asker: asker.channel().presence.subscribe(listener),
    "REST presence.get": lambda asker: asker.stored.presence.get(),
    "REST presence.history": lambda asker: asker.stored.presence.history(),
    "mode presence": with_mode(ChannelMode.PRESENCE),
    "mode presence_subscribe": with_mode(ChannelMode.PRESENCE_SUBSCRIBE),
    "param remainPresentFor": with_param("remainPresentFor", "1000"),
    "param occupancy": with_param("occupancy", "metrics"),
    "param delta": with_param("delta", "vcdiff"),
    "annotations.publish": lambda asker: asker.channel().annotations.publish(SERIAL, REACTION),
    "annotations.delete": lambda asker: asker.channel().annotations.delete(SERIAL, REACTION),
    "annotations.get": lambda asker: asker.channel().annotations.get(SERIAL),
    "annotations.subscribe": lambda asker: asker.channel().annotations.subscribe(listener),
    "REST annotations.publish": lambda asker: asker.stored.annotations.publish(SERIAL, REACTION),
    "REST annotations.delete": lambda asker: asker.stored.annotations.delete(SERIAL, REACTION),
    "REST annotations.get": lambda asker: asker.stored.annotations.get(SERIAL),
    "mode annotation_publish": with_mode(ChannelMode.ANNOTATION_PUBLISH),
    "mode annotation_subscribe": lambda asker: asker.channel(
        modes=[ChannelMode.SUBSCRIBE, ChannelMode.ANNOTATION_SUBSCRIBE]
    ).annotations.subscribe(listener),
    "updateMessage": lambda asker: asker.channel().update_message(CHANGED),
    "deleteMessage": lambda asker: asker.channel().delete_message(CHANGED),
    "appendMessage": lambda asker: asker.channel().append_message(CHANGED),
    "getMessage": lambda asker: asker.channel().get_message(SERIAL),
    "getMessageVersions": lambda asker: asker.channel().get_message_versions(SERIAL),
    "REST updateMessage": lambda asker: asker.stored.update_message(CHANGED),
    "REST deleteMessage": lambda asker: asker.stored.delete_message(CHANGED),
    "REST appendMessage": lambda asker: asker.stored.append_message(CHANGED),
    "param appendMode": with_param("appendMode", "full"),
    "publish with extras.push": lambda asker: asker.channel().publish(pushed()),
    "REST publish with extras.push": lambda asker: asker.stored.publish_message(pushed()),
    "push.admin.publish": lambda asker: asker.rest.push.admin.publish({"clientId": "me"}, PUSH),
    "push.admin.deviceRegistrations.save": lambda asker: asker.registrations.save(DEVICE),
    "push.admin.deviceRegistrations.get": lambda asker: asker.registrations.get("d"),
    "push.admin.deviceRegistrations.list": lambda asker: asker.registrations.list(),
    "push.admin.deviceRegistrations.remove": lambda asker: asker.registrations.remove("d"),
    "push.admin.deviceRegistrations.removeWhere": lambda asker: asker.registrations.remove_where(clientId="me"),
    "push.admin.channelSubscriptions.save": lambda asker: asker.subscriptions.save(
        {"channel": asker.name, "clientId": "me"}
    ),
    "push.admin.channelSubscriptions.list": lambda asker: asker.subscriptions.list(clientId="me"),
    "push.admin.channelSubscriptions.listChannels": lambda asker: asker.subscriptions.list_channels(),
    "[meta] channels": lambda asker: asker.realtime.channels.get("[meta]channel.lifecycle").attach(),
}
