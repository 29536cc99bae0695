"""The policies of channels: from their app's namespace, or else from the configuration.

app, name --namespace--> the app's own options, if it has any  --> Policy: durability, retention, series
                         else the configuration's"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.names import namespace
from engine.partition import Partition
from engine.policy import Policy
from engine.quota import Quota
from engine.settings import Namespace, Settings


class Policies:
    """The policies of all channels of a server."""

    def __init__(self, settings: Settings, of_apps: Mapping[str, Mapping[str, Namespace]]) -> None:
        """``of_apps``: the namespaces that apps were made with, by app and then by their id."""
        self._settings = settings
        self._of_apps = dict(of_apps)
        self._shared: dict[Policy, Policy] = {}  # a million channels share a few
        self.partition_for: Callable[[str], Partition]  # by durability; set before the first channel is opened

    def limit(self, settings: Settings) -> None:
        """Apply these settings to channels opened from now on; for open ones, see server/reconfigure.py."""
        self._settings = settings

    def of(self, app_id: str, name: str) -> Policy:
        """The policy of this channel."""
        space = namespace(name)
        options = self._of_apps.get(app_id, {}).get(space) or self._settings.namespaces.get(space)
        policy = self._made(options)
        return self._shared.setdefault(policy, policy)

    def home_of(self, app_id: str, name: str) -> tuple[Policy, Partition]:
        """The policy of this channel, and its partition."""
        policy = self.of(app_id, name)
        return policy, self.partition_for(policy.durability)

    def quota_of(self, app_id: str, name: str) -> Quota:
        """The quota of one channel, from its namespace or the general one."""
        return self._settings.channel_quota(name)

    def add_app(self, app_id: str, spaces: Mapping[str, Namespace]) -> None:
        self._of_apps[app_id] = spaces

    def remove_app(self, app_id: str) -> None:
        self._of_apps.pop(app_id, None)

    def _made(self, options: Namespace | None) -> Policy:
        settings = self._settings
        durability = (options.durability if options is not None else None) or settings.durability
        # In memory-only operation, apps may still have namespaces from earlier that ask for persistence.
        hours = options.persisted_hours if options is not None and durability != "memory" else 0
        window_ms = settings.limits.window_seconds * 1000
        partition, synced = self.partition_for(durability), durability == "synced"
        return Policy(
            durability=durability,
            retention=f"p{hours}" if hours else "w",
            retained_ms=max(hours * 3_600_000, window_ms),
            series=partition.series(synced=synced),
            lives=partition.lives(synced=synced),
        )
