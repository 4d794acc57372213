"""Classification: one score a class.

Softmax (single-label) or the logistic function (multi-label) is applied here unless the network ends in
it; which of the two it is, the head says:

    {"scores": "logits" | "probabilities", "multi_label": false, "output": "logits"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import Classification, Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks import read_head

__all__ = ["Head", "create"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """How to read a classifier's output.

    Attributes:
        scores: what the network gives: `logits`, or `probabilities` where it ends in softmax or sigmoid.
        multi_label: the classes do not exclude each other.
        output: name of the output with the scores; the only one where None.
    """

    scores: Literal["logits", "probabilities"] = "logits"
    multi_label: bool = False
    output: str | None = None


class Classify:
    """Scores (N, C) → one Classification a frame."""

    def __init__(self, head: Head, output: str, labels: tuple[str, ...]) -> None:
        self.head = head
        self.output = output
        self.labels = labels

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """Flatten what follows the batch axis, and normalize."""
        scores = outputs[self.output][: len(geometries)].reshape(len(geometries), -1).astype(np.float32, copy=False)
        if self.head.scores == "logits":
            scores = _sigmoid(scores) if self.head.multi_label else _softmax(scores)
        return [Classification(row, self.labels) for row in scores]

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Write the three most likely classes into the top left corner."""
        from edgecnn.drawing import draw_lines

        top = cast("Classification", result).top(3)
        draw_lines(image_bgr, [f"{entry.score:6.1%}  {entry.label}" for entry in top])

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """`top1_agreement`: do both name the same class?"""
        same = cast("Classification", reference).best.id == cast("Classification", result).best.id
        return {"top1_agreement": float(same)}


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> Classify:
    """Make the task. Raises SpecError where the outputs leave open which one holds the scores, or the labels do not fit."""
    head = read_head(spec, Head)
    names = [output.name for output in outputs]
    if head.output is None and len(names) != 1:
        raise SpecError("which output holds the class scores?", got=", ".join(names), remedy="Name it in the head's `output`")
    name = head.output or names[0]
    if name not in names:
        raise SpecError("no such output", got=name, expected="one of " + ", ".join(names))
    shape = outputs[names.index(name)].shape[1:]
    if spec.labels and all(isinstance(side, int) for side in shape):
        classes = int(np.prod(cast("tuple[int, ...]", shape)))
        if classes != len(spec.labels):
            raise SpecError("labels do not fit the model", got=f"{len(spec.labels)} labels", expected=f"{classes}, one a class")
    return Classify(head, name, spec.labels)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalized: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return normalized


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # exp of a positive number could overflow, and a warning is an error to some callers
    small = np.exp(-np.abs(logits))
    positive: NDArray[np.float32] = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return positive
