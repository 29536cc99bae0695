"""What is known of client libraries, and cannot be told from the protocol. They say who they are when they connect.

    agent    "ably-js/2.28.0 nodejs/22.1.0 ..."      of the query, or of the header Ably-Agent: name/version, several

Who is not known here is served as the protocol allows any client to be."""

from __future__ import annotations

import re

AGENT_CHARACTERS = 256  # of what a client says of itself: more is not looked at

# Libraries that hand on what comes for a channel between an ATTACH of theirs and its ATTACHED, if they were attached to
# it before; and up to which version they have been looked at. ably-js stays attached meanwhile, on purpose (RTL16a of
# the libraries' specification); ably-python does not look at its state at all. Others go to attaching, and discard what
# comes then (RTL17); so may newer versions of these. docs/decisions/0024.
_HAND_ON = {"ably-js": (2,), "ably-python": (3, 1)}
_TOLD = re.compile(r"(?:^| )(ably-[a-z]+)/([0-9]{1,6})\.([0-9]{1,6})")


def discards_while_attaching(agent: str | None) -> bool:
    """May it have discarded what was on its way when it sent an ATTACH for a channel that it was attached to?"""
    found = _TOLD.search((agent or "")[:AGENT_CHARACTERS])
    if found is None or found[1] not in _HAND_ON:
        return True
    known = _HAND_ON[found[1]]
    return (int(found[2]), int(found[3]))[: len(known)] > known
