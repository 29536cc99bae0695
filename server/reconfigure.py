"""Reloads the configuration at SIGHUP, and the certificate whenever its files change.

    SIGHUP --> read, checked, certificate loaded --anything is wrong--> the log says so, and nothing has changed
                              |  (threads)
                              v
               all switchable settings (engine/reloading.py), in one step, including keys and their clients
                              |
                              v
               channels in memory: their quotas, and their class in the journal, some at a time

Connections stay open. The certificate applies to new handshakes, limits of newcomers to new connections. One task does
all of it, so two reloads never overlap."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from engine.channel import Channel
from engine.errors import JournalUnavailable, StartupFailed
from engine.hub import Hub
from engine.journal.port import Journal
from engine.reloading import Merged, as_written, merged
from engine.settings import Settings
from server import descriptors
from server.certificate import Certificate, Stamp, load_certificate, stamp_of
from server.keywatch import KeyWatch
from server.logs import facts
from server.node.policies import Policies
from server.node.turn import Turn
from server.rest.api import Rest
from server.systemd import notify, notify_reloading
from server.transport.front import Front

LOGGER = logging.getLogger("unbroken.reload")

LOOK_SECONDS = 2.0  # between looks at the certificate's files
CHANNELS_AT_ONCE = 500  # refitted in one go: about 2 ms
NOT_TAKEN = "the configuration was not applied, nothing has changed"
IN_CHANGE = "in change: "  # before a layout that may not hold for all that is stored: no start takes it for its own


class Reloader:
    """Reloads one server; call ``run`` in a nursery."""

    def __init__(
        self,
        settings: Settings,
        reread: Callable[[], Settings],
        limit: Callable[[Settings], None],
        front: Front,
        rest: Rest,
        watch: KeyWatch,
        certificate: Certificate | None,
        *,
        hub: Hub,
        policies: Policies,
        journal: Journal,
        turn: Turn,
        keeps: bool,
    ) -> None:
        """
        Args:
            settings: those in force, as at the start.
            limit: has the node go by others.
            keeps: there is a journal that keeps what is stored.
        """
        self.settings = settings
        self._reread = reread
        self._limit = limit
        self._front = front
        self._rest = rest
        self._watch = watch
        self._certificate = certificate
        self._hub = hub
        self._policies = policies
        self._journal = journal
        self._turn = turn
        self._keeps = keeps
        self._asked = trio.Event()
        self._seen: Stamp = None  # of files that have changed, at the last look: they may still be written to
        self._refused: object = object()  # the stamp of files that can't be used, which was said
        self._layout_after: int | None = None  # the layout is to be noted once all up to this serial are stored

    def ask(self) -> None:
        """Request a reload of the configuration."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                await self._asked.wait()
            if self._asked.is_set():
                self._asked = trio.Event()
                notify_reloading()
                try:
                    await self._reload()
                finally:
                    notify("READY=1")
            else:
                await self._look()
            await self._note_layout()

    async def _reload(self) -> None:
        try:
            wanted = await trio.to_thread.run_sync(self._reread)
            certificate = await trio.to_thread.run_sync(load_certificate, wanted)
            await self._watch.look()  # a key that the configuration gives up may be the file's as well
            found = self._merged(wanted)
            descriptors.raise_limit(found.settings.limits.connections)
            if found.settings.layout != self.settings.layout:
                # Before anything is stored by the new one. It is noted for good once nothing is stored by the old one.
                await trio.to_thread.run_sync(self._journal.relayout, IN_CHANGE + found.settings.layout)
                self._layout_after = self._hub.kept.sequencer.clock.last
                found = self._merged(wanted)  # others may have come into use meanwhile
        except (StartupFailed, JournalUnavailable) as error:
            LOGGER.error("%s: %s", NOT_TAKEN, error, extra=facts("reload_refused", reason=str(error)))
            return
        except Exception:  # a bug in what only reads and checks ends no server
            LOGGER.exception(NOT_TAKEN)
            return
        before = self.settings
        self._switch(found.settings, certificate)
        for left in found.left:
            LOGGER.warning("%s", left, extra=facts("setting_left", setting=left.name, reason=left.why))
        await self._refit(before, found.settings)
        if self._layout_after is not None:
            self._layout_after = self._hub.kept.sequencer.clock.last
        changed = [as_written(name) for name in found.changed]
        LOGGER.info(
            "reloaded: %s", ", ".join(changed) or "no setting has changed", extra=facts("reload", changed=changed)
        )

    def _merged(self, wanted: Settings) -> Merged:
        hub = self._hub

        def in_use(space: str) -> bool:
            return any(hub.names.after(app_id, f"{space}:", "", 1) for app_id in hub.meters)

        return merged(self.settings, wanted, in_use=in_use, keeps=self._keeps)

    def _switch(self, settings: Settings, certificate: Certificate | None) -> None:
        """Apply the new settings in one step: nobody sees a part of them."""
        bounds = settings.limits
        self.settings = settings
        self._limit(settings)
        logging.getLogger().setLevel(settings.log_level.upper())
        self._front.limit(bounds)
        self._take(certificate)
        self._watch.configure(settings.keys)  # with this clients, too, get their limits
        self._turn.end()

    def _take(self, certificate: Certificate | None) -> None:
        if certificate is not None and self._certificate is not None:  # else it waits for a restart
            self._certificate = certificate
            self._front.certify(certificate.context)

    async def _refit(self, before: Settings, settings: Settings) -> None:
        """Apply the current namespaces to the channels in memory."""
        spaces = {*before.namespaces, *settings.namespaces}
        changed = sorted(f"{name}:" for name in spaces if before.namespaces.get(name) != settings.namespaces.get(name))
        prefixes = [""] if before.general_quota("channel") != settings.general_quota("channel") else changed
        hub = self._hub
        for app_id in list(hub.meters) if prefixes else ():
            for prefix in prefixes:
                last = ""
                while names := hub.names.after(app_id, prefix, last, CHANNELS_AT_ONCE):
                    for name in names:
                        self._refit_one(hub.channels[f"{app_id}:{name}"], before)
                    last = names[-1]
                    self._turn.end()
                    await trio.lowlevel.checkpoint()

    def _refit_one(self, channel: Channel, before: Settings) -> None:
        policy = self._policies.of(channel.app_id, channel.name)
        if policy.retention != channel.policy.retention:
            channel.promise(policy)
        quota = self.settings.channel_quota(channel.name)
        if quota != before.channel_quota(channel.name):
            channel.limit(quota)

    async def _note_layout(self) -> None:
        """Note the new layout once all earlier entries are stored: it is then true for all later ones."""
        if self._layout_after is None:
            return
        if self._journal.head() < self._layout_after and (len(self._hub.kept.sequencer) or self._turn.busy):
            return
        try:
            await trio.to_thread.run_sync(self._journal.relayout, self.settings.layout)
        except JournalUnavailable as error:
            LOGGER.warning("the layout of namespaces will be written later: %s", error)
            return
        self._layout_after = None

    async def _look(self) -> None:
        """Load a certificate whose files have changed, once they stay unchanged for one look."""
        if self._certificate is None:
            return
        stamp = stamp_of(self.settings)
        if stamp in (self._certificate.stamp, self._refused):
            return
        if stamp != self._seen:
            self._seen = stamp
            return
        try:
            certificate = await trio.to_thread.run_sync(load_certificate, self.settings)
        except StartupFailed as error:
            self._refused = stamp
            LOGGER.error("the certificate was not reloaded: %s", error)
            return
        self._take(certificate)
        LOGGER.info("reloaded: the certificate, whose files have changed", extra=facts("certificate_reload"))
