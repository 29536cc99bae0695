"""Slow readers, cuts and kills at once, plain and TLS: nothing is lost, repeated or out of order."""

from __future__ import annotations

import pytest

from tests.certificates import authority
from tests.upheaval import upheaval


# Python's own: a socket that was reset between ``connect`` and ``wrap_socket`` is left to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("way", ["plain", "tls"])
def test_a_round_of_slow_readers_cuts_and_kills_loses_nothing(make_server, channel, way):
    tls = authority() if way == "tls" else None
    server = make_server(arguments=tls.arguments if tls else ())
    report = upheaval(server, channel, seconds=5, kills=2, seed=10, tls=tls.client if tls else None)
    assert not report.faults, str(report)
    assert report.stored > 500
    assert report.delivered == 5 * report.stored, "each to each of the subscribers"
