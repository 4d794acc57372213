from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.calibration.observers import TensorStats, merge, observe
from edgecnn.calibration.ranges import (
    METHODS,
    SMALLEST_AMAX,
    Method,
    choose_range,
    entropy_threshold,
    mse_threshold,
    percentile_threshold,
)


def test_planted_amax_gives_its_scale_exactly() -> None:
    stats = observe(np.array([-4.0, 1.0, 3.999], np.float32))
    chosen = choose_range(stats, "minmax")
    assert chosen.amax == 4.0
    assert chosen.scale == 4.0 / 127
    assert (chosen.low, chosen.high, chosen.method) == (-4.0, float(np.float32(3.999)), "minmax")


def test_what_was_always_zero_gets_a_positive_scale() -> None:
    chosen = choose_range(observe(np.zeros(5, np.float32)), "minmax")
    assert (chosen.amax, chosen.low, chosen.high, chosen.method) == (1.0, 0.0, 0.0, "constant")


def test_a_constant_keeps_its_value_as_the_range() -> None:
    assert choose_range(observe(np.full(5, -2.5, np.float32)), "minmax").amax == 2.5


def test_a_scale_is_never_denormal() -> None:
    chosen = choose_range(observe(np.full(5, 1e-40, np.float32)), "minmax")
    assert chosen.amax == SMALLEST_AMAX
    assert np.float32(chosen.scale) >= np.finfo(np.float32).tiny


def test_entropy_never_exceeds_what_was_seen() -> None:
    stats = observe(np.array([1.0, 1.5, 3.0], np.float32))  # three values fit 127 steps: nothing to clip
    assert choose_range(stats, "entropy").amax == 3.0


def test_entropy_clips_a_lone_outlier_and_minmax_does_not() -> None:
    values = np.append(np.random.default_rng(0).normal(size=200_000), 40.0).astype(np.float32)
    stats = observe(values)
    assert choose_range(stats, "minmax").amax == 40.0
    assert 3 < choose_range(stats, "entropy").amax < 10  # 5 standard deviations hold all the others


def test_entropy_needs_a_histogram() -> None:
    with pytest.raises(ValueError, match="histogram"):
        entropy_threshold(observe(np.ones(3, np.float32), histogram=False))


def slow_threshold(stats: TensorStats) -> float:
    """The description in the module's docstring, one bin after the other."""
    assert stats.counts is not None
    bins = [float(count) for count in stats.counts]
    while bins[-1] == 0:
        bins.pop()
    width = stats.bin_width
    while len(bins) > 2048:
        if len(bins) % 2:
            bins.append(0.0)
        bins = [bins[i] + bins[i + 1] for i in range(0, len(bins), 2)]
        width *= 2
    bins[0] = bins[1]
    divergences: dict[int, float] = {}
    for end in range(128, len(bins) + 1):
        p = bins[:end]
        p[-1] += math.fsum(bins[end:])
        q = [0.0] * end
        borders = [group * end // 128 for group in range(129)]
        for first, last in itertools.pairwise(borders):
            occupied = [index for index in range(first, last) if p[index] > 0]
            for index in occupied:
                q[index] = math.fsum(bins[first:last]) / len(occupied)
        if sum(q) == 0:
            continue  # infinite
        divergence = 0.0
        for index in range(end):
            if p[index] > 0:
                share = max(q[index] / math.fsum(q), 1e-12)
                divergence += p[index] / math.fsum(p) * math.log(p[index] / math.fsum(p) / share)
        divergences[end] = divergence
    least = min(divergences.values())
    return max(end for end, divergence in divergences.items() if divergence <= least + 1e-9) * width


@pytest.mark.parametrize(
    ("kind", "seed"), [("normal", 0), ("laplace", 1), ("relu", 2), ("two humps", 3), ("sparse", 4)]
)
def test_entropy_against_the_plain_description(kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = {
        "normal": random.normal(size=3000),
        "laplace": random.laplace(size=3000),
        "relu": np.maximum(random.normal(size=3000), 0),
        "two humps": np.concatenate([random.normal(1, 0.1, 2000), random.normal(3, 0.05, 300)]),
        "sparse": random.choice([0.0, 0.5, 1.0, 7.9], 3000),
    }[kind]
    # 512 used bins of 4096: the slow loops take their time
    scale = 4096 / 512 / np.abs(values).max()
    stats = merge(observe((values * scale / 8.01).astype(np.float32)), observe(np.full(1, 7.99, np.float32)))
    assert stats.counts is not None
    stats.counts[4000:] = 0  # the one value that only set the range
    assert entropy_threshold(stats) == slow_threshold(stats)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_a_threshold_scales_with_the_tensor(seed: int, factor: float) -> None:
    values = np.random.default_rng(seed).laplace(size=2000).astype(np.float32)
    power = np.float32(2.0 ** round(math.log2(factor)))  # exact in float32
    one, other = entropy_threshold(observe(values)), entropy_threshold(observe(values * power))
    assert other == one * power


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "outlier"])
def test_mse_against_all_values(kind: str) -> None:
    random = np.random.default_rng(0)
    values = {
        "normal": random.normal(size=50_000),
        "laplace": random.laplace(size=50_000),
        "relu": np.maximum(random.normal(size=50_000), 0),
        "outlier": np.append(random.normal(size=50_000), 60.0),
    }[kind].astype(np.float32)

    def cost(amax: float) -> float:
        scale = amax / 127
        return float(((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2).sum())

    stats = observe(values)
    best = min(cost(share * stats.amax) for share in np.linspace(0.2, 1, 64))
    # a bin's values count as its middle, which costs a little near the optimum
    assert cost(mse_threshold(stats)) <= 1.01 * best


def test_the_percentile_leaves_one_value_in_ten_thousand_outside() -> None:
    values = np.arange(1, 100_001, dtype=np.float32)
    threshold = percentile_threshold(observe(values))
    assert 0 <= threshold - 99_990 <= observe(values).bin_width


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[0.0, 0.0], [2.5, 2.5], [1e-40, 0], [-3e38, 3e38], [1e-30, 1.0]])
def test_every_method_gives_a_positive_finite_scale(method: Method, values: list[float]) -> None:
    chosen = choose_range(observe(np.array(values, np.float32)), method)
    assert np.isfinite(np.float32(chosen.scale))
    assert np.float32(chosen.scale) >= np.finfo(np.float32).tiny
