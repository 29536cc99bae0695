"""What all apps of a server share, counted by app: so that none takes so much of it that another finds nothing.

    taken    all of them together: ``most`` at most           share_of (ext/log/common.pyx): 7 times what is left free
    own      one app's: its share at most, or its quota

Message ids are counted by the loops that take them (ext/log/sequence.pyx), channels and connections where they live."""

from __future__ import annotations

from engine.errors import LimitExceeded
from ext.log.common import share_of


class CountByApp:
    """How many of something there are, in all and of each app."""

    __slots__ = ("_of", "now")

    def __init__(self) -> None:
        self.now = 0
        self._of: dict[str, int] = {}

    def of(self, app_id: str) -> int:
        return self._of.get(app_id, 0)

    def count(self, app_id: str, change: int) -> None:
        """So many more, or less."""
        self.now += change
        own = self._of[app_id] = self._of.get(app_id, 0) + change
        if not own:
            del self._of[app_id]


def check_share(what: str, app_id: str, *, own: int, taken: int, most: int, shared: bool, quota: int = 0) -> None:
    """May the app, which has ``own`` of all that are ``taken``, have one more?

    Args:
        what: they are called in a refusal.
        shared: there are other apps that may want some.
        quota: what it may have in place of its share; 0: it has none.
    Raises: LimitExceeded 50004, to come back later; 42910, if it is for the quota.
    """
    if taken >= most:
        told = f"the server has {most} {what}, the maximum; try again when there are fewer"
        raise LimitExceeded(told, code=50004, status=503)
    if quota and own >= quota:
        told = f"app {app_id} has {own} {what}, the maximum; try again when there are fewer"
        raise LimitExceeded(told, code=42910)
    if shared and not quota and own + 1 > share_of(most, taken + 1):
        told = f"app {app_id} has {own} {what}, its share of {most}; try again when there are fewer"
        raise LimitExceeded(told, code=50004, status=503)
