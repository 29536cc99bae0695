"""Settings from the environment: UNBROKEN_KEY, UNBROKEN_LOG_LEVEL, UNBROKEN_LOG_FORMAT.

An unknown variable that begins with UNBROKEN_ is refused: an operator would notice a setting without effect too
late."""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.errors import StartupFailed
from engine.guess import did_you_mean
from engine.settings import LOG_FORMATS, LOG_LEVELS

PREFIX = "UNBROKEN_"
KNOWN = ("UNBROKEN_KEY", "UNBROKEN_LOG_LEVEL", "UNBROKEN_LOG_FORMAT")
OPTIONS = ("--listen", "--data", "--config", "--dev", "--durability", "--tls-cert", "--tls-key", "--tls-ended-by-proxy")
OTHERS = ("UNBROKEN_CFLAGS", "UNBROKEN_LDFLAGS", "UNBROKEN_REQUIRE_SDK")  # of the build and the tests
# Kubernetes gives every container of a namespace some, for each service there: one may be called unbroken.
_OF_KUBERNETES = re.compile(r"UNBROKEN_(SERVICE_(HOST|PORT(_.*)?)|PORT_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)")


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises: StartupFailed, for an unknown variable that begins with UNBROKEN_."""
    for name, value in environment.items():
        if not name.startswith(PREFIX) or name in (*KNOWN, *OTHERS) or _OF_KUBERNETES.fullmatch(name):
            continue
        if name == "UNBROKEN_PORT" and "://" in value:  # that is theirs, too
            continue
        hint = did_you_mean(name, [*KNOWN, *OPTIONS])
        raise StartupFailed(f"{name}: unknown variable; known variables are {', '.join(KNOWN)}{hint}")


def log_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The log settings of the environment. Raises: StartupFailed."""
    found = {}
    for name, words in (("log_level", LOG_LEVELS), ("log_format", LOG_FORMATS)):
        variable = PREFIX + name.upper()
        value = environment.get(variable)
        if not value:
            continue
        if value not in words:
            hint = did_you_mean(value, words)
            raise StartupFailed(f"{variable}: must be one of {', '.join(words)}, got {value[:40]!r}{hint}")
        found[name] = value
    return found
