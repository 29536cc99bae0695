"""Known behaviour of client libraries that the protocol does not reveal. A library identifies itself when it connects.

    agent    "ably-js/2.28.0 nodejs/22.1.0 ..."      of the query, or of the header Ably-Agent: name/version, several

An unknown library gets the behaviour that the protocol allows for any client."""

from __future__ import annotations

import re

AGENT_CHARACTERS = 256  # of a client's agent string; the rest is ignored

# Libraries that pass on messages received between their ATTACH and its ATTACHED, if they were already attached; with
# the major versions that were examined. ably-js stays attached meanwhile, by design (RTL16a of the libraries'
# specification); ably-python does not check its state at all. Others enter attaching and discard these messages
# (RTL17); newer versions of these two may as well. docs/decisions/0024.
_HAND_ON = {"ably-js": (2,), "ably-python": (3, 1)}
_TOLD = re.compile(r"(?:^| )(ably-[a-z]+)/([0-9]{1,6})\.([0-9]{1,6})")


def discards_while_attaching(agent: str | None) -> bool:
    """May the client discard messages that were in transit when it sent an ATTACH for an attached channel?"""
    found = _TOLD.search((agent or "")[:AGENT_CHARACTERS])
    if found is None or found[1] not in _HAND_ON:
        return True
    known = _HAND_ON[found[1]]
    return (int(found[2]), int(found[3]))[: len(known)] > known
