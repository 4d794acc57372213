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
_SMALLEST_EXPONENT = -100
"""Below 2**-100 everything is in the first bin: beyond it, the factor to a bin's number overflows float32."""


@dataclass(frozen=True, eq=False)
class TensorStats:
    """What was seen of one tensor.

    Attributes:
        low, high: smallest and largest value; infinite the wrong way round where nothing was seen.
        exponent: the histogram covers [0, 2**exponent).
        counts: (BINS,) int64, how many |x| fell into each bin; None where no histogram was asked for.
        not_finite: how many values were infinite or NaN; they are in nothing else.
    """

    low: float
    high: float
    exponent: int
    counts: NDArray[np.int64] | None
    not_finite: int = 0

    @property
    def amax(self) -> float:
        """The largest magnitude; 0 where nothing was seen."""
        return max(-self.low, self.high, 0.0)

    @property
    def bin_width(self) -> float:
        """Width of one bin."""
        return math.ldexp(1.0, self.exponent) / BINS


def observe(values: NDArray[np.float32], *, histogram: bool = True) -> TensorStats:
    """Statistics of one array of any shape. Without the histogram it takes a fifth of the time."""
    flat = values.reshape(-1)
    low, high = _extremes(flat)
    not_finite = 0
    if flat.size and not (math.isfinite(low) and math.isfinite(high)):
        finite = flat[np.isfinite(flat)]
        not_finite = flat.size - finite.size
        flat = finite
        low, high = _extremes(flat)
    amax = max(-low, high, 0.0)
    exponent = (
        max(math.frexp(amax)[1], _SMALLEST_EXPONENT) if amax else _SMALLEST_EXPONENT
    )  # amax < 2**exponent
    counts = None
    if histogram:
        # A power of two times a float32 is exact, so no value lands beyond the last bin.
        bins = np.abs(flat)
        bins *= np.float32(math.ldexp(BINS, -exponent))
        counts = np.bincount(bins.astype(np.int32), minlength=BINS).astype(np.int64)
    return TensorStats(low, high, exponent, counts, not_finite)


def merge(first: TensorStats, second: TensorStats) -> TensorStats:
    """Statistics of both together; without a histogram where one of them has none."""
    exponent = max(first.exponent, second.exponent)
    ours, theirs = _folded(first, exponent), _folded(second, exponent)
    return TensorStats(
        min(first.low, second.low),
        max(first.high, second.high),
        exponent,
        None if ours is None or theirs is None else ours + theirs,
        first.not_finite + second.not_finite,
    )


def _extremes(flat: NDArray[np.float32]) -> tuple[float, float]:
    return (float(flat.min()), float(flat.max())) if flat.size else (math.inf, -math.inf)


def _folded(stats: TensorStats, exponent: int) -> NDArray[np.int64] | None:
    """The counts over [0, 2**exponent)."""
    doublings = exponent - stats.exponent
    if doublings == 0 or stats.counts is None:
        return stats.counts
    folded = np.zeros(BINS, np.int64)
    kept = max(1, BINS >> doublings)
    folded[:kept] = stats.counts.reshape(kept, -1).sum(axis=1)
    return folded
