"""The published Python client against the running server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sdk.contract import SdkContract
from tests.sdk.driving import PYTHON, python_missing

pytestmark = pytest.mark.sdk


class TestPython(SdkContract):
    command = PYTHON
    # After a reconnection its list of unanswered publishes is out of order if more were queued meanwhile. It goes by
    # the count in an ACK, so serials come back from the wrong calls, or not at all.
    pairs_acks_after_a_cut = False
    # For the same reason: what was in flight may be sent again only behind hundreds of newer ones (seen on the wire).
    resends_in_order = False
    recovers_channels = False  # the library has no recovery keys; a connection is continued by a transport parameter

    @staticmethod
    def missing() -> str | None:
        return python_missing()

    @staticmethod
    def recovery(key: str, connection_key: str) -> dict[str, Any]:
        return {"transportParams": {"recover": connection_key}}
