"""The published Python client, driven by JSON lines: one command in, one answer out. driver.mjs speaks the same.

Two habits of the library show here: the realtime transport ignores ``port``, so it goes inside ``endpoint``; and REST
refuses Basic auth without TLS, so the key is turned into tokens."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
from ably import AblyException, AblyRealtime, AblyRest
from ably.types.channelmode import ChannelMode
from ably.types.channeloptions import ChannelOptions
from ably.types.message import Message
from asking import ASKS, Asker

POLL_SECONDS = 0.005
LINE_BYTES = 1 << 24

Command = dict[str, Any]


class Client:
    """One realtime client and what it has seen."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.options = given
        self.realtime = realtime = AblyRealtime(**options(given, realtime=True))
        self.states: list[dict[str, Any]] = []
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.floods: dict[str, asyncio.Task[list[dict[str, Any]]]] = {}
        realtime.connection.on(self._changed)

    def _changed(self, change: Any) -> None:
        self.states.append(present(state=change.current.value, error=error(change.reason)))


CLIENTS: dict[str, Client] = {}


def present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def error(reason: Any) -> dict[str, Any] | None:
    if reason is None:
        return None
    if isinstance(reason, AblyException):
        return present(code=reason.code, statusCode=reason.status_code, message=str(reason.message))
    return {"message": repr(reason)}


def untag(data: dict[str, Any] | None) -> Any:
    if data is None:
        return None
    if "bytes" in data:
        return base64.b64decode(data["bytes"])
    return data["text"] if "text" in data else data["json"]


def tag(data: Any) -> dict[str, Any] | None:
    if data is None:
        return None
    if isinstance(data, bytes | bytearray):
        return {"bytes": base64.b64encode(data).decode()}
    return {"text": data} if isinstance(data, str) else {"json": data}


def shown(message: Message) -> dict[str, Any]:
    return present(
        kind="message",
        id=message.id,
        name=message.name,
        clientId=message.client_id,
        connectionId=message.connection_id,
        timestamp=message.timestamp,
        serial=message.serial,
        action=None if message.action is None else message.action.name.lower().replace("_", "."),
        extras=message.extras,
        encoding=message.encoding or None,
        data=tag(message.data),
        version=present(serial=message.version.serial, timestamp=message.version.timestamp),
    )


def outgoing(message: dict[str, Any]) -> Message:
    names = {"clientId": "client_id"}
    fields = {names.get(name, name): value for name, value in message.items() if name != "data"}
    return Message(data=untag(message.get("data")), **fields)


async def fetched(url: str) -> Any:
    """What an application's callback would make of what its own server has told it."""
    async with httpx.AsyncClient() as http:
        response = await http.get(url)
    return response.json() if response.headers["content-type"] == "application/json" else response.text


def options(given: dict[str, Any], *, realtime: bool) -> dict[str, Any]:
    made: dict[str, Any] = {
        "endpoint": f"127.0.0.1:{given['port']}/" if realtime else "127.0.0.1",
        "tls": bool(given.get("tls")),
        "use_binary_protocol": given["binary"],
    }
    if realtime:
        made["auto_connect"] = False
        scheme = "https" if given.get("tls") else "http"
        made["connectivity_check_url"] = f"{scheme}://127.0.0.1:{given['port']}/time"
        made["disconnected_retry_timeout"] = 300
        made["realtime_request_timeout"] = 3000  # a refused TCP connection is noticed by this timer only
        params = dict(given.get("transportParams") or {})
        if given.get("echo") is False:
            params["echo"] = "false"
        made["transport_params"] = params
    else:
        made["tls_port" if given.get("tls") else "port"] = given["port"]
    if given.get("token") is not None:
        made["token"] = given["token"]
    elif given.get("authUrl") is not None:
        made["auth_url"] = given["authUrl"]
    elif given.get("authCallback") is not None:
        made["auth_callback"] = lambda params: fetched(given["authCallback"])
    else:
        made["key"] = given["key"]
        made["use_token_auth"] = not given.get("basic")
    if given.get("clientId") is not None:
        made["client_id"] = given["clientId"]
    return made


async def until(condition: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what()} after {seconds} s")
        await asyncio.sleep(POLL_SECONDS)


def channel_of(command: Command) -> Any:
    client = CLIENTS[command["client"]]
    name = command["channel"]
    if name in client.logs:
        return client.realtime.channels.get(name)
    modes = [ChannelMode[mode.upper()] for mode in command["modes"]] if command.get("modes") else None
    channel = client.realtime.channels.get(name, ChannelOptions(params=command.get("params"), modes=modes))
    log = client.logs[name] = []

    def changed(change: Any) -> None:
        position = channel._RealtimeChannel__channel_serial  # the library shows it nowhere
        log.append(
            present(
                kind="state",
                state=change.current.value,
                resumed=change.resumed,
                error=error(change.reason),
                position=position,
            )
        )

    channel.on(changed)
    return channel


def connection(client: Client) -> dict[str, Any]:
    state = client.realtime.connection
    details = state.connection_details
    return present(
        state=state.state.value,
        id=state.connection_manager.connection_id,
        key=details.connection_key if details is not None else None,
        error=error(state.error_reason),
        clientId=client.realtime.auth.client_id,
        states=client.states,
    )


async def op_new(command: Command) -> None:
    CLIENTS[command["client"]] = Client(command["options"])


async def op_connect(command: Command) -> dict[str, Any]:
    CLIENTS[command["client"]].realtime.connect()
    return await op_wait({**command, "states": ["connected", "failed"]})


async def op_wait(command: Command) -> dict[str, Any]:
    client = CLIENTS[command["client"]]
    state = client.realtime.connection
    await until(lambda: state.state.value in command["states"], command.get("seconds", 20), lambda: state.state.value)
    return connection(client)


async def op_connection(command: Command) -> dict[str, Any]:
    return connection(CLIENTS[command["client"]])


async def op_ping(command: Command) -> dict[str, Any]:
    return {"milliseconds": await CLIENTS[command["client"]].realtime.connection.ping()}


async def op_authorize(command: Command) -> dict[str, Any]:
    client = CLIENTS[command["client"]]
    await client.realtime.auth.authorize()
    return connection(client)


async def op_attach(command: Command) -> dict[str, Any]:
    channel = channel_of(command)
    await channel.attach()
    attached = [event for event in CLIENTS[command["client"]].logs[command["channel"]] if event["kind"] == "state"][-1]
    modes = [mode.name.lower() for mode in channel.modes]
    return present(
        resumed=attached["resumed"], params=channel.params or {}, modes=modes, position=attached.get("position")
    )


async def op_options(command: Command) -> None:
    """Until they are in force. The library itself would wait for a change of state, and there is none."""
    channel = channel_of(command)
    setting = asyncio.create_task(channel.set_options(ChannelOptions(params=command["params"])))
    try:
        await until(lambda: channel.params == command["params"], 20, lambda: f"params are {channel.params}")
    finally:
        setting.cancel()


async def op_detach(command: Command) -> None:
    await channel_of(command).detach()


async def op_subscribe(command: Command) -> None:
    channel = channel_of(command)
    log = CLIENTS[command["client"]].logs[command["channel"]]
    await channel.subscribe(lambda message: log.append(shown(message)))


async def op_log(command: Command) -> list[dict[str, Any]]:
    log = CLIENTS[command["client"]].logs[command["channel"]]

    def messages() -> list[dict[str, Any]]:
        return [event for event in log if event["kind"] == "message"]

    def newest() -> Any:
        return messages()[-1].get("name") if messages() else None

    def there() -> bool:
        return newest() == command["last"] if "last" in command else len(messages()) >= command.get("count", 0)

    await until(there, command.get("seconds", 20), lambda: f"only {len(messages())} messages, the last is {newest()}")
    return log


async def op_publish(command: Command) -> dict[str, Any]:
    result = await channel_of(command).publish([outgoing(message) for message in command["messages"]])
    return {"serials": result.serials}


async def op_flood(command: Command) -> None:
    channel = channel_of(command)
    prefix = command["prefix"]

    async def one(name: str) -> dict[str, Any]:
        try:
            result = await channel.publish(name, name)
        except Exception as reason:
            return {"name": name, "error": error(reason)}
        return present(name=name, serial=result.serials[0] if result.serials else None)

    async def send() -> list[dict[str, Any]]:
        results: list[asyncio.Task[dict[str, Any]]] = []
        for number in range(command["count"]):
            results.append(asyncio.create_task(one(f"{prefix}/{number:06d}")))
            if number % command.get("every", 20) == command.get("every", 20) - 1:
                await (asyncio.sleep(command["pause"] / 1000) if command.get("pause") else results[-1])
        return list(await asyncio.gather(*results))

    CLIENTS[command["client"]].floods[prefix] = asyncio.create_task(send())


async def op_flooded(command: Command) -> list[dict[str, Any]]:
    return await CLIENTS[command["client"]].floods[command["prefix"]]


async def paged(page: Any, show: Callable[[Any], Any]) -> dict[str, Any]:
    items: list[Any] = []
    pages = 0
    while page is not None:
        pages += 1
        items += [show(item) for item in page.items]
        page = await page.next() if page.has_next() else None
    return {"items": items, "pages": pages}


async def op_history(command: Command) -> dict[str, Any]:
    return await paged(await channel_of(command).history(**command.get("query", {})), shown)


# By a client of the REST interface alone, one for the same options.

RESTS: dict[str, AblyRest] = {}


def rest_of(command: Command) -> AblyRest:
    name = json.dumps(command["options"])
    if name not in RESTS:
        RESTS[name] = AblyRest(**options(command["options"], realtime=False))
    return RESTS[name]


async def op_rest_publish(command: Command) -> dict[str, Any]:
    messages, form = [outgoing(message) for message in command["messages"]], command.get("form")
    rest = rest_of(command)
    channel = rest.channels.get(command["channel"])
    if form == "name and data":
        result = await channel.publish(messages[0].name, messages[0].data)
    elif form == "message":
        result = await channel.publish_message(messages[0], params=command.get("params"))
    else:
        result = await channel.publish_messages(messages, params=command.get("params"))
    return {"serials": result.serials}


async def op_rest_history(command: Command) -> dict[str, Any]:
    rest = rest_of(command)
    return await paged(await rest.channels.get(command["channel"]).history(**command["query"]), shown)


async def op_rest_stats(command: Command) -> dict[str, Any]:
    def shown_stats(stats: Any) -> dict[str, Any]:
        return {"intervalId": stats.interval_id, "unit": stats.unit, "entries": stats.entries}

    rest = rest_of(command)
    return await paged(await rest.stats(**command["query"]), shown_stats)


async def op_rest_status(command: Command) -> dict[str, Any]:
    rest = rest_of(command)
    details = await rest.channels.get(command["channel"]).status()
    of = details.status.occupancy.metrics
    metrics = {"connections": of.connections, "publishers": of.publishers, "subscribers": of.subscribers}
    return {"channelId": details.channel_id, "isActive": details.status.is_active, "metrics": metrics}


async def op_speaks(command: Command) -> bool:
    return "op_" + command["of"] in globals()


async def op_rest_time(command: Command) -> float:
    rest = rest_of(command)
    return await rest.time()


async def op_rest_token(command: Command) -> dict[str, Any]:
    names = {"clientId": "client_id"}
    rest = rest_of(command)
    wanted = {names.get(name, name): value for name, value in command["wanted"].items()}
    details = await rest.auth.request_token(wanted)
    return present(token=details.token, clientId=details.client_id, issued=details.issued, expires=details.expires)


async def op_rest_request(command: Command) -> dict[str, Any]:
    rest = rest_of(command)
    page = await rest.request(
        command["method"], command["path"], "3", params=command.get("params"), body=command.get("body")
    )
    told = present(
        status=page.status_code, success=page.success, errorCode=page.error_code, errorMessage=page.error_message
    )
    return told | await paged(page, lambda item: item)


async def op_ask(command: Command) -> dict[str, Any]:
    client = CLIENTS[command["client"]]
    asker = Asker(client.realtime, rest_of({"options": client.options}), command["channel"])
    got = await ASKS[command["what"]](asker)
    return {"found": len(got) if isinstance(got, list) else None}


async def op_close(command: Command) -> None:
    client = CLIENTS.pop(command["client"])
    await asyncio.wait_for(client.realtime.close(), 15)


async def answer(command: Command) -> None:
    try:
        said: dict[str, Any] = {"id": command["id"], "value": await globals()["op_" + command["op"]](command)}
    except Exception as reason:
        said = {"id": command["id"], "error": error(reason)}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def main() -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(answer(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main())
