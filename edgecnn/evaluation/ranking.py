"""How well a score separates what is wanted (positive) from what is not.

AUROC is the share of pairs of a positive and a negative in which the positive scores higher, equal scores
counted half (Mann and Whitney's U). Average precision is Σ (recallₙ − recallₙ₋₁) · precisionₙ over
thresholds, without interpolation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScoreHistogram", "auroc", "average_precision", "roc", "thinned"]

BITS = 20  # of a float32's 32: sign, exponent and 11 bits of the fraction
MOST_POINTS = 1000


class ScoreHistogram:
    """Counts of scores of any range, in memory that does not grow: scores that differ by less than 1/2000 of
    their size may be taken for equal.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, 1 << BITS), np.int64)

    def add(self, scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> None:
        """Take in finite scores, with whether each is a positive."""
        bits = (np.ascontiguousarray(scores, np.float32) + np.float32(0)).view(np.uint32)  # −0 becomes 0
        # negative floats count backwards: so the order of the integers is that of the numbers
        ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)) >> (32 - BITS)
        for row, chosen in enumerate((~positive, positive)):
            self._counts[row] += np.bincount(ordered[chosen], minlength=1 << BITS)

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Negatives and positives of each score that there was, the lowest first."""
        there = self._counts.any(axis=0)
        return self._counts[0][there], self._counts[1][there]


def _counted(
    scores: NDArray[np.floating], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    values, place = np.unique(scores, return_inverse=True)
    return (
        np.bincount(place[~positive], minlength=len(values)),
        np.bincount(place[positive], minlength=len(values)),
    )


def auroc(
    scores: NDArray[np.floating] | ScoreHistogram, positive: NDArray[np.bool_] | None = None
) -> float | None:
    """In [0, 1]; None without positives or without negatives."""
    negatives, positives = _of(scores, positive)
    total = int(negatives.sum()) * int(positives.sum())
    if not total:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / total)


def average_precision(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float | None:
    """In [0, 1]; None without positives."""
    negatives, positives = (counts[::-1] for counts in _counted(scores, positive))
    if not positives.sum():
        return None
    hits = np.cumsum(positives)
    return float((positives / positives.sum() * hits / (hits + np.cumsum(negatives))).sum())


def roc(
    scores: NDArray[np.floating] | ScoreHistogram, positive: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False positive rates and true positive rates over all thresholds, from (0, 0) to (1, 1)."""
    negatives, positives = (counts[::-1] for counts in _of(scores, positive))
    first, second = (np.concatenate([[0], np.cumsum(c)]) / max(1, c.sum()) for c in (negatives, positives))
    return first, second


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A curve with as many of its points as a picture can show, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
    return x[chosen], y[chosen]


def _of(
    scores: NDArray[np.floating] | ScoreHistogram, positive: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if isinstance(scores, ScoreHistogram):
        return scores.counts()
    assert positive is not None
    return _counted(scores, positive)
