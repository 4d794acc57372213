from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgecnn.calibration.observers import BINS, TensorStats, merge, observe

_floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
_arrays = hnp.arrays(np.float32, st.integers(0, 30), elements=_floats)
_stats = st.builds(observe, _arrays)


def same(first: TensorStats, second: TensorStats) -> bool:
    plain = [(s.low, s.high, s.exponent, s.not_finite) for s in (first, second)]
    counts: list[Any] = [first.counts, second.counts]
    return plain[0] == plain[1] and np.array_equal(*counts)


def test_planted_extremes() -> None:
    stats = observe(np.array([[0.5, -4.0], [3.0, 0.0]], np.float32))
    assert (stats.low, stats.high, stats.amax) == (-4.0, 3.0, 4.0)
    assert stats.exponent == 3  # 4 lies beyond [0, 4)


def test_planted_counts() -> None:
    # bins of 8 / 4096 = 2**-9; the borders belong to the bin above
    stats = observe(np.array([0, 2**-10, 2**-9, -(2**-9), 7.75, -7.75, 7.75], np.float32))
    assert stats.bin_width == 2**-9
    assert stats.counts is not None
    counts = {int(index): int(stats.counts[index]) for index in np.flatnonzero(stats.counts)}
    assert counts == {0: 2, 1: 2, int(7.75 * 2**9): 3}


@given(_arrays)
def test_every_value_is_counted_in_its_bin(values: NDArray[np.float32]) -> None:
    stats = observe(values)
    assert stats.counts is not None
    expected = np.zeros(BINS, np.int64)
    for value in values:  # exact: everything in float64, one value after the other
        expected[min(int(abs(float(value)) / stats.bin_width), BINS - 1)] += 1
    np.testing.assert_array_equal(stats.counts, expected)
    assert stats.amax == max((abs(float(value)) for value in values), default=0.0)


@given(_stats, _stats)
def test_merging_is_commutative(first: TensorStats, second: TensorStats) -> None:
    assert same(merge(first, second), merge(second, first))


@given(_stats, _stats, _stats)
def test_merging_is_associative(first: TensorStats, second: TensorStats, third: TensorStats) -> None:
    assert same(merge(merge(first, second), third), merge(first, merge(second, third)))


@given(_arrays, st.randoms(use_true_random=False), st.integers(0, 29))
def test_how_values_are_split_and_ordered_does_not_matter(
    values: NDArray[np.float32], random: Any, border: int
) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)
    parts = merge(observe(shuffled[:border]), observe(shuffled[border:]))
    assert same(parts, observe(values))


def test_neither_part_is_changed_by_merging() -> None:
    first, second = observe(np.ones(3, np.float32)), observe(np.full(2, 100, np.float32))
    assert first.counts is not None
    before = first.counts.copy()
    merge(first, second)
    np.testing.assert_array_equal(first.counts, before)


def test_a_frame_of_zeros_costs_no_resolution() -> None:
    small = observe(np.full(10, 0.001, np.float32))
    both = merge(observe(np.zeros(10, np.float32)), small)
    assert both.exponent == small.exponent
    assert both.counts is not None
    assert both.counts[0] == 10


def test_nothing_seen_changes_nothing() -> None:
    some = observe(np.array([-1, -3], np.float32))
    nothing = observe(np.zeros(0, np.float32))
    assert nothing.amax == 0
    assert same(merge(some, nothing), some)
    assert some.high == -1


@pytest.mark.parametrize(
    "extreme", [np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal, 1e-35]
)
def test_the_ends_of_float32(extreme: float) -> None:
    stats = observe(np.array([extreme, -extreme / 2, 0], np.float32))
    assert stats.amax == float(np.float32(extreme))
    assert stats.counts is not None
    assert stats.counts.sum() == 3


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_apart(odd: float) -> None:
    stats = observe(np.array([1, odd, -2, odd], np.float32))
    assert (stats.low, stats.high, stats.not_finite) == (-2, 1, 2)
    assert stats.counts is not None
    assert stats.counts.sum() == 2
    assert observe(np.array([odd], np.float32)).not_finite == 1
    assert merge(stats, stats).not_finite == 4


@given(_arrays, _arrays)
def test_without_a_histogram_the_extremes_are_the_same(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> None:
    plain = merge(observe(first, histogram=False), observe(second, histogram=False))
    full = merge(observe(first), observe(second))
    assert plain.counts is None
    assert (plain.low, plain.high, plain.amax) == (full.low, full.high, full.amax)
    assert merge(plain, full).counts is None


def test_the_array_is_not_changed() -> None:
    values = np.array([[-1.5, 2.5]], np.float32)
    observe(values)
    np.testing.assert_array_equal(values, [[-1.5, 2.5]])
