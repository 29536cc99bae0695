"""Capabilities, plainly: every resource against every name, one segment after the other."""

from collections.abc import Mapping

Resources = Mapping[str, tuple[str, ...]]


def split(text: str) -> tuple[str, list[str]]:
    qualifier = ""
    if text.startswith("[") and "]" in text:
        qualifier, text = text[: text.index("]") + 1], text[text.index("]") + 1 :]
    return qualifier, text.split(":")


def without_params(channel: str) -> str:
    """[?rewind=1]room is room; [meta?x=1]log is [meta]log; [filter=abc]room is [filter]room."""
    qualifier, segments = split(channel)
    kind = qualifier[1:-1].partition("?")[0].partition("=")[0]
    return (f"[{kind}]" if kind else "") + ":".join(segments)


def matches(resource: str, channel: str) -> bool:
    if resource == "[*]*":
        return True
    resource_qualifier, pattern = split(resource)
    qualifier, name = split(without_params(channel))
    if resource_qualifier != qualifier:
        return False
    if not pattern or not name:
        return False
    return segments_match(pattern, name)


def segments_match(pattern: list[str], name: list[str]) -> bool:
    if pattern == ["*"]:
        return len(name) >= 1
    if not pattern or not name:
        return not pattern and not name
    return (pattern[0] in ("*", name[0])) and segments_match(pattern[1:], name[1:])


def allowed(resources: Resources, channel: str, every: frozenset[str]) -> frozenset[str]:
    """The operations of all resources that match."""
    found: set[str] = set()
    for resource, operations in resources.items():
        if matches(resource, channel):
            found |= every if "*" in operations else set(operations)
    return frozenset(found)
