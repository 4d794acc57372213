"""Scores of many boxes and classes → which boxes are candidates. Work is done on what survives only."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.tasks._formats import not_finite

__all__ = ["Activation", "above", "from_cxcywh", "sigmoid"]

Activation = Literal["none", "sigmoid", "softmax"]


def above(
    values: NDArray[Any],
    threshold: float,
    *,
    output: str,
    activation: Activation = "none",
    multi_label: bool = False,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Which boxes score above a threshold: (their indices, classes, scores).

    Args:
        values: (C, A), one row a class.
        threshold: for the score, after the activation.
        output: the tensor's name, for the error.
        activation: what the network leaves to be done; softmax is over the classes.
        multi_label: a box may be a candidate for several classes; else for its best one.

    Raises:
        InferenceError: NaN or +inf. A logit of -inf is a class that cannot be.
    """
    if activation == "softmax":
        shifted = values.astype(np.float32)
        with np.errstate(all="ignore"):  # what comes of it is checked below
            shifted = np.exp(shifted - shifted.max(axis=0))
            values = shifted / shifted.sum(axis=0)
    limit = threshold
    if activation == "sigmoid":  # compared before it is applied, to what few will be left
        limit = (
            math.inf if threshold >= 1 else math.log(threshold / (1 - threshold)) if threshold else -math.inf
        )
    best = values.max(axis=0)
    if not (best < np.inf).all():  # NaN is not less either
        raise not_finite(output)
    boxes = np.flatnonzero(best > limit)
    if multi_label:
        classes, columns = np.nonzero(values[:, boxes] > limit)
        boxes = boxes[columns]
    else:
        classes = values[:, boxes].argmax(axis=0)
    scores = values[classes, boxes].astype(np.float32)
    return boxes, classes, sigmoid(scores) if activation == "sigmoid" else scores


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float32]:
    """The logistic function, which does not overflow."""
    logits = logits.astype(np.float32, copy=False)
    small = np.exp(-np.abs(logits))
    scores: NDArray[np.float32] = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return scores


def from_cxcywh(boxes: NDArray[Any]) -> NDArray[Any]:
    """(n, 4) centre, width, height → left, top, right, bottom."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
