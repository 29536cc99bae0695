"""What the protocol has and the server has not: what asks for it (tests/sdk/asking.mjs, asking.py), and the answer.

    README.md      its table is made of ABSENT
    both SDKs      each of their asks has its answer

A name may stand for several, as in file names: ``presence.enter*``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

NOTHING = None  # it is not refused: the library asks the server for nothing that could be


@dataclass(frozen=True)
class Answers:
    """Codes, by library, where they differ."""

    js: int | None
    python: int | None


Answer = int | Answers | None

ABSENT: list[tuple[str, Answer, list[str]]] = [
    (
        "presence",
        40000,
        ["presence.enter*", "presence.update*", "presence.leave*", "mode presence*", "param remainPresentFor"],
    ),
    ("presence", 40400, ["presence.history", "REST presence.*", "batchPresence"]),
    ("presence", NOTHING, ["presence.get", "presence.subscribe", "transport param remainPresentFor"]),
    ("presence", 91008, ["presence.get with strictMode"]),
    ("occupancy", 40000, ["param occupancy"]),
    ("deltas", 40000, ["param delta"]),
    ("annotations", 40000, ["annotations.publish", "annotations.delete", "mode annotation_*"]),
    ("annotations", 40400, ["annotations.get", "REST annotations.*"]),
    ("annotations", Answers(js=93001, python=NOTHING), ["annotations.subscribe"]),
    ("mutable messages", 40000, ["updateMessage", "deleteMessage", "appendMessage", "param appendMode"]),
    ("mutable messages", 40400, ["getMessage*", "REST updateMessage", "REST deleteMessage", "REST appendMessage"]),
    ("push", 40032, ["publish with extras.push", "REST publish with extras.push", "batchPublish with extras.push"]),
    ("push", 40400, ["push.*"]),
    ("LiveObjects", 40000, ["mode object_*"]),
    ("LiveObjects", 40024, ["object.get"]),
    ("LiveObjects", 40400, ["REST object.get"]),
    ("filters, metachannels", 40010, ["channels.getDerived", "[[]meta] channels"]),
    ("comet", 40400, ["transport comet"]),
    ("server-sent events", 40400, ["GET /sse", "GET /event-stream"]),
]

NOT_IN_PYTHON = {
    "presence.history",
    "presence.get with strictMode",
    "batchPresence",
    "transport param remainPresentFor",
    "batchPublish with extras.push",
    "push.subscribeClient",
    "push.unsubscribeClient",
    "push.listSubscriptions",
    "push.admin.channelSubscriptions.remove",
    "object.get",
    "mode object_subscribe",
    "mode object_publish",
    "REST object.get",
    "channels.getDerived",
    "transport comet",
}


def asks(library: str) -> list[str]:
    """What its driver has a call for."""
    name, pattern = {"js": ("asking.mjs", r"^  '([^']+)':"), "python": ("asking.py", r'^    "([^"]+)": ')}[library]
    return re.findall(pattern, (Path(__file__).parent / name).read_text(), re.MULTILINE)


def stands_for(name: str, ask: str) -> bool:
    return fnmatchcase(ask, name)


def answer_to(ask: str, library: str) -> int | None:
    """The code with which it is answered. Raises: AssertionError, unless it is in the table, once."""
    found = [answer for _, answer, names in ABSENT if any(stands_for(name, ask) for name in names)]
    assert len(found) == 1, f"{ask!r} is in the table {len(found)} times"
    answer = found[0]
    if isinstance(answer, Answers):
        return answer.js if library == "js" else answer.python
    return answer


def readme_table() -> str:
    """The table for users."""
    rows = ["| feature | requested by | answer |", "| --- | --- | --- |"]
    for feature, answer, names in ABSENT:
        shown = ", ".join(f"`{name.replace('[[]', '[')}`" for name in names)
        rows.append(f"| {feature} | {shown} | {_shown(answer)} |")
    return "\n".join(rows) + "\n"


def _shown(answer: Answer) -> str:
    if isinstance(answer, Answers):
        return f"{_shown(answer.js)}; in Python {_shown(answer.python)}"
    return "nothing arrives" if answer is NOTHING else str(answer)
