"""Offsets from anchor boxes, (N, A, 4), and scores (N, A, C): SSD, RetinaNet and their kin.

As Faster R-CNN writes boxes: with an anchor's centre (xa, ya) and size (wa, ha), and offsets divided by
`weights` (SSD's variances are their inverses: 0.1, 0.1, 0.2, 0.2 are weights 10, 10, 5, 5):

    x = xa + dx · wa        w = wa · exp(min(dw, log(1000 / 16)))    (y and h likewise)

Anchors stand on grids, one a level, each with some sizes at every place: row by row, then place by place,
then size by size. Place (i, j) has its centre at ((j + offset) · step_x, (i + offset) · step_y) input pixels.

    {"format": "anchors", "levels": [{"stride": 8, "sizes_wh": [[30, 30], …]}, …],
     "weights": [10, 10, 5, 5], "activation": "softmax", "background": "first"}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import SpecError
from edgecnn.spec import ModelSpec
from edgecnn.tasks._formats import Candidates
from edgecnn.tasks._formats._pairs import Pairs, ScoresHead, find_pairs
from edgecnn.values import check

__all__ = ["Head", "Level", "create", "make_anchors", "reading"]

MAX_LOG = math.log(1000 / 16)  # no box grows by more than this, as in Detectron and torchvision


@dataclass(frozen=True, kw_only=True)
class Level:
    """Anchors of one grid.

    Attributes:
        sizes_wh: widths and heights of the anchors at each place, in input pixels.
        grid_hw: rows and columns of places.
        step_xy: from one place to the next, in input pixels.
        stride: in place of both, for any size of the input: size / stride places, rounded up, and
            size // places from one to the next, as torchvision has it.
        offset: where in its place an anchor has its centre: 0.5 in the middle.
    """

    sizes_wh: tuple[tuple[float, float], ...]
    grid_hw: tuple[int, int] | None = None
    step_xy: tuple[float, float] | None = None
    stride: int | None = None
    offset: float = 0.5

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.grid_hw, self.step_xy, self.stride)]
        fits = given in ([True, True, False], [False, False, True])
        check("level of anchors", self, fits, "grid_hw and step_xy, or stride")
        sides = (*(self.grid_hw or (1,)), self.stride or 1)
        fits = min(sides) >= 1 and max(sides) <= 4096 and 1 <= len(self.sizes_wh) <= 100
        check("level of anchors", self, fits, "a grid of 1 to 4096 rows and columns, with 1 to 100 sizes")

    def placed(self, size_hw: tuple[int, int]) -> tuple[tuple[int, int], tuple[float, float]]:
        """`grid_hw` and `step_xy` for an input of this size."""
        if self.grid_hw is not None and self.step_xy is not None:
            return self.grid_hw, self.step_xy
        rows, columns = (-(-side // (self.stride or 1)) for side in size_hw)
        return (rows, columns), (size_hw[1] // columns, size_hw[0] // rows)


@dataclass(frozen=True, kw_only=True)
class Head(ScoresHead):
    """How to read the outputs.

    Attributes:
        levels: the grids of anchors, in the network's order.
        anchors_cxcywh: the anchors themselves, in input pixels, where they are on no grid.
        weights: what the four offsets are divided by.
    """

    format: Literal["anchors"] = "anchors"
    levels: tuple[Level, ...] = ()
    anchors_cxcywh: list[tuple[float, float, float, float]] = field(default_factory=list)
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    multi_label: bool = True


class AnchorOffsets:
    """Offsets and scores → candidates, cut at the input's borders as torchvision does before its NMS."""

    def __init__(
        self, head: Head, pairs: Pairs, anchors: NDArray[np.float64], size_hw: tuple[int, int]
    ) -> None:
        self.weights = np.array(head.weights)
        self.pairs = pairs
        self.anchors = anchors
        self.size_wh = (size_hw[1], size_hw[0])
        self.class_counts = pairs.class_counts

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int) -> Candidates:
        """Only the boxes above the threshold are decoded."""
        chosen, classes, scores = self.pairs.above(outputs, index)
        offsets = outputs[self.pairs.boxes][index][chosen].astype(np.float64) / self.weights
        anchors = self.anchors[chosen]
        centre = anchors[:, :2] + offsets[:, :2] * anchors[:, 2:]
        half = anchors[:, 2:] * np.exp(np.minimum(offsets[:, 2:], MAX_LOG)) / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        return Candidates(np.clip(boxes, 0, self.size_wh * 2), scores, classes)


def create(head: Head, spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> AnchorOffsets:
    """Raises SpecError where there are no anchors, or not as many as the network has boxes."""
    if extra:
        raise SpecError("format anchors has nothing behind its boxes", expected="format yolo or end_to_end")
    pairs = find_pairs(head, outputs)
    check("weights", head.weights, all(weight > 0 for weight in head.weights), "four positive numbers")
    anchors = np.array(head.anchors_cxcywh, np.float64).reshape(-1, 4)
    if head.levels:
        anchors = np.concatenate([anchors, make_anchors(head.levels, spec.image.size_hw)])
    if pairs.count not in (None, len(anchors)) or not len(anchors):
        raise SpecError(
            "the anchors do not fit the network",
            got=f"{len(anchors)} anchors",
            expected=f"{pairs.count}, one a box",
            remedy="Give the levels that it was trained with: --head levels=[…]",
        )
    return AnchorOffsets(head, pairs, anchors, spec.image.size_hw)


def make_anchors(levels: Sequence[Level], size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """(A, 4) centre and size in input pixels; row by row, place by place, size by size."""
    parts = []
    for level in levels:
        (rows, columns), (step_x, step_y) = level.placed(size_hw)
        sizes = np.array(level.sizes_wh, np.float64).reshape(-1, 2)
        xs = (np.arange(columns) + level.offset) * step_x
        ys = (np.arange(rows) + level.offset) * step_y
        part = np.empty((rows, columns, len(sizes), 4))
        part[..., 0], part[..., 1], part[..., 2:] = xs[None, :, None], ys[:, None, None], sizes
        parts.append(part.reshape(-1, 4))
    return np.concatenate(parts)


def reading(spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> dict[str, Any] | None:
    """Never without its anchors, and these name the format."""
    return None
