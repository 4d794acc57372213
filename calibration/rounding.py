"""Weights on the INT8 grid such that a layer's output, not its weights, changes least.

For one output with weights w, read through the columns x of the quantized network where the float network
has x*, the mean squared error of weights v is

    E[(v·x − w·x*)²] = v · A · vᵀ − 2 v · (w C)ᵀ + E[(w·x*)²]          A = E[x xᵀ], C = E[x* xᵀ]

A few hundred frames do not determine A well where columns are long, and weights fitted to it alone get
worse on other frames. So A and C are shrunk towards what is known without any frame, that a weight counts
by the size of its own input (O. Ledoit, M. Wolf, 2004): with D the diagonal of A, ε a hundredth of its
mean, and ρ in [0, 1]

    Λ = ρ D + ε        H = (1 − ρ) A + Λ        w* = ((1 − ρ) w C + w Λ) · H⁻¹

and v minimizes (v − w°) · H · (v − w°)ᵀ on the grid, where w° is either w* – the weights that make up for
what quantization did to the layer's input – or w itself. Weights are rounded one after the other, and what
each loses is made good by those that are still free (E. Frantar et al., "GPTQ", 2022, after B. Hassibi, D.
Stork, "Optimal Brain Surgeon", 1993).

All arrays here are (groups, K, outputs) or (groups, K, K); a group's outputs lie side by side for speed. ε
bounds the condition of H by 100 K, so float32 will do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.quantization import LEVELS

__all__ = ["Shrunk", "error", "round_weights", "shrink"]

_Array = NDArray[np.floating[Any]]

_BLOCK = 64  # rows whose corrections are gathered before they reach the rest, which is then one product
_FLOOR = 0.01


class Shrunk:
    """H of the module's docstring for one ρ, and the weights that are best under it."""

    def __init__(self, square: _Array, cross: _Array, shrinkage: float) -> None:
        places = np.arange(square.shape[1])
        diagonal = square[:, places, places]
        mean = diagonal.mean(axis=1, keepdims=True)
        self.prior = shrinkage * diagonal + _FLOOR * mean + (mean == 0)  # an input that is always zero
        self.hessian = (1 - shrinkage) * square
        self.hessian[:, places, places] += self.prior
        self._cross = (1 - shrinkage) * cross

    def best(self, weights: _Array) -> _Array:
        """w*, with which the layer makes up for what quantization did to its input."""
        right = self._cross.transpose(0, 2, 1) @ weights + self.prior[:, :, None] * weights
        result: _Array = np.linalg.solve(self.hessian, right)
        return result


def shrink(square: _Array, cross: _Array, shrinkage: float) -> Shrunk:
    """A and C with ρ = `shrinkage`."""
    return Shrunk(square, cross, shrinkage)


def error(rounded: _Array, weights: _Array, square: _Array, cross: _Array) -> float:
    """The mean squared error over all outputs, without the term that does not depend on `rounded`."""
    return float(
        np.vdot(rounded, square @ rounded) - 2 * np.vdot(rounded, cross.transpose(0, 2, 1) @ weights)
    )


def round_weights(weights: _Array, scales: _Array, hessian: _Array) -> _Array:
    """Whole steps for `weights`, in units of `scales`, (groups, outputs)."""
    # The most important inputs first: what they lose can still be made good by all the others.
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    rows = np.arange(len(weights))[:, None]
    permuted = hessian[rows[:, :, None], order[:, :, None], order[:, None, :]]
    steps = (weights / scales[:, None, :])[rows, order]
    rounded = _round_in_order(steps, permuted)
    result = np.empty_like(rounded)
    result[rows, order] = rounded
    return result


def _round_in_order(steps: _Array, hessian: _Array) -> _Array:
    # With H = U · Uᵀ, U upper triangular, the error is that of Uᵀ · (v − w), whose row j knows the weights
    # up to j alone: each is rounded such that its row is as near to zero as the grid allows.
    factor = np.linalg.cholesky(hessian[:, ::-1, ::-1])[:, ::-1, ::-1]
    factor = factor / np.diagonal(factor, axis1=1, axis2=2)[:, None, :]
    goal, rounded = steps.copy(), np.empty_like(steps)
    length = steps.shape[1]
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        for row in range(start, end):
            rounded[:, row] = np.clip(np.rint(goal[:, row]), -LEVELS, LEVELS)
            loss = rounded[:, row] - steps[:, row]
            goal[:, row + 1 : end] -= factor[:, row, row + 1 : end, None] * loss[:, None, :]
        losses = rounded[:, start:end] - steps[:, start:end]
        goal[:, end:] -= factor[:, start:end, end:].transpose(0, 2, 1) @ losses
    return rounded
