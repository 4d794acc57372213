"""Every resize of a preprocessing plan as one sparse matrix a side.

Each interpolation is linear and works on rows and columns by themselves: a resized picture is

    Y = M_rows · X · M_columnsᵀ

with few numbers in each row of M, all close to each other: its *taps*. Several resizes one after the other,
and the cut at their end, are the product of their matrices, which is as sparse. So the plan of
`edgecnn.preprocess` – region, resizes, cut – becomes two short lists of indices and weights, exact to the
last pixel whatever the frame's size; a graph needs nothing but Gather, Mul and Add for it.

The weights are OpenCV's, for an output pixel i of m and an input of n pixels:
    NEAREST         pixel floor(i · n/m)
    NEAREST_EXACT   pixel floor((i + 1/2) · n/m), the middle one of each block; for odd whole n/m only
    LINEAR, CUBIC   around (i + 1/2) · n/m − 1/2, pixels beyond the border being those at it. Cubic is Keys'
                    kernel ("Cubic convolution interpolation for digital image processing", 1981) with
                    a = −0.75
    AREA            how much of [i · n/m, (i + 1) · n/m) each pixel covers; for shrinking only

What is left out are the roundings to whole levels between resizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecnn.preprocess import ResizePlan

__all__ = ["Taps", "resize_taps"]

CUBIC_A = -0.75
_NEGLIGIBLE = 1e-9  # a weight that rounding leaves where there is none; 255 of it is no millionth of a level


@dataclass(frozen=True, eq=False)
class Taps:
    """A sparse matrix: `output[i] = Σₖ weights[i, k] · input[indices[i, k]]`.

    Attributes:
        indices: (outputs, K) int64.
        weights: (outputs, K) float64; each row sums to 1.
    """

    indices: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def trivial(self) -> bool:
        """Whether each output is just one of the inputs."""
        return int(self.weights.shape[1]) == 1

    def is_identity(self, length: int) -> bool:
        """Whether it leaves `length` inputs as they are."""
        return self.trivial and np.array_equal(self.indices[:, 0], np.arange(length))

    def compact(self) -> tuple[Taps, NDArray[np.int64]]:
        """The same from only those inputs that are read, and which these are, in order."""
        needed, places = np.unique(self.indices, return_inverse=True)
        return Taps(places.reshape(self.indices.shape), self.weights), needed

    def after(self, first: Taps) -> Taps:
        """The product of two matrices: `first`, then this one."""
        indices = first.indices[self.indices].reshape(len(self.indices), -1)
        weights = (self.weights[..., None] * first.weights[self.indices]).reshape(indices.shape)
        return _merged(indices, weights)


def resize_taps(plan: ResizePlan, axis: int, size: int) -> Taps:
    """From the whole side of a frame to a side of the input; axis 0 is rows, 1 is columns.

    Args:
        size: of the input along this axis. A border beside the live part repeats what is next to it, to be
            overwritten.
    """
    region, cut = plan.source[axis], plan.cut[axis]
    read = np.arange(region.start, region.stop)[:, None]
    taps = Taps(read, np.ones(read.shape))
    for size_hw, interpolation in plan.steps:
        if size_hw[axis] != len(taps.indices):
            taps = _step(len(taps.indices), size_hw[axis], interpolation).after(taps)
    live = plan.live[axis]
    placed = np.clip(np.arange(size), live.start, live.stop - 1) - live.start + cut.start
    return Taps(taps.indices[placed], taps.weights[placed])


def _step(length: int, resized: int, interpolation: str) -> Taps:
    """One resize of a side."""
    pixel = np.arange(resized)
    if interpolation == "NEAREST":
        # OpenCV takes the factor's reciprocal twice in float64, and may so miss a whole number
        indices = np.floor(pixel * (1 / (resized / length))).astype(np.int64)[:, None]
        weights = np.ones(indices.shape)
    elif interpolation == "NEAREST_EXACT":
        indices = ((2 * pixel + 1) * length // (2 * resized))[:, None]
        weights = np.ones(indices.shape)
    elif interpolation == "AREA":
        factor = length / resized
        first = np.floor(pixel * factor).astype(np.int64)[:, None]
        indices = first + np.arange(int(np.ceil(factor)) + 1)
        ends = np.minimum(indices + 1, (pixel[:, None] + 1) * factor)
        weights = np.maximum(0, ends - np.maximum(indices, pixel[:, None] * factor)) / factor
    else:
        centre = (pixel + 0.5) * length / resized - 0.5
        first = np.floor(centre).astype(np.int64)
        offsets = np.arange(2) if interpolation == "LINEAR" else np.arange(-1, 3)
        indices = first[:, None] + offsets
        distance = np.abs(centre[:, None] - indices)
        weights = 1 - distance if interpolation == "LINEAR" else _keys(distance)
    return _merged(np.clip(indices, 0, length - 1), weights)


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel at distances 0 … 2."""
    d, a = distance, CUBIC_A
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, far)


def _merged(indices: NDArray[np.int64], weights: NDArray[np.float64]) -> Taps:
    """Add up what falls on the same input, in a window as narrow as the widest row needs."""
    used = np.abs(weights) > _NEGLIGIBLE
    lowest = np.where(used, indices, indices.max()).min(axis=1, keepdims=True)
    highest = np.where(used, indices, 0).max(axis=1, keepdims=True)
    width = int((highest - lowest).max()) + 1
    lowest = np.minimum(lowest, max(0, int(highest.max()) + 1 - width))  # the window stays inside the frame
    window = np.zeros((len(indices), width))
    rows = np.broadcast_to(np.arange(len(indices))[:, None], indices.shape)
    np.add.at(window, (rows[used], (indices - lowest)[used]), weights[used])
    return Taps(lowest + np.arange(width), window)
