from __future__ import annotations

from edgecnn.timing import percentiles_ms


def test_known_percentiles() -> None:
    assert percentiles_ms([float(value) for value in range(1, 102)]) == {
        "p50": 51,
        "p90": 91,
        "p99": 100,
        "mean": 51,
    }


def test_rounded_to_a_microsecond() -> None:
    assert percentiles_ms([1.23456, 1.23456]) == {"p50": 1.235, "p90": 1.235, "p99": 1.235, "mean": 1.235}
