"""The soak's short form, some seconds of the same churn; and the line by which it tells growth from noise."""

import random
from pathlib import Path

import pytest

from bench.soak import CROWD, Churn, Sample, growth, sample, verdict
from tests.harness import Server

# Everything that is kept for a while is kept for a second, and rings are full at once: what grows then is a leak.
# Message ids are let go of every ten seconds only: that is up to 1,000 bytes for each connection, with its 27 messages.
CONFIG = """\
durability = "memory"
[limits]
window_seconds = 1
connection_state_seconds = 1
max_idle_interval_ms = 1000
ring_bytes_per_channel = 16384
"""
WARM, CAME = 1_800, 1_200  # connections
MOST_BYTES = 1_700  # for each connection that came and went. One that is kept adds 3,000; only its buffer, 1,000


def rounds_until(churn: Churn, connections: int) -> None:
    while churn.connections < connections:
        churn.round()


def test_connections_that_came_and_went_leave_nothing_behind(tmp_path: Path) -> None:
    with Server(tmp_path, config=CONFIG) as server:
        with Churn(server.address, seed=5, channels=8) as churn:
            rounds_until(churn, WARM)
            before = sample(server, churn, 0)
            rounds_until(churn, WARM + CAME)
            after = sample(server, churn, 1)
        came = after.connections - before.connections
        assert (after.rss - before.rss) / came < MOST_BYTES
        assert after.descriptors - before.descriptors <= 2 * CROWD  # of those that have just gone
        assert after.threads - before.threads <= 2
        assert server.complaints() == ""


def samples(mb_per_hour: float, noise_mb: float) -> list[Sample]:
    choice = random.Random(3)
    return [
        Sample(n, int(1e8 + mb_per_hour * 1e6 * n / 3600 + choice.gauss(0, noise_mb * 1e6)), 30, 5, 1.0, 2.0, n, n)
        for n in range(1200)
    ]


@pytest.mark.parametrize(
    ("mb_per_hour", "noise_mb", "says"),
    [(0, 0.3, "flat"), (-50, 0.3, "flat"), (60, 0.3, "IT GROWS"), (60, 40, "not clear"), (0, 40, "not clear")],
)
def test_verdict_tells_growth_from_noise_or_says_unknown(mb_per_hour, noise_mb, says):
    text, numbers = verdict(samples(mb_per_hour, noise_mb))
    assert text.endswith(says) or f": {says}" in text
    assert abs(numbers["mb_per_hour"] - mb_per_hour) <= 2 * numbers["plus_minus"]


def test_a_line_is_found_with_its_error():
    slope, error = growth([(x, 3 * x + 5) for x in range(10)])
    assert (round(slope, 9), round(error, 9)) == (3, 0)
    # By hand: slope 0.5, residuals 0.25 -0.25 -0.25 0.25, their squares 0.25 over 2 and over a spread of 5
    slope, error = growth([(0, 0.25), (1, 0.25), (2, 0.75), (3, 1.75)])
    assert slope == pytest.approx(0.5)
    assert error == pytest.approx(4.30 * (0.25 / 2 / 5) ** 0.5, rel=0.04)
    with pytest.raises(ValueError, match="3 points"):
        growth([(0, 0), (1, 1)])
