"""FCOS (Tian et al. 2019): at each place of a grid the distances to four sides, class scores, a centerness.

    left = x − l · s, right = x + r · s, …        score = √(sigmoid(class) · sigmoid(centerness))

Places are written as `anchors` writes them, with one size s at each. torchvision's have `offset` 0.

    {"format": "fcos",
     "levels": [{"stride": 8, "sizes_wh": [[8, 8]], "offset": 0}, …]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import SpecError
from edgecnn.spec import ModelSpec
from edgecnn.tasks._formats import Candidates, not_finite
from edgecnn.tasks._formats._pairs import Pairs, ScoresHead, find_pairs, named
from edgecnn.tasks._formats._scores import Activation, sigmoid
from edgecnn.tasks._formats.anchors import Level, make_anchors

__all__ = ["Head", "create", "reading"]


@dataclass(frozen=True, kw_only=True)
class Head(ScoresHead):
    """How to read the outputs.

    Attributes:
        levels: the grids of places, in the network's order.
        centerness_output: (N, A, 1) or (N, A) logits; found by its shape where None.
    """

    format: Literal["fcos"] = "fcos"
    levels: tuple[Level, ...] = ()
    activation: Activation = "sigmoid"
    multi_label: bool = True
    centerness_output: str | None = None


class Distances:
    """Distances, logits and centerness → candidates, cut at the input's borders as torchvision does."""

    def __init__(
        self, pairs: Pairs, centerness: str, places: NDArray[np.float64], size_hw: tuple[int, int]
    ) -> None:
        self.pairs = pairs
        self.centerness = centerness
        self.places = places
        self.size_wh = (size_hw[1], size_hw[0])
        self.class_counts = pairs.class_counts

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int) -> Candidates:
        """Places where the score is above the threshold."""
        logits = outputs[self.pairs.scores][index].T  # (C, A)
        centerness = outputs[self.centerness][index].reshape(-1)
        if not (logits.max(initial=-np.inf) < np.inf) or not (centerness.max(initial=-np.inf) < np.inf):
            raise not_finite(self.pairs.scores)
        scores = np.sqrt(sigmoid(logits) * sigmoid(centerness))
        chosen, classes, kept = self.pairs.above_of(scores, "none")
        places = self.places[chosen]
        away = outputs[self.pairs.boxes][index][chosen].astype(np.float64) * places[:, 2:][:, [0, 1, 0, 1]]
        boxes = np.concatenate([places[:, :2] - away[:, :2], places[:, :2] + away[:, 2:]], axis=1)
        return Candidates(np.clip(boxes, 0, self.size_wh * 2), kept, classes)


def create(head: Head, spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> Distances:
    """Raises SpecError where the levels or the outputs do not fit."""
    if extra:
        raise SpecError("format fcos has nothing behind its boxes", expected="format yolo or end_to_end")
    if head.centerness_output is not None:
        centerness = named(outputs, head.centerness_output)
    else:
        fitting = [info for info in outputs if len(info.shape) == 2 or info.shape[2:] == (1,)]
        if len(fitting) != 1:
            raise SpecError(
                "which output holds the centerness?",
                got=", ".join(f"{info.name} {info.shape}" for info in outputs),
                expected="(N, boxes, 1)",
                remedy="Name it: --head centerness_output=NAME",
            )
        centerness = fitting[0]
    pairs = find_pairs(head, [info for info in outputs if info is not centerness])
    places = make_anchors(head.levels, spec.image.size_hw) if head.levels else np.zeros((0, 4))
    if pairs.count not in (None, len(places)) or not len(places):
        raise SpecError(
            "the levels do not fit the network",
            got=f"{len(places)} places",
            expected=f"{pairs.count}, one a box",
            remedy="Give the levels that it was trained with: --head levels=[…]",
        )
    return Distances(pairs, centerness.name, places, spec.image.size_hw)


def reading(spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> dict[str, Any] | None:
    """Never without its levels, and these name the format."""
    return None
