"""`python -m bench.tls`: a run over TLS is measured, a failed one is told, and the table shows both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import tls


@pytest.mark.parametrize("secure", [False, True])
def test_run_yields_the_servers_cpu(tmp_path, secure):
    row = tls.Row("one pair", ("--publishers=1", "--subscribers=1", "--warmup=0.1"), tls.DELIVERY)
    assert tls.measure(row, tmp_path, tls=secure, seconds=0.3) > 0


def test_failed_run_is_told_with_its_row(tmp_path):
    row = replace(tls.ROWS[0], arguments=("--publishers=none",))
    with pytest.raises(tls.Failed, match=f"{row.title}: .*publishers"):
        tls.measure(row, tmp_path, tls=False)


def test_table_has_medians_ranges_and_the_difference():
    found = {
        "pairs": {"plain": [4.0, 5.0, 9.0], "tls": [8.0, 7.5, 7.0]},
        "memory": {"plain": [1250.0], "tls": [22000.0]},
    }
    assert tls.table(found).splitlines()[2:] == [
        "| pairs | 5 (4 to 9) | 7.5 (7 to 8) | 2.5 |",
        "| memory | 1,250 (1,250 to 1,250) | 22,000 (22,000 to 22,000) | 20,750 |",
    ]
