"""Latencies as people report them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["percentiles_ms"]


def percentiles_ms(samples_ms: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """`p50`, `p90`, `p99` and `mean` of latencies in milliseconds, rounded to a microsecond."""
    p50, p90, p99 = np.percentile(samples_ms, [50, 90, 99])
    values = {"p50": p50, "p90": p90, "p99": p99, "mean": np.mean(samples_ms)}
    return {name: round(float(value), 3) for name, value in values.items()}
