"""How far two runs of the same network agree, output by output.

With r the reference and y the other, over all elements of all inputs:

    max_abs_error   max |r − y|
    relative_error  max |r − y| / (max r − min r)
    sqnr_db         10 log10( Σ r² / Σ (r − y)² )
    cosine          Σ r·y / sqrt( Σ r² · Σ y² )

Where the reference is zero everywhere, sqnr_db is 0 and cosine 0 unless the other is zero too.

An integer or boolean output (a class map, a mask) is compared element by element, and `relative_error` is
the fraction that differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.export.result import OutputParity

__all__ = ["Comparison", "relative_error", "top1_agreement"]


class Comparison:
    """Adds up one output over several inputs; nothing is kept but sums."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._max_abs_error = 0.0
        self._lowest, self._highest = math.inf, -math.inf
        self._signal = self._noise = self._power = self._product = 0.0
        self._elements = self._different = 0
        self._exact = False  # integers and booleans

    def add(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        """Compare one tensor with another of the same shape."""
        self._exact = not np.issubdtype(reference.dtype, np.floating)
        self._elements += reference.size
        self._different += int(np.count_nonzero(reference != other))
        if reference.size == 0:
            return
        r, y = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        error = r - y
        worst = float(np.abs(error).max())
        self._max_abs_error = max(self._max_abs_error, math.inf if math.isnan(worst) else worst)
        self._lowest, self._highest = min(self._lowest, float(r.min())), max(self._highest, float(r.max()))
        self._signal += float(r @ r)
        self._noise += float(error @ error)
        self._power += float(y @ y)
        self._product += float(r @ y)

    @property
    def relative_error(self) -> float:
        """See the module's docstring; infinite where the other run gave no number."""
        if self._exact:
            return self._different / self._elements if self._elements else 0.0
        return _relative(self._max_abs_error, self._lowest, self._highest)

    def result(self) -> OutputParity:
        """The four numbers, rounded to what is meaningful, so that reports can be compared by eye."""
        norm = math.sqrt(self._signal * self._power)
        cosine = self._product / norm if norm > 0 else float(self._noise == 0)
        sqnr_db = None
        if self._noise > 0:
            sqnr_db = round(10 * math.log10(self._signal / self._noise), 1) if self._signal > 0 else 0.0
        return OutputParity(
            name=self.name,
            max_abs_error=_three_digits(self._max_abs_error),
            relative_error=_three_digits(self.relative_error),
            sqnr_db=sqnr_db,
            cosine=round(cosine, 7),
        )


def relative_error(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """`relative_error` of one pair of tensors."""
    comparison = Comparison("")
    comparison.add(reference, other)
    return comparison.relative_error


def top1_agreement(reference: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    """Fraction of images whose largest score is at the same class; each array is (N, …classes)."""
    same = [
        (r.reshape(len(r), -1).argmax(axis=1) == y.reshape(len(y), -1).argmax(axis=1))
        for r, y in zip(reference, other, strict=True)
    ]
    return round(float(np.concatenate(same).mean()), 4)


def _relative(max_abs_error: float, lowest: float, highest: float) -> float:
    if max_abs_error == 0:
        return 0.0
    # A constant output has no range: its own size is the scale then, and 1 for zeros.
    scale = highest - lowest or max(abs(lowest), abs(highest)) or 1.0
    return max_abs_error / scale


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
