"""What objects are taken for: boxes of labels and of results, paired by overlap, whatever their class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.evaluation.objects import Objects
from edgecnn.tasks._boxes import pairwise_iou

__all__ = ["count_pairs"]

MATCH_IOU = 0.5


def count_pairs(
    truth: Objects, boxes_xyxy: NDArray[Any], class_ids: NDArray[np.int64], classes: Sequence[int]
) -> NDArray[np.int64]:
    """One frame's part of a confusion matrix.

    Args:
        truth: its labels.
        boxes_xyxy, class_ids: (n, 4), (n,): what was found.
        classes: those that are counted, in the order of rows and columns.

    Returns:
        (C + 1, C + 1): label (row) and result (column); the last of both is the background: a label that
        nothing covers with an IoU of 0.5, a result that covers no label. Results in a crowd are not counted.
    """
    place = {class_id: index for index, class_id in enumerate(classes)}
    nothing = len(classes)
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    shown, single = np.isin(class_ids, classes), ~truth.crowd
    rows = [place[c] for c in truth.class_ids[single].tolist()]
    columns = [place[c] for c in class_ids[shown].tolist()]
    boxes = boxes_xyxy[shown]
    pairs = list(_pairs(pairwise_iou(truth.boxes_xyxy[single], boxes)))
    for row, column in pairs:
        counts[rows[row], columns[column]] += 1
    for row in set(range(len(rows))) - {row for row, _ in pairs}:
        counts[rows[row], nothing] += 1
    in_crowd = _covered(boxes, truth.boxes_xyxy[truth.crowd])
    for column in set(range(len(columns))) - {column for _, column in pairs}:
        counts[nothing, columns[column]] += not in_crowd[column]
    return counts


def _pairs(iou: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """The best pairs first, each row and column in one at most."""
    left = iou.copy()
    while left.size:
        row, column = divmod(int(left.argmax()), left.shape[1])
        if left[row, column] < MATCH_IOU:
            return
        yield row, column
        left[row], left[:, column] = -1, -1


def _covered(boxes_xyxy: NDArray[Any], crowds_xyxy: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,): whether more than half of a box lies in one of the regions."""
    boxes, crowds = boxes_xyxy.astype(np.float64)[:, None], crowds_xyxy[None]
    sides = np.minimum(boxes[..., 2:], crowds[..., 2:]) - np.maximum(boxes[..., :2], crowds[..., :2])
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    covered: NDArray[np.bool_] = (sides.clip(0).prod(axis=-1) > areas / 2).any(axis=1)
    return covered
