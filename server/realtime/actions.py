"""Actions and flags of the realtime protocol, by number."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Action(IntEnum):
    HEARTBEAT = 0
    ACK = 1
    NACK = 2
    CONNECT = 3
    CONNECTED = 4
    DISCONNECT = 5
    DISCONNECTED = 6
    CLOSE = 7
    CLOSED = 8
    ERROR = 9
    ATTACH = 10
    ATTACHED = 11
    DETACH = 12
    DETACHED = 13
    PRESENCE = 14
    MESSAGE = 15
    SYNC = 16
    AUTH = 17
    ACTIVATE = 18
    OBJECT = 19
    OBJECT_SYNC = 20
    ANNOTATION = 21


class Flag:
    """Bits of ``flags``. Plain integers: ``&`` with an enum member takes 0.7 us, and an ATTACH does it many times."""

    HAS_PRESENCE: Final = 1 << 0
    HAS_BACKLOG: Final = 1 << 1
    RESUMED: Final = 1 << 2
    ATTACH_RESUME: Final = 1 << 5
    PRESENCE: Final = 1 << 16
    PUBLISH: Final = 1 << 17
    SUBSCRIBE: Final = 1 << 18
    PRESENCE_SUBSCRIBE: Final = 1 << 19
    ANNOTATION_PUBLISH: Final = 1 << 21
    ANNOTATION_SUBSCRIBE: Final = 1 << 22
    OBJECT_SUBSCRIBE: Final = 1 << 24
    OBJECT_PUBLISH: Final = 1 << 25
