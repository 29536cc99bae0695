"""The life of the process: open, listen, serve, drain, close.

    data directory (locked) -> journal -> node
        nursery of the node: committer, plane, timers
            nursery of connections: HTTP, handshakes, TLS
                nursery of listeners: closed first

SIGTERM and SIGINT drain; a second one ends the process at once. SIGHUP re-reads the configuration."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from functools import partial

import trio

from engine import limits
from engine.auth.keys import Keyring
from engine.auth.requests import REMEMBERED_MS
from engine.errors import JournalUnavailable, StartupFailed
from engine.journal.buckets import WINDOW, bucket_length_ms
from engine.journal.memory import MemoryJournal
from engine.journal.port import Journal
from engine.journal.rocks import RocksJournal
from engine.logclock import LogClock
from engine.settings import Settings
from ext.text.serial import SerialClock
from server import descriptors
from server.announce import Drain, say_ready
from server.apps import keys_of, new_key, stored_key
from server.assembly import assemble
from server.certificate import Certificate, load_certificate
from server.datadir import DataDirectory
from server.keywatch import tell_made
from server.logs import configure, facts
from server.node.clock import Clock
from server.node.heap import keep_some, machine_bytes
from server.nonces import NonceFile
from server.systemd import notify
from server.transport import ports

LOGGER = logging.getLogger("unbroken")

SWITCH_SECONDS = 0.0005  # a thread that has synced waits at most so long for the interpreter
# Connections and entries come by the ten thousand and are freed by their counts; cycles are few.
GC_THRESHOLDS = (50_000, 20, 50)


def run(settings: Settings, reread: Callable[[], Settings], *, new_secret: bool = False) -> int:
    """Run until a signal, and return the exit status. Raises: StartupFailed, with advice.

    Args:
        reread: reads the settings again, for a reload. Raises: StartupFailed.
        new_secret: first create a new secret, which ends sessions and tokens.
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
            LOGGER.info("created a new secret: all earlier sessions and tokens have ended", extra=facts("new_secret"))
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
            directory.note_alive(clock.steady.steady_ms)  # before any key is issued: a life that ends soon counts too
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
    """The clock, continued from the journal's note. Raises: JournalUnavailable."""
    step_ms = bucket_length_ms(WINDOW, settings.limits.held_ms)
    log = LogClock(journal.timeline, SerialClock(journal.head()), step_ms=step_ms)
    try:
        return Clock(log, journal.clock_noted)
    except ValueError as error:
        where = settings.data / "journal"
        raise JournalUnavailable(
            f"its record of the clock is damaged: {error}; move {where} elsewhere, and put a copy in its place"
        ) from error


def _keyring(settings: Settings, directory: DataDirectory) -> Keyring:
    """The keys of the configuration and of the data directory."""
    file = directory.apps
    kept = list(keys_of(file.read(), file.path))
    file.keep_copy()
    return Keyring([*kept, *settings.keys])


def _check_apps(settings: Settings, directory: DataDirectory, keyring: Keyring, journal: Journal) -> None:
    """Refuse to start if messages of unknown apps are here: a new app would never see them.

    Raises: StartupFailed.
    """
    file = directory.apps
    if file.path.exists() or not journal.head():
        return
    if file.was_lost or not (len(keyring) or settings.dev):
        raise StartupFailed(
            f"{file.path}: is missing, although the journal beside it holds messages of apps; restore it from a "
            "backup, or configure the keys that the server used before, or create a new key with "
            f"`unbroken keys create --data {settings.data}`, with --app ID for an app whose messages are here"
        )


def _make_first_key(directory: DataDirectory, keyring: Keyring) -> None:
    """Create an app and a key on a server without any. The key is shown at a terminal only, and never logged."""
    key = new_key(secrets.token_hex(3))
    kept = directory.keep_first_key(key.text)
    with directory.apps.changing() as apps:
        apps[key.app_id] = {"keys": [stored_key(key)]}
    keyring.add(key)
    tell_made(key.name)
    shown = f":\n    {key.text}" if sys.stdout.isatty() else ""
    print(f"unbroken: created app {key.app_id} with a key of full capability, saved in {kept}{shown}", flush=True)


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
    nonces = NonceFile(directory.path, REMEMBERED_MS, clock.steady.steady_ms)
    addresses = ports.reachable(bound)
    parts = assemble(settings, directory, keyring, journal, clock, certificate, nonces, addresses[0])
    node, front = parts.node, parts.front
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in bound]
    gc.freeze()  # these objects stay; collections need not scan them
    gc.set_threshold(*GC_THRESHOLDS)
    async with trio.open_nursery() as nodes:
        await nodes.start(node.run)
        nodes.start_soon(parts.watch.run)
        reloader = parts.reloader(settings, reread, certificate)
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
                drain = Drain(len(node.clients), node.drain_seconds)
                await front.last_call()
                intake.cancel_scope.cancel()
            for listener in listeners:
                await listener.aclose()
            with trio.move_on_after(node.drain_seconds):
                front.drain()
                await node.drain()
                await front.ended()
            drain.tell_end(node.left)
            connections.cancel_scope.cancel()
        node.close()
        front.close()
        nodes.cancel_scope.cancel()
    try:
        node.end()
    except JournalUnavailable as error:
        LOGGER.error("the newest statistics are lost: %s", error)
    nonces.close()
    return 0


async def _watch_signals(
    stop: trio.Event, reload: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first signal ends the server in order. A second one ends it at once; the journal is safe."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                if not stop.is_set():  # a server that is about to end need not reload
                    reload()
            elif stop.is_set():
                os._exit(1)
            else:
                stop.set()
