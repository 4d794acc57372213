"""From statistics to the range that 8 bits represent.

- `minmax`: the largest magnitude seen. Nothing saturates; one outlier makes every step coarser.
- `entropy`: the threshold whose clipped and quantized distribution is closest to the observed one in
  Kullback-Leibler divergence, as TensorRT's calibrator chooses it (S. Migacz, "8-bit Inference with
  TensorRT", GTC 2017): for each candidate of i bins, P is the histogram up to i with everything beyond
  added to its last bin; Q is that histogram without the addition, summed into 128 groups (of whole bins, as
  equal as can be) and spread evenly over the bins of each group that P occupies; both are scaled to sum 1,
  and the i with the least Σ P log(P / Q) wins. Of equals the largest: a tensor of a few distinct values
  would otherwise be clipped to the smallest of them, where P and Q are a single bin.
- `percentile`: the magnitude below which 99.99 % of the values lie.
- `mse`: the threshold that leaves the smallest mean squared error between x and its quantized value, clipping
  included, of 64 thresholds from a fifth of the largest magnitude up to it.

`auto` chooses among these, tensor by tensor: see `edgecnn.calibration.selection`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgecnn.calibration.observers import TensorStats
from edgecnn.quantization import LEVELS, ActivationRange

__all__ = [
    "METHODS",
    "SMALLEST_AMAX",
    "Method",
    "choose_range",
    "entropy_threshold",
    "mse_threshold",
    "percentile_threshold",
]

Method = Literal["minmax", "entropy", "percentile", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

SMALLEST_AMAX = float(np.finfo(np.float32).tiny) * 2**10
"""Below this a float32 scale amax / 127 would be denormal, which some processors flush to zero."""

_GROUPS = 128
_FINEST = 2048
_PERCENTILE = 0.9999
_SHARES = np.linspace(0.2, 1.0, 64)
_EQUAL = 1e-9  # of a divergence: what float64 leaves of zero in a sum of 2048 terms


def choose_range(stats: TensorStats, method: Method) -> ActivationRange:
    """The range of one tensor; all methods but `minmax` need statistics with a histogram.

    A tensor that was always zero gets amax 1, so that its scale is positive.
    """
    if stats.amax == 0:
        return ActivationRange(amax=1.0, low=0.0, high=0.0, method="constant")
    amax = stats.amax if method == "minmax" else min(_THRESHOLDS[method](stats), stats.amax)
    return ActivationRange(amax=max(amax, SMALLEST_AMAX), low=stats.low, high=stats.high, method=method)


def entropy_threshold(stats: TensorStats) -> float:
    """The magnitude at which to clip; see the module's docstring.

    Raises:
        ValueError: the statistics hold no histogram.
    """
    counts, width = _used(stats), stats.bin_width
    while len(counts) > _FINEST:
        counts = np.pad(counts, (0, len(counts) % 2)).reshape(-1, 2).sum(axis=1)
        width *= 2
    histogram = counts.astype(np.float64)
    if len(histogram) > 1:
        # Zeros behind a ReLU are represented exactly at any threshold, and would drown all the rest.
        histogram[0] = histogram[1]
    if len(histogram) <= _GROUPS:
        return len(histogram) * width
    divergences = _divergences(histogram)
    best = np.flatnonzero(divergences <= divergences.min() + _EQUAL)[-1]
    return (_GROUPS + int(best)) * width


def percentile_threshold(stats: TensorStats) -> float:
    """The magnitude that one value in ten thousand exceeds, to the next border of a bin.

    Raises:
        ValueError: the statistics hold no histogram.
    """
    below = np.cumsum(_used(stats))
    return (int(np.searchsorted(below, _PERCENTILE * below[-1])) + 1) * stats.bin_width


def mse_threshold(stats: TensorStats) -> float:
    """The magnitude at which to clip for the smallest mean squared error; a bin's values count as its middle.

    Raises:
        ValueError: the statistics hold no histogram.
    """
    counts = _used(stats).astype(np.float64)
    values = (np.arange(len(counts)) + 0.5) * stats.bin_width
    thresholds = stats.amax * _SHARES
    scales = thresholds / LEVELS
    steps = np.minimum(np.rint(values / scales[:, None]), LEVELS)
    errors = ((steps * scales[:, None] - values) ** 2) @ counts
    # Of equals the largest, as above.
    return float(thresholds[np.flatnonzero(errors <= errors.min() * (1 + _EQUAL))[-1]])


_THRESHOLDS: dict[str, Callable[[TensorStats], float]] = {
    "entropy": entropy_threshold,
    "percentile": percentile_threshold,
    "mse": mse_threshold,
}


def _used(stats: TensorStats) -> NDArray[np.int64]:
    """The histogram up to its last bin that is not empty."""
    if stats.counts is None:
        raise ValueError("this threshold needs a histogram")
    return stats.counts[: int(np.flatnonzero(stats.counts)[-1]) + 1]


def _divergences(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ P log(P / Q) for each number of bins from `_GROUPS` on, from sums over each group: (candidates,)."""
    ends = np.arange(_GROUPS, len(histogram) + 1)
    borders = np.arange(_GROUPS + 1) * ends[:, None] // _GROUPS

    def in_groups(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.diff(np.append(0.0, np.cumsum(values))[borders], axis=1)

    def x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values * np.log(np.where(values > 0, values, 1.0))

    last = histogram[ends - 1]
    beyond = histogram.sum() - np.cumsum(histogram)[ends - 1]
    sums = in_groups(histogram)
    members, mass = in_groups((histogram > 0).astype(np.float64)), sums.copy()
    entropy = in_groups(x_log_x(histogram))
    # What lies beyond is in P's last bin.
    members[:, -1] += (last == 0) & (beyond > 0)
    mass[:, -1] += beyond
    entropy[:, -1] += x_log_x(last + beyond) - x_log_x(last)
    level = np.divide(sums, members, out=np.zeros_like(sums), where=members > 0)
    total = sums.sum(axis=1)
    # the clipped mass can leave Q empty where P is not; a floor keeps the divergence finite and large
    log_q = np.log(np.maximum(level / np.where(total > 0, total, 1.0)[:, None], 1e-12))
    divergences = (entropy - mass * log_q).sum(axis=1) / histogram.sum() - np.log(histogram.sum())
    return np.where(total > 0, divergences, np.inf)
