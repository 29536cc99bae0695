"""A REST server around a small fake of what lies behind it; asked without HTTP in between."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgpack
import orjson
import trio

from engine.auth.capability import Capability
from engine.auth.tokens import Identity
from engine.channel import Channel
from engine.directory import ChannelNames
from engine.errors import AuthError, BadRequest, PubSubError
from engine.journal.memory import MemoryJournal
from engine.journal.port import Stored
from engine.names import ChannelName
from engine.statistics import Entries, Interval, Statistics
from ext.log.counters import Meter
from ext.log.rate import Rate
from ext.log.terms import Terms
from ext.text.serial import message_serial_text
from ext.wire.encoder import encode_record
from ext.wire.publish import Publish
from server.http.request import HttpRequest, Response, parse_target
from server.rest.admin import Health
from server.rest.api import Rest
from server.rest.publishing import RestPublish
from server.rest.stats import StatsQuery

NOW = 1_700_000_000_000
SERIES = "abcd1234"
TERMS = Terms(None, Rate(0, 0), Rate(0, 0), max_bytes=65536, max_messages=1000)
JSON, MSGPACK = "application/json", "application/x-msgpack"


def identity(capability: str = '{"*":["*"]}', client_id: str | None = None, *, wildcard: bool = False) -> Identity:
    return Identity("app1", "app1.key1", client_id, wildcard, Capability.parse(capability), None)


WHO = {
    "root": identity(wildcard=True),
    "reader": identity('{"*":["subscribe","history"]}'),
    "writer": identity('{"room:*":["publish"]}'),
    "anonymous": identity(),
    "alice": identity(client_id="alice"),
}
LIVE = {"conn1!key": ("conn1conn1", None), "conn2!key": ("conn2conn2", "alice")}


class FakeBackend:
    """One app; credentials are ``Bearer <name in WHO>``; what is published can be read back."""

    def __init__(self, *, dev: bool = False) -> None:
        self.dev = dev
        self.entries: list[Stored] = []
        self.published: list[tuple[ChannelName, Publish, str, str | None, str | None]] = []
        self.refuses: Exception | None = None
        self.reasons: tuple[str, ...] = ()
        self.token_requests: list[tuple[str, dict[str, object], str | None]] = []
        self.deleted: list[str] = []
        self.channels: dict[str, Channel] = {}
        self.meters: dict[str, Meter] = {}
        self.statistics_kept = Statistics(MemoryJournal(), self.meters, prune=False)
        self.refuses_on: dict[str, Exception] = {}

    def now_ms(self) -> int:
        return NOW

    def authenticate(self, params: Mapping[str, str], authorization: str | None, client_id: str | None) -> Identity:
        name = params.get("access_token") or (authorization or "").partition(" ")[2]
        found = WHO.get(name)
        if found is None:
            raise AuthError("unknown credentials", code=40101)
        if client_id is not None and found.wildcard:
            return Identity(found.app_id, found.key_name, client_id, False, found.capability, None)
        if client_id not in (None, found.client_id):
            raise AuthError("another clientId", code=40102)
        return found

    def request_token(self, key_name: str, body: dict[str, object], authorization: str | None) -> dict[str, object]:
        self.token_requests.append((key_name, body, authorization))
        return {"token": "app1.t", "keyName": key_name, "issued": NOW, "expires": NOW + 1, "capability": '{"*":["*"]}'}

    async def until_of_use(self, error: PubSubError) -> None:
        await trio.lowlevel.checkpoint()

    async def revoke_tokens(
        self, key_name: str, body: dict[str, object], params: Mapping[str, str], authorization: str | None
    ) -> dict[str, object]:
        return {"successCount": 0, "failureCount": 0, "results": []}

    def terms(self, identity: Identity) -> Terms:
        return TERMS

    async def publish(self, identity: Identity, ready: RestPublish) -> list[str]:
        channel, publish, author = ready.channel, ready.publish, ready.author
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise self.refuses
        if channel.name in self.refuses_on:
            raise self.refuses_on[channel.name]
        serial = (NOW << 16) + len(self.entries) + 1
        record = encode_record(ready.base_id, author.connection_id, author.client_id, 0, publish.messages)
        self.entries.append(Stored(serial, self.entries[-1].serial if self.entries else 0, SERIES, record))
        self.published.append((channel, publish, ready.base_id, author.connection_id, author.client_id))
        return [message_serial_text(serial, SERIES, index) for index in range(publish.count)]

    async def continuous(self, app_id: str, channel: str, cursor: int) -> bool:
        return True

    async def read_after(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return [stored for stored in self.entries if stored.serial > cursor][:limit]

    async def read_before(self, app_id: str, channel: str, cursor: int, *, limit: int, budget: int) -> list[Stored]:
        return [stored for stored in reversed(self.entries) if stored.serial < cursor][:limit]

    def retained_from(self, app_id: str, channel: str) -> int:
        return NOW - 120_000

    def series_of(self, app_id: str, channel: str, serial: int) -> str:
        return SERIES

    def admit_reader(self, identity: Identity) -> None:
        pass

    def charge_reader(self, identity: Identity, count: int, size: int) -> None:
        pass

    def behalf(self, key_text: str, app_id: str) -> tuple[str, str | None]:
        assert isinstance(key_text, str), "a node would look into it"
        if key_text not in LIVE:
            raise BadRequest("connectionKey: not that of a live connection", code=40006)
        return LIVE[key_text]

    def channel(self, app_id: str, name: str) -> Channel | None:
        return self.channels.get(f"{app_id}:{name}")

    def channel_names(self, app_id: str, prefix: str, after: str, most: int) -> list[str]:
        names = ChannelNames()
        for key in self.channels:
            names.add(key)
        return names.after(app_id, prefix, after, most)

    def app_of(self, key_name: str) -> str | None:
        return "app1" if key_name == "app1.key1" else None

    def count_request(self, app_id: str, counted_as: str) -> None:
        self.statistics_kept.count(app_id, counted_as, NOW)

    async def statistics(self, app_id: str, query: StatsQuery) -> list[Interval]:
        first_ms, last_ms = query.span
        page = self.statistics_kept.page
        return page(app_id, query.unit, first_ms, last_ms, limit=query.limit + 1, backwards=query.backwards)

    async def put_statistics(self, app_id: str, minutes: list[tuple[int, Entries]]) -> None:
        self.statistics_kept.put(app_id, minutes, NOW)

    def health(self) -> Health:
        return Health("0.1.0", 12.5, "synced", self.reasons, {"connections": 3})

    def create_app(self, spec: dict[str, object]) -> dict[str, object]:
        return {"appId": "new", "keys": spec.get("keys", [])}

    async def delete_app(self, app_id: str) -> None:
        self.deleted.append(app_id)


class Server:
    """Asks one Rest, as a library would."""

    def __init__(self, *, dev: bool = False) -> None:
        self.backend = FakeBackend(dev=dev)
        self.rest = Rest(self.backend)

    def ask(
        self, method: str, target: str, body: object = b"", *, who: str | None = "root", **headers: str
    ) -> Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if who is not None:
            fields["authorization"] = f"Bearer {who}"
        if not isinstance(body, bytes):
            body = msgpack.packb(body) if fields.get("content-type") == MSGPACK else orjson.dumps(body)
            fields.setdefault("content-type", JSON)
        path, query = parse_target(target)
        return trio.run(self.rest, HttpRequest(method, path, query, fields, body, False, "peer"))

    def publish(self, body: object, target: str = "/channels/room:1/messages", **options: Any) -> dict[str, Any]:
        response = self.ask("POST", target, body, **options)
        assert response.status == 201, response.body
        told: dict[str, Any] = value_of(response)
        return told

    def history(self, **headers: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = value_of(self.ask("GET", "/channels/room:1/messages", **headers))
        return found


def value_of(response: Response) -> Any:
    kind = header(response, "content-type")
    assert kind in (JSON, MSGPACK), kind
    return orjson.loads(response.body) if kind == JSON else msgpack.unpackb(response.body)


def header(response: Response, name: str) -> str | None:
    found = [value for given, value in response.headers if given.lower() == name]
    assert len(found) <= 1 or name == "link"
    return found[0] if found else None


def code_of(response: Response) -> tuple[int, int]:
    """Status and code; the same facts must be in body and headers."""
    error = value_of(response)["error"]
    assert error["statusCode"] == response.status
    assert header(response, "x-ably-errorcode") == str(error["code"])
    assert header(response, "x-ably-errormessage")
    assert isinstance(error["message"], str)
    assert (header(response, "www-authenticate") is not None) == (response.status == 401)
    return response.status, error["code"]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
