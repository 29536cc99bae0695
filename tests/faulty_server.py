"""A server that speaks just enough of the protocol, and breaks its promises on demand."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import trio
from trio_websocket import ConnectionClosed, serve_websocket

FAULTS = (
    "none",
    "lose",
    "repeat",
    "swap",
    "refuse",
    "silent",
    "stray",
    "drop",
    "garbage",
    "damage",
    "unwelcome",
    "late-refusal",
    "senseless",
    "small",
    "forgetful",
    "publishes-again",
    "stall",
    "mute",
    "lose-and-drop",
)


class FaultyServer:
    """With ``fault`` every tenth message meets it. A context manager; ``port`` is where it listens.

    Other kinds: ``unwelcome`` and ``senseless`` greet so, ``small`` takes small messages only, ``forgetful`` resumes no
    connection, ``publishes-again`` what is sent again (and answers one publish late), ``stall`` holds everything back
    from the fifth message on until ``release`` is called, ``mute`` greets nobody who comes back, ``lose-and-drop``
    loses the fifth, and drops all subscribers with the tenth."""

    def __init__(self, fault: str) -> None:
        assert fault in FAULTS
        self.fault = fault
        self.port = 0
        self._subscribers: list[Any] = []
        self._held: str | None = None
        self._count = 0
        self._connections = 0
        self._next = self._most_subscribers = 0
        self._again: list[str] = []
        self._unanswered: dict[Any, int] = {}
        self._released: trio.Event

    def release(self) -> None:
        self._token.run_sync_soon(self._released.set)

    def __enter__(self) -> FaultyServer:
        ready: SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = SimpleQueue()
        self._thread = threading.Thread(target=trio.run, args=(self._run, ready), daemon=True)
        self._thread.start()
        self._token, self._scope = ready.get()
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()

    async def _run(self, ready: SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.CancelScope]]) -> None:
        self._released = trio.Event()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, self._serve, "127.0.0.1", 0, None)
            self.port = server.port
            ready.put((trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    async def _serve(self, request: Any) -> None:
        """One connection; whoever goes while it is spoken to ends its own, and not the server."""
        with suppress(ConnectionClosed):
            await self._attend(request)

    async def _attend(self, request: Any) -> None:
        websocket = await request.accept()
        if self.fault == "unwelcome":
            await _say(websocket, action=9, error={"code": 40101, "message": "go away"})
            return
        if self.fault == "senseless":
            await _say(websocket, action=4, connectionId="c", connectionDetails=["connectionKey", 7])
            return
        if self.fault == "mute" and "resume=" in request.path:
            await websocket.get_message()
            return
        self._connections += 1
        details = {"connectionKey": "k", "maxMessageSize": 100 if self.fault == "small" else 65536}
        name = f"c{self._connections}" if self.fault == "forgetful" else "c"
        await _say(websocket, action=4, connectionId=name, connectionDetails=details)
        try:
            while True:
                message = json.loads(await websocket.get_message())
                if message["action"] == 10:
                    await _say(websocket, action=11, channel=message["channel"], channelSerial="s0")
                    self._subscribers.append(websocket)
                elif message["action"] == 15:
                    await self._publish(websocket, message)
        finally:
            if websocket in self._subscribers:
                self._subscribers.remove(websocket)

    async def _publish(self, websocket: Any, message: dict[str, Any]) -> None:
        self._count += 1
        if self.fault == "stall" and self._count >= 5:
            await self._released.wait()
        struck = self._count % 10 == 5
        fault = self.fault if struck else "none"
        deliveries = [message["messages"][0]["data"]]
        if fault in ("lose", "refuse", "lose-and-drop"):
            deliveries = []
        elif fault == "repeat":
            deliveries *= 2
        elif fault == "damage":
            deliveries = [deliveries[0][:15] + "zz" + deliveries[0][17:]]
        elif fault == "swap":
            self._held, deliveries = deliveries[0], []
        elif self._held is not None:
            deliveries.append(self._held)
            self._held = None
        if self.fault == "publishes-again":
            deliveries += self._published_again(message)
        for data in deliveries:
            for subscriber in list(self._subscribers):
                with suppress(ConnectionClosed):  # its own handler says so
                    await _say(subscriber, action=15, channelSerial="s1", messages=[{"data": data}])
        if fault == "drop" and self._subscribers:
            await self._subscribers.pop().aclose()
        if self.fault == "lose-and-drop" and self._count == 10:
            while self._subscribers:
                await self._subscribers.pop().aclose()
        if fault == "garbage" and self._subscribers:
            await self._subscribers[-1].send_message("{}")
        if self.fault == "publishes-again":
            await self._answer_late(websocket, message["msgSerial"])
        elif fault in ("refuse", "late-refusal"):
            error = {"code": 42911, "message": "too fast"}
            await _say(websocket, action=2, msgSerial=message["msgSerial"], count=1, error=error)
        elif not (self.fault == "silent" and self._count >= 5):
            await _say(websocket, action=1, msgSerial=message["msgSerial"], count=1)
            if fault == "stray":
                await _say(websocket, action=1, msgSerial=message["msgSerial"], count=1)

    def _published_again(self, message: dict[str, Any]) -> list[str]:
        """What was sent again, once all have come back."""
        if message["msgSerial"] < self._next:
            self._again.append(message["messages"][0]["data"])
            return []
        self._next = message["msgSerial"] + 1
        if len(self._subscribers) < self._most_subscribers:
            return []
        self._most_subscribers = len(self._subscribers)
        again, self._again = self._again, []
        return again

    async def _answer_late(self, websocket: Any, number: int) -> None:
        """The one before it, so that one is always without an answer."""
        if self._unanswered.get(websocket) is not None:
            await _say(websocket, action=1, msgSerial=number - 1, count=1)
        self._unanswered[websocket] = number


async def _say(websocket: Any, **message: Any) -> None:
    await websocket.send_message(json.dumps(message))
