"""Transformers' heads: boxes (N, Q, 4) as centre and size in parts of the input, and logits (N, Q, C).

RT-DETR and Deformable DETR end in a sigmoid for each class, which is still to be done; DETR in a softmax with
`no object` as its last class. Neither needs NMS.

    {"format": "detr", "activation": "softmax", "background": "last"}      DETR
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
from edgecnn.tasks._formats import Candidates
from edgecnn.tasks._formats._pairs import Pairs, ScoresHead, find_pairs
from edgecnn.tasks._formats._scores import Activation, from_cxcywh

__all__ = ["Head", "create", "reading"]

MOST_QUERIES = 1000


@dataclass(frozen=True, kw_only=True)
class Head(ScoresHead):
    """As `ScoresHead`, with RT-DETR's values as defaults."""

    format: Literal["detr"] = "detr"
    activation: Activation = "sigmoid"
    nms_iou: float | None = None


class Queries:
    """Boxes and logits → candidates."""

    def __init__(self, pairs: Pairs, size_hw: tuple[int, int]) -> None:
        self.pairs = pairs
        self.class_counts = pairs.class_counts
        self.scale = (size_hw[1], size_hw[0]) * 2

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int) -> Candidates:
        """Queries above the threshold."""
        chosen, classes, scores = self.pairs.above(outputs, index)
        boxes = outputs[self.pairs.boxes][index][chosen].astype(np.float64)
        return Candidates(from_cxcywh(boxes) * self.scale, scores, classes)


def create(head: Head, spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> Queries:
    """Raises SpecError where the outputs do not fit, or more than boxes is asked for."""
    if extra:
        raise SpecError("format detr has nothing behind its boxes", expected="format yolo or end_to_end")
    return Queries(find_pairs(head, outputs), spec.image.size_hw)


def reading(spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> dict[str, Any] | None:
    """A few hundred boxes, and classes for them: nothing else has so few without a list of labels."""
    if extra or len(outputs) != 2:
        return None
    try:
        pairs = find_pairs(Head(), outputs)
    except SpecError:
        return None
    return {} if pairs.count is not None and pairs.count <= MOST_QUERIES else None
