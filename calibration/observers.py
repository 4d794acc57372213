"""Statistics of a tensor over many frames, as values that are merged.

A histogram of |x| over [0, 2^k), where k grows when a larger value comes: doubling the range folds each
pair of bins into one, so bin edges always nest, every count stays exact, and merging is associative and
commutative. Memory is one histogram a tensor, however many frames there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "TensorStats", "merge", "observe"]

BINS = 4096


@dataclass(frozen=True, eq=False)
class TensorStats:
    """What was seen of one tensor.

    Attributes:
        low, high: smallest and largest value.
        exponent: the histogram covers [0, 2**exponent).
        counts: (BINS,) int64, how many |x| fell into each bin.
        not_finite: how many values were infinite or NaN; they are in nothing else.
    """

    low: float
    high: float
    exponent: int
    counts: NDArray[np.int64]
    not_finite: int = 0

    @property
    def amax(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def bin_width(self) -> float:
        """Width of one bin."""
        return math.ldexp(1.0, self.exponent) / BINS


def observe(values: NDArray[np.float32]) -> TensorStats:
    """Statistics of one array of any shape."""
    flat = values.reshape(-1)
    low, high = (float(flat.min()), float(flat.max())) if flat.size else (0.0, 0.0)
    not_finite = 0
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = flat[np.isfinite(flat)]
        not_finite = flat.size - finite.size
        flat = finite
        low, high = (float(flat.min()), float(flat.max())) if flat.size else (0.0, 0.0)
    exponent = math.frexp(max(abs(low), abs(high)))[1]  # amax < 2**exponent
    # A power of two times a float32 is exact, so no value lands beyond the last bin.
    bins = np.abs(flat)
    bins *= np.float32(math.ldexp(BINS, -exponent)) if exponent > -100 else np.float32(0)
    counts = np.bincount(bins.astype(np.int32), minlength=BINS).astype(np.int64)
    return TensorStats(low, high, exponent, counts, not_finite)


def merge(first: TensorStats, second: TensorStats) -> TensorStats:
    """Statistics of both together."""
    exponent = max(first.exponent, second.exponent)
    return TensorStats(
        min(first.low, second.low),
        max(first.high, second.high),
        exponent,
        _folded(first, exponent) + _folded(second, exponent),
        first.not_finite + second.not_finite,
    )


def _folded(stats: TensorStats, exponent: int) -> NDArray[np.int64]:
    """The counts over [0, 2**exponent)."""
    doublings = exponent - stats.exponent
    if doublings == 0:
        return stats.counts
    folded = np.zeros(BINS, np.int64)
    kept = max(1, BINS >> doublings)
    folded[:kept] = stats.counts.reshape(kept, -1).sum(axis=1)
    return folded


