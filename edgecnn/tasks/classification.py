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
from edgecnn.errors import InferenceError, SpecError
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
        """Flatten what follows the batch axis, and normalize.

        A logit of -inf is a class that cannot be. Raises InferenceError where the scores do not come out
        finite: a NaN would be the best class to some and the worst to others.
        """
        raw = outputs[self.output][: len(geometries)].reshape(len(geometries), -1)
        with np.errstate(all="ignore"):  # what comes of it is checked below, whatever the caller has set
            scores = raw.astype(np.float32, copy=False)
            if self.head.scores == "logits":
                scores = _sigmoid(scores) if self.head.multi_label else _softmax(scores)
        if not np.isfinite(scores).all():
            raise InferenceError(
                f"output {self.output} is infinite or NaN",
                expected="finite class scores",
                remedy="The network overflows: build it with --precision fp32, or check its preprocessing",
            )
        if self.labels and scores.shape[1] != len(self.labels):
            raise _labels_do_not_fit(len(self.labels), scores.shape[1])
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
    """Make the task.

    Raises:
        SpecError: the outputs leave open which one holds the scores, it does not have one number a class, or
            the labels do not fit.
    """
    head = read_head(spec, Head)
    names = [output.name for output in outputs]
    if head.output is None and len(names) != 1:
        raise SpecError(
            "which output holds the class scores?",
            got=", ".join(names),
            remedy="Name it: --head output=NAME (in Python, head={'output': NAME})",
        )
    name = head.output or names[0]
    if name not in names:
        raise SpecError("no such output", got=name, expected="one of " + ", ".join(names))
    shape = outputs[names.index(name)].shape
    sides = [side for side in shape[1:] if side != 1]  # (N, C), (N, C, 1, 1), (N, 1, 1, C)
    if len(shape) < 2 or (len(sides) > 1 and None not in sides):
        raise SpecError(
            f"output {name} does not hold class scores", got=str(shape), expected="one number a class: (N, C)"
        )
    if None not in sides:
        classes = sides[0] if sides else 1
        if spec.labels and classes != len(spec.labels):
            raise _labels_do_not_fit(len(spec.labels), classes)
        if classes == 1 and head.scores == "logits" and not head.multi_label:
            raise SpecError(
                f"output {name} has one class only, whose share is always 100%",
                expected="two classes or more, or classes that do not exclude each other",
                remedy="For yes or no: --head multi_label=true (in Python, head={'multi_label': True})",
            )
    return Classify(head, name, spec.labels)


def _labels_do_not_fit(labels: int, classes: int | None) -> SpecError:
    return SpecError(
        "labels do not fit the model", got=f"{labels} labels", expected=f"{classes}, one a class"
    )


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalized: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return normalized


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    small = np.exp(-np.abs(logits))  # exp of a positive number could overflow
    positive: NDArray[np.float32] = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return positive
