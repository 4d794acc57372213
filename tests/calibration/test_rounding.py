from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.calibration.rounding import error, round_weights, shrink


def problem(
    groups: int, length: int, outputs: int, *, columns: int = 400, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Weights, scales, and the columns that two networks read, correlated as neighbouring pixels are."""
    random = np.random.default_rng(seed)
    target = random.normal(size=(groups, length, columns)) + 2 * random.normal(size=(groups, 1, columns))
    read = target + 0.05 * random.normal(size=target.shape)
    weights = random.normal(size=(groups, length, outputs))
    return weights, np.abs(weights).max(axis=1) / 15, read, target


def moments(read: NDArray[Any], target: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    turned = read.transpose(0, 2, 1) / read.shape[2]
    return read @ turned, target @ turned


def output_error(
    rounded: NDArray[Any],
    weights: NDArray[Any],
    read: NDArray[Any],
    target: NDArray[Any],
) -> float:
    difference = rounded.transpose(0, 2, 1) @ read - weights.transpose(0, 2, 1) @ target
    return float((difference**2).sum() / read.shape[2])


def test_the_error_is_that_of_the_outputs_up_to_a_constant() -> None:
    weights, _, read, target = problem(2, 6, 3)
    square, cross = moments(read, target)
    others = [weights * factor for factor in (0.0, 0.9, 1.1)]
    constant = output_error(others[0], weights, read, target)  # of weights 0
    for other in others:
        expected = output_error(other, weights, read, target)
        assert error(other, weights, square, cross) + constant == pytest.approx(expected)


@pytest.mark.parametrize(("groups", "length", "outputs"), [(1, 150, 8), (6, 9, 1), (3, 25, 4), (1, 64, 5)])
def test_outputs_change_less_than_with_the_nearest_steps(groups: int, length: int, outputs: int) -> None:
    weights, scales, read, target = problem(groups, length, outputs)
    shrunk = shrink(*moments(read, target), 0.02)
    steps = round_weights(weights, scales, shrunk.hessian)
    assert np.array_equal(steps, np.rint(steps))
    assert np.abs(steps).max() <= 127
    nearest = np.rint(weights / scales[:, None, :])
    ours, plain = (
        output_error(found * scales[:, None, :], weights, read, read) for found in (steps, nearest)
    )
    assert ours < 0.6 * plain


def test_rounding_in_order_is_close_to_the_best_of_all_roundings() -> None:
    weights, scales, read, target = problem(1, 6, 1)
    scales = scales * 4  # coarse
    hessian = shrink(*moments(read, target), 0.0).hessian

    def cost(steps: NDArray[Any]) -> float:
        difference = steps * scales[:, None, :] - weights
        return float(np.vdot(difference, hessian @ difference))

    floor = np.floor(weights / scales[:, None, :])
    choices = itertools.product((-1, 0, 1, 2), repeat=6)
    best = min(cost(floor + np.reshape(choice, (1, 6, 1))) for choice in choices)
    nearest = cost(np.rint(weights / scales[:, None, :]))
    ours = cost(round_weights(weights, scales, hessian))
    assert best - 1e-9 <= ours < 0.5 * (best + nearest)


def test_uncorrelated_inputs_get_the_nearest_steps() -> None:
    weights, scales, *_ = problem(2, 30, 3)
    hessian = np.stack([np.diag(np.linspace(1, 5, 30))] * 2)
    np.testing.assert_array_equal(
        round_weights(weights, scales, hessian), np.rint(weights / scales[:, None, :])
    )


def test_the_order_of_the_inputs_does_not_matter() -> None:
    weights, scales, read, target = problem(1, 80, 4)
    order = np.random.default_rng(1).permutation(80)
    hessian = shrink(*moments(read, target), 0.1).hessian
    one = round_weights(weights, scales, hessian)
    other = round_weights(weights[:, order], scales, hessian[:, order][:, :, order])
    np.testing.assert_array_equal(one[:, order], other)


def test_the_best_weights_make_up_for_what_is_read() -> None:
    weights, _, _, target = problem(2, 12, 3)
    square, cross = moments(1.25 * target, target)  # the quantized network reads a quarter too much
    best = shrink(square, cross, 0.0).best(weights)
    # the floor, a hundredth of the mean diagonal, holds them back a little
    exact = output_error(best, weights, 1.25 * target, target)
    assert exact < 0.02 * output_error(weights, weights, 1.25 * target, target)


def test_full_shrinkage_trusts_no_frame() -> None:
    weights, scales, read, target = problem(1, 20, 2)
    shrunk = shrink(*moments(read, target), 1.0)
    np.testing.assert_allclose(shrunk.best(weights), weights, rtol=1e-12)
    np.testing.assert_array_equal(
        round_weights(weights, scales, shrunk.hessian), np.rint(weights / scales[:, None, :])
    )


def test_an_input_that_is_always_zero() -> None:
    weights, scales, read, target = problem(2, 9, 2)
    read[0], target[0] = 0.0, 0.0
    read[1, 3], target[1, 3] = 0.0, 0.0
    shrunk = shrink(*moments(read, target), 0.02)
    assert np.isfinite(shrunk.best(weights)).all()
    steps = round_weights(weights, scales, shrunk.hessian)
    np.testing.assert_array_equal(steps[0], np.rint(weights / scales[:, None, :])[0])
