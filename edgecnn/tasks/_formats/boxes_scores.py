"""Decoded boxes, and their scores in another output; perhaps their classes in a third.

    boxes (N, A, 4)  scores (N, A, C)                     one score a class
    boxes (N, A, 4)  scores (N, A)  labels (N, A)         one score a box; `count` (N,) or (N, 1) of how many
    boxes (K, 4)     scores (K,)    labels (K,)           torchvision's detectors: one frame at a time

Boxes are in pixels of the input unless they are normalized.

    {"format": "boxes_scores", "labels_output": "labels"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import InferenceError, SpecError
from edgecnn.spec import ModelSpec
from edgecnn.tasks._formats import Candidates, not_finite
from edgecnn.tasks._formats._pairs import Pairs, ScoresHead, find_pairs, named
from edgecnn.tasks._formats._scores import from_cxcywh

__all__ = ["Head", "create", "reading"]


@dataclass(frozen=True, kw_only=True)
class Head(ScoresHead):
    """How to read the outputs.

    Attributes:
        boxes: `xyxy` or `cxcywh` (centre and size).
        normalized: boxes are in parts of the input's width and height, not in pixels.
        labels_output: output with one class id a box; then the scores are one a box, too.
        count_output: output with the number of boxes that count.
    """

    format: Literal["boxes_scores"] = "boxes_scores"
    boxes: Literal["xyxy", "cxcywh"] = "xyxy"
    normalized: bool = False
    labels_output: str | None = None
    count_output: str | None = None


class _Boxes:
    """Boxes of an output, in pixels of the input."""

    def __init__(self, head: Head, size_hw: tuple[int, int]) -> None:
        self.head = head
        self.scale = (size_hw[1], size_hw[0]) * 2 if head.normalized else (1, 1, 1, 1)

    def __call__(self, boxes: NDArray[Any]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = boxes.astype(np.float64) * self.scale
        return from_cxcywh(scaled) if self.head.boxes == "cxcywh" else scaled


class ScoreEachClass:
    """Boxes (N, A, 4) and scores (N, A, C) → candidates."""

    def __init__(self, pairs: Pairs, boxes: _Boxes) -> None:
        self.pairs = pairs
        self.boxes = boxes
        self.class_counts = pairs.class_counts

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int) -> Candidates:
        """Boxes above the threshold."""
        chosen, classes, scores = self.pairs.above(outputs, index)
        return Candidates(self.boxes(outputs[self.pairs.boxes][index][chosen]), scores, classes)


class LabelEachBox:
    """Boxes, scores and labels of the same number, with a batch axis or without → candidates."""

    class_counts: tuple[int, ...] = ()

    def __init__(self, head: Head, names: tuple[str, str, str], boxes: _Boxes, *, batched: bool) -> None:
        self.head = head
        self.names = names
        self.boxes = boxes
        self.batched = batched

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int) -> Candidates:
        """Boxes above the threshold."""
        if not self.batched and index:
            raise InferenceError(
                f"output {self.names[0]} has no batch axis", got="several frames", expected="one at a time"
            )
        boxes, scores, labels = (
            outputs[name][index] if self.batched else outputs[name] for name in self.names
        )
        if self.head.count_output is not None:
            count = int(outputs[self.head.count_output].reshape(-1)[index])
            boxes, scores, labels = (part[: max(0, count)] for part in (boxes, scores, labels))
        if not np.isfinite(scores).all():
            raise not_finite(self.names[1])
        chosen = scores > self.head.lowest_score
        return Candidates(self.boxes(boxes[chosen]), scores[chosen], labels[chosen].astype(np.int64))


def create(
    head: Head, spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int
) -> ScoreEachClass | LabelEachBox:
    """Raises SpecError where the outputs do not fit, or more than boxes is asked for."""
    if extra:
        raise SpecError(
            "format boxes_scores has nothing behind its boxes", expected="format yolo or end_to_end"
        )
    boxes = _Boxes(head, spec.image.size_hw)
    if head.count_output is not None:
        named(outputs, head.count_output)
    if head.labels_output is None:
        return ScoreEachClass(find_pairs(head, outputs), boxes)
    three = [named(outputs, name) for name in _names(head, outputs)]
    rank = len(three[0].shape)
    if (
        rank not in (2, 3)
        or three[0].shape[-1] not in (4, None)
        or {len(info.shape) for info in three[1:]} != {rank - 1}
    ):
        raise SpecError(
            "the outputs do not hold boxes, scores and labels",
            got=", ".join(f"{info.name} {info.shape}" for info in three),
            expected="(N, A, 4), (N, A), (N, A), or the same without N",
        )
    names = (three[0].name, three[1].name, three[2].name)
    return LabelEachBox(head, names, boxes, batched=rank == 3)


def reading(spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> dict[str, Any] | None:
    """Boxes and labels for each, or more boxes with scores than a transformer has queries."""
    if extra:
        return None
    if len(outputs) == 2:
        try:
            find_pairs(Head(), outputs)
        except SpecError:
            return None
        return {}
    if len(outputs) != 3:
        return None
    boxes = [info for info in outputs if info.shape[-1:] == (4,) and len(info.shape) in (2, 3)]
    if len(boxes) != 1:
        return None
    others = [info for info in outputs if info is not boxes[0]]
    labels = [info for info in others if info.dtype.startswith(("int", "uint"))]
    if len(labels) != 1 or any(len(info.shape) != len(boxes[0].shape) - 1 for info in others):
        return None
    (scores,) = (info for info in others if info is not labels[0])
    return {"boxes_output": boxes[0].name, "scores_output": scores.name, "labels_output": labels[0].name}


def _names(head: Head, outputs: Sequence[TensorInfo]) -> list[str]:
    if head.boxes_output is None or head.scores_output is None or head.labels_output is None:
        raise SpecError(
            "labels_output stands alone",
            got=", ".join(info.name for info in outputs),
            remedy="Name all three: --head boxes_output=… --head scores_output=… --head labels_output=…",
        )
    return [head.boxes_output, head.scores_output, head.labels_output]
