"""Shares of resources common to all apps, counted by app, so that no app can take all of them.

    taken    by all of them together: ``most`` at most      share_of (ext/log/common.pyx): 7 times the free rest
    own      by one app: its share at most, or its quota

The loops that use message ids count those (ext/log/sequence.pyx); channels and connections are counted where they
live."""

from __future__ import annotations

from engine.errors import LimitExceeded
from ext.log.common import share_of


class CountByApp:
    """The number of some resource in use, in total and by app."""

    __slots__ = ("_of", "now")

    def __init__(self) -> None:
        self.now = 0
        self._of: dict[str, int] = {}

    def of(self, app_id: str) -> int:
        return self._of.get(app_id, 0)

    def count(self, app_id: str, change: int) -> None:
        """Add ``change`` to the count."""
        self.now += change
        own = self._of[app_id] = self._of.get(app_id, 0) + change
        if not own:
            del self._of[app_id]


def check_share(what: str, app_id: str, *, own: int, taken: int, most: int, shared: bool, quota: int = 0) -> None:
    """Check whether the app, which has ``own`` of all that are ``taken``, may have one more.

    Args:
        what: the word for them in an error.
        shared: there are other apps that may want some.
        quota: the app's limit instead of its share; 0: none.
    Raises: LimitExceeded 50004, to come back later; 42910, if the quota is exceeded.
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
