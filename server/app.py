"""The life of the process: open, listen, serve, drain, close.

    data directory (locked) -> journal -> node
        nursery of the node: committer, plane, timers
            nursery of connections: HTTP, handshakes, TLS
                nursery of listeners: closed first

SIGTERM and SIGINT drain; a second one ends the process at once. SIGHUP has the configuration read again."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import ssl
import sys
from collections.abc import Callable
from functools import partial

import trio

from engine import limits
from engine.auth.authenticator import Authenticator
from engine.auth.keys import Keyring
from engine.auth.requests import REMEMBERED_MS, TokenIssuer
from engine.auth.tokens import TokenSeal
from engine.connection import Connections
from engine.errors import JournalUnavailable, PubSubError, StartupFailed
from engine.journal.buckets import WINDOW, bucket_length_ms
from engine.journal.memory import MemoryJournal
from engine.journal.port import Journal
from engine.journal.rocks import RocksJournal
from engine.limits import Limits
from engine.settings import Settings
from ext.entrance import Entrance
from ext.serial import SerialClock
from ext.socket import Socket
from ext.upgrade import Request
from server import descriptors, ports
from server.announce import Drain, say_ready
from server.apps import keys_of, new_key, stored_key
from server.backend import NodeBackend
from server.bodies import room_for_answers
from server.certificate import Certificate, load_certificate
from server.clock import Clock
from server.datadir import DataDirectory
from server.entrance import run_entrance, run_patience, stream_of
from server.handshake import Upgrade
from server.heap import keep_some, machine_bytes
from server.http import HttpLimits, IdleConnections, serve_http
from server.keyguard import peer_of
from server.keywatch import KeyWatch, tell_made
from server.listener import Acceptor
from server.logs import configure, facts
from server.newcomers import Newcomers
from server.node import Node
from server.nonces import NonceFile
from server.opening import Greeting, meet, read_query, refuse, welcome
from server.posting import PostDesk
from server.protocol import ClientProtocol
from server.publishing import Bounds
from server.reloading import Reloader
from server.request import Handler
from server.rest import Rest
from server.revoking import Revoker
from server.revoking import begin as begin_revocations
from server.secure import TlsStream
from server.systemd import notify
from server.tls import Carriage

LOGGER = logging.getLogger("unbroken")

HANDSHAKES_AT_ONCE = 256  # each is a task with buffers; the rest of a storm waits in the order of its arrival
LAST_CALL_SECONDS = 1.0  # at the end: some round trips, for those who have just been accepted
SWITCH_SECONDS = 0.0005  # a thread that has synced waits at most so long for the interpreter
# Connections and entries come by the ten thousand and are freed by their counts; cycles are few.
GC_THRESHOLDS = (50_000, 20, 50)


def run(settings: Settings, reread: Callable[[], Settings], *, new_secret: bool = False) -> int:
    """Run until a signal; the exit status. Raises: StartupFailed, with what to do about it.

    Args:
        reread: reads the settings anew, for a reload. Raises: StartupFailed.
        new_secret: make one first, which ends sessions and tokens.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it never ends us; from when we are ready it reloads
    configure(settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    keep_some()
    settings = _on_this_machine(settings)
    descriptors.raise_limit(settings.limits.connections)
    certificate = load_certificate(settings)
    bound = ports.bind(settings.host, settings.port)
    try:
        if settings.dev and not settings.dev_anywhere:
            ports.check_development(bound)
        directory = DataDirectory.open(settings.data, new_secret=new_secret)
        if new_secret:
            LOGGER.info("made a new secret: sessions and tokens issued so far have ended", extra=facts("new_secret"))
        return _run(settings, reread, directory, bound, certificate)
    finally:
        ports.close(bound)


def _run(
    settings: Settings,
    reread: Callable[[], Settings],
    directory: DataDirectory,
    bound: ports.Bound,
    certificate: Certificate | None,
) -> int:
    try:
        keyring = _keyring(settings, directory)
        journal = open_journal(settings)
        try:
            _check_apps(settings, directory, keyring, journal)
            ports.listen(bound)
            if not len(keyring) and not settings.dev:
                _make_first_key(directory, keyring)
            clock = _clock(settings, journal)
            directory.note_alive(clock.steady.steady_ms)  # before any key is given out: one that ends soon counts too
            try:
                serve = partial(_serve, settings, lambda: _on_this_machine(reread()))
                return trio.run(serve, directory, keyring, journal, clock, certificate, bound, clock=clock.patient)
            finally:
                directory.note_alive(clock.read().steady_ms)
        finally:
            journal.close()
    except JournalUnavailable as error:
        raise StartupFailed(f"{settings.data}: {error}") from error
    finally:
        directory.close()


def _on_this_machine(settings: Settings) -> Settings:
    return settings.within(machine_bytes() or limits.MEMORY_UNKNOWN)


def open_journal(settings: Settings) -> Journal:
    """The journal that these settings need. Raises: JournalUnavailable."""
    classes = {space.durability or settings.durability for space in settings.namespaces.values()} | {
        settings.durability
    }
    if classes == {"memory"}:
        return MemoryJournal()
    return RocksJournal(settings.data / "journal", window_ms=settings.limits.held_ms, layout=settings.layout)


def _clock(settings: Settings, journal: Journal) -> Clock:
    """Going on from what the journal says. Raises: JournalUnavailable."""
    step_ms = bucket_length_ms(WINDOW, settings.limits.held_ms)
    try:
        return Clock(journal.timeline, SerialClock(journal.head()), journal.clock_noted, step_ms=step_ms)
    except ValueError as error:
        where = settings.data / "journal"
        raise JournalUnavailable(
            f"its note of the clock is damaged: {error}; move {where} elsewhere, and put a copy in its place"
        ) from error


def _keyring(settings: Settings, directory: DataDirectory) -> Keyring:
    """The keys of the configuration and of the data directory."""
    file = directory.apps
    kept = list(keys_of(file.read(), file.path))
    file.keep_copy()
    return Keyring([*kept, *settings.keys])


def _check_apps(settings: Settings, directory: DataDirectory, keyring: Keyring, journal: Journal) -> None:
    """Apps whose messages are here have to be known, or it is said so: a new app would never see them.

    Raises: StartupFailed.
    """
    file = directory.apps
    if file.path.exists() or not journal.head():
        return
    if file.was_lost or not (len(keyring) or settings.dev):
        raise StartupFailed(
            f"{file.path}: is missing, though the journal beside it holds messages of apps; restore it from a backup, "
            "or give the keys with which the server ran before; or make a new key with "
            f"`unbroken keys create --data {settings.data}`, with --app ID for an app whose messages are here"
        )


def _make_first_key(directory: DataDirectory, keyring: Keyring) -> None:
    """Where there is none, one is made; it is shown to who sits at a terminal, and to no log."""
    key = new_key(secrets.token_hex(3))
    kept = directory.keep_first_key(key.text)
    with directory.apps.changing() as apps:
        apps[key.app_id] = {"keys": [stored_key(key)]}
    keyring.add(key)
    tell_made(key.name)
    shown = f":\n    {key.text}" if sys.stdout.isatty() else ""
    print(f"unbroken: made the app {key.app_id} with a key of full capability, kept in {kept}{shown}", flush=True)


async def _serve(
    settings: Settings,
    reread: Callable[[], Settings],
    directory: DataDirectory,
    keyring: Keyring,
    journal: Journal,
    clock: Clock,
    certificate: Certificate | None,
    bound: ports.Bound,
) -> int:
    bounds = settings.limits
    seal = TokenSeal(directory.secret)
    node = Node(
        settings,
        journal,
        Authenticator(keyring, seal),
        Connections(
            directory.secret,
            life=directory.life,
            earlier=directory.earlier_lives,
            newest=directory.newest_keys,
            note_key=directory.note_key,
            ttl_ms=bounds.connection_state_seconds * 1000,
            limit=bounds.connections,
        ),
        clock,
        dedup_key=directory.dedup_key,
        random=secrets.token_bytes,
        note_alive=directory.note_alive,
        revocations=begin_revocations(directory, keyring, clock.steady.cautious_ms),
    )
    revoker = Revoker(
        node.revocations,
        directory.keep_revocations,
        lambda entries: node.lifetimes.revoke(entries, node.clients),
        node.now_ms,
        node.cautious_ms,
    )
    nonces = NonceFile(directory.path, REMEMBERED_MS, node.steady_ms())
    issuer = TokenIssuer(keyring, seal, secrets.token_bytes, known=nonces.known, remember=nonces.remember)
    backend = NodeBackend(node, keyring, issuer, directory, revoker)
    rest = Rest(backend, Bounds(bounds.max_message_size, bounds.messages_per_publish), node.pace)
    tls = certificate.context if certificate is not None else None
    front = Front(node, node.refusals.around(node.keyguard.before(rest)), tls)
    if tls is None:
        front.publish_at(PostDesk(node, rest, backend, keyring, front.http_limits, front.on_leaving))
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in bound]
    addresses = ports.reachable(bound)
    backend.address = addresses[0]
    gc.freeze()  # what is there now stays; collections need not look through it
    gc.set_threshold(*GC_THRESHOLDS)
    async with trio.open_nursery() as nodes:
        await nodes.start(node.run)
        watch = KeyWatch(directory.apps, keyring, settings.keys, node.clients, node.end_of_turn, node.keys_changed)
        nodes.start_soon(watch.run)
        reloader = Reloader(node, front, rest, watch, certificate, reread)
        nodes.start_soon(reloader.run)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as intake:
                for listener in listeners:
                    front.open(listener, intake, connections)
                stop = trio.Event()
                await nodes.start(_watch_signals, stop, reloader.ask)  # before anybody is told that it is ready
                say_ready(settings, addresses)
                notify("READY=1")
                await stop.wait()
                notify("STOPPING=1")
                drain = Drain(len(node.clients), bounds.drain_seconds)
                await front.last_call()
                intake.cancel_scope.cancel()
            for listener in listeners:
                await listener.aclose()
            with trio.move_on_after(node.settings.limits.drain_seconds):
                front.drain()
                await node.drain()
                while connections.child_tasks or front.desk:  # noqa: ASYNC110 - HTTP requests under way, which tell nobody when they end
                    await trio.sleep(0.02)
            drain.tell_end(len(node.plane))
            node.refusals.tell()
            connections.cancel_scope.cancel()
        node.plane.close()
        if front.desk is not None:
            front.desk.posts.close()
        nodes.cancel_scope.cancel()
    try:
        node.keep_statistics()
    except JournalUnavailable as error:
        LOGGER.error("the last statistics are lost: %s", error)
    nonces.close()
    return 0


class Front:
    """What stands between the port and the node."""

    def __init__(self, node: Node, rest: Handler, tls: ssl.SSLContext | None) -> None:
        bounds = node.settings.limits
        self.idle = IdleConnections()
        self._node = node
        self._rest = rest
        self._tls = tls is not None
        self.desk: PostDesk | None = None  # TLS connections have tasks
        self._connections: trio.Nursery | None = None
        self._bodies = node.bodies
        self._answers = room_for_answers()
        self.http_limits = _http_limits(bounds)
        self._doors: list[tuple[Entrance, Newcomers]] = []
        self.acceptor = Acceptor(
            on_websocket=self._on_websocket,
            on_tls_websocket=self._on_tls_websocket,
            on_http=self._on_http,
            tls=tls,
            handshake_seconds=bounds.handshake_seconds,
            head_bytes=bounds.request_head_bytes,
            handshakes_at_once=HANDSHAKES_AT_ONCE,
        )

    def open(self, listener: trio.SocketListener, intake: trio.Nursery, connections: trio.Nursery) -> None:
        """Let those in who come to this listener, until ``intake`` is cancelled; they live in ``connections``."""
        self._connections = connections
        bounds = self._node.settings.limits
        entrance = Entrance(
            listener.socket.fileno(),
            most_waiting=descriptors.most_newcomers(),
            head_bytes=0 if self._tls else bounds.request_head_bytes,  # of TLS no head comes in clear
            patience_ms=bounds.handshake_seconds * 1000,
            crowded_ms=limits.CROWDED_MS,
            most_descriptors=descriptors.most_for_connections(),
        )
        newcomers = Newcomers(entrance, limits.CROWDED_MS / 1000)
        self._doors.append((entrance, newcomers))
        intake.start_soon(
            run_entrance,
            entrance,
            self._node.steady_ms,
            self.on_request,
            self.acceptor.handle,
            self._node.end_of_turn,
            connections,
            partial(self._on_tls, newcomers) if self._tls else self._on_post,
            self.shed,
            bounds.request_head_bytes,
        )
        intake.start_soon(run_patience, entrance, newcomers, self._node.steady_ms)

    def limit(self, bounds: Limits) -> None:
        """Those who come, and requests that begin, go by these from now on."""
        self.http_limits = _http_limits(bounds)
        self.acceptor.limit(handshake_seconds=bounds.handshake_seconds, head_bytes=bounds.request_head_bytes)
        for entrance, _ in self._doors:
            entrance.limit(
                head_bytes=0 if self._tls else bounds.request_head_bytes,
                patience_ms=bounds.handshake_seconds * 1000,
                most_descriptors=descriptors.most_for_connections(),
            )
        if self.desk is not None:
            self.desk.limit(bounds, self.http_limits)

    def publish_at(self, desk: PostDesk) -> None:
        """Have plain connections that begin with a publish over HTTP served there."""
        self.desk = self._node.desk = desk

    def on_leaving(self, descriptor: int, received: bytes, waited_seconds: float) -> None:
        """One of the desk's that has sent what is not for it: it gets a task."""
        stream = stream_of(descriptor)
        if stream is not None:
            assert self._connections is not None  # it has come through one of ours
            self._connections.start_soon(self.acceptor.handle, stream, received, waited_seconds)

    def _on_tls(self, newcomers: Newcomers, descriptor: int, received: bytes) -> bool:
        newcomer = newcomers.arrived()
        stream = stream_of(descriptor)
        if stream is None:
            newcomer.leave()
        else:
            assert self._connections is not None  # it has come through one of ours
            self._connections.start_soon(self.acceptor.handle_tls, stream, received, newcomer)
        return True

    def shed(self) -> None:
        """There is no descriptor for newcomers: let go of connections that only wait for their next request."""
        self.idle.shed(limits.CROWDED_MS / 1000)
        if self.desk is not None:
            self.desk.posts.tick(self._node.steady_ms(), limits.CROWDED_MS)

    async def last_call(self) -> None:
        """Nobody is accepted any more; those who have been say who they are. Then they can be told to go, and come back
        at once, where one who is cut off in the middle of it believes that there is no server."""
        for entrance, _ in self._doors:
            entrance.shut()
        with trio.move_on_after(LAST_CALL_SECONDS):
            while any(len(entrance) or len(newcomers) for entrance, newcomers in self._doors):  # noqa: ASYNC110 - they tell nobody
                await trio.sleep(0.01)

    def drain(self) -> None:
        """Let go of those that are idle; the others end after the response under way."""
        self.idle.drain()
        if self.desk is not None:
            self.desk.drain()

    def _on_post(self, descriptor: int, received: bytes) -> bool:
        return self.desk is not None and self.desk.take(descriptor, received)

    async def _on_http(self, stream: trio.abc.Stream, received: bytes, waited_seconds: float | None) -> bytes | None:
        # Who has left the desk does not go there again: what it sends may well stay as it is, and moving has its price.
        on_publish = partial(self._move, stream) if waited_seconds is None else (lambda received: False)
        return await serve_http(
            stream,
            received,
            self._rest,
            limits=self.http_limits,
            idle=self.idle,
            waited_seconds=waited_seconds or 0.0,
            elsewhere=on_publish,
            bodies=self._bodies,
            answers=self._answers,
            pace=self._node.pace,
        )

    def _move(self, stream: trio.abc.Stream, received: bytes) -> bool:
        """One that has begun with other requests and publishes now, as libraries do that get a token first."""
        if not isinstance(stream, trio.SocketStream) or not self._on_post(stream.socket.fileno(), received):
            return False
        stream.socket.detach()
        return True

    def _on_websocket(self, upgrade: Upgrade, stream: trio.SocketStream, answer: bytes, received: bytes) -> None:
        """A plain one that a task has looked at: its socket moves into the plane."""
        self._to_plane(upgrade, stream.socket.detach(), answer, received)
        self._node.end_of_turn()

    def on_request(self, request: Request, descriptor: int, received: bytes) -> None:
        """The usual plain one: its socket moves into the plane, and the answer to the upgrade leaves with CONNECTED."""
        self._to_plane(Upgrade(request.target, request.headers), descriptor, request.answer, received)

    def _to_plane(self, upgrade: Upgrade, descriptor: int, answer: bytes, received: bytes) -> None:
        node, greeting = self._node, read_query(upgrade.target)
        try:
            met = meet(node, upgrade, greeting, lambda: peer_of(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        client = None if isinstance(met, PubSubError) else met[0]
        try:
            socket = node.plane.add(
                descriptor,
                client,
                msgpack=bool(greeting.wire),
                heartbeats=greeting.heartbeats,
                now_ms=node.steady_ms(),
            )
        except OSError:
            if client is not None:
                node.connections.lost(client.connection, None, node.steady_ms())
            raise
        self._greet(met, greeting, socket, answer, received)

    def _greet(
        self,
        met: tuple[ClientProtocol, PubSubError | None] | PubSubError,
        greeting: Greeting,
        socket: Socket,
        answer: bytes,
        received: bytes,
    ) -> None:
        """The first that it hears from us: the answer to the upgrade, and CONNECTED, or why it is refused.

        Only then what it has sent together with its request: the answer to a ping or a close frame leaves at once."""
        socket.send_frames(answer)
        if isinstance(met, PubSubError):
            if not self._node.lifetimes.say(met, partial(refuse, met, greeting, socket)):
                socket.pause()
        else:
            welcome(self._node, met[0], socket, met[1])
        if received:
            self._node.plane.feed(socket, received)

    async def _on_tls_websocket(self, upgrade: Upgrade, stream: TlsStream, answer: bytes, received: bytes) -> None:
        """One with TLS: the plane's too, carried to it until it ends."""
        node, greeting = self._node, read_query(upgrade.target)
        met = meet(node, upgrade, greeting, None)
        client = None if isinstance(met, PubSubError) else met[0]
        carriage = Carriage(stream, node.plane, node.begin_turn, node.end_of_turn)
        socket = node.plane.carry(
            client,
            carriage.wake,
            msgpack=bool(greeting.wire),
            heartbeats=greeting.heartbeats,
            now_ms=node.steady_ms(),
        )
        self._greet(met, greeting, socket, answer, received)
        node.end_of_turn()
        await carriage.run(socket)


def _http_limits(bounds: Limits) -> HttpLimits:
    return HttpLimits(head_bytes=bounds.request_head_bytes, body_bytes=bounds.request_body_bytes)


async def _watch_signals(
    stop: trio.Event, reload: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first to ask for an end has it in order; at a second one there is no time left, and the journal is safe."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                reload()
            elif stop.is_set():
                os._exit(1)
            else:
                stop.set()
