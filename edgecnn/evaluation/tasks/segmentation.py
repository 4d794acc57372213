"""Semantic segmentation: a mask of class ids for each image. A label is (H, W) uint8 or uint16, or bool.

Over the pixels of all images, with i(c) those of class c in both, t(c) in the label, p(c) in the result:

    iou(c)  = i / (t + p − i)        dice(c) = 2i / (t + p)
    mean_iou, mean_dice    means over the classes that a label or a result shows
    pixel_accuracy         Σ i / Σ t
    foreground_iou, foreground_dice     of two classes, those of class 1

A pixel with the largest number of its type (255, 65535) has no label and does not count.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError
from edgecnn.evaluation.folders import label_pairs
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.maps import check_size, read_mask
from edgecnn.evaluation.scores import Confusion, Scores, of_units
from edgecnn.results import UNSEEN, Result, Segmentation
from edgecnn.spec import ModelSpec

__all__ = ["SegmentationMetric", "create", "labels", "truth_of"]

SAMPLED = 32  # masks that are looked at to find out what 255 means
MOST_IN_TABLE = 256  # classes with a confusion matrix


class SegmentationMetric:
    """Keeps three counts of each image and class, and one table."""

    def __init__(self, spec: ModelSpec) -> None:
        self.labels = spec.labels
        self._rows: list[NDArray[np.int64]] = []  # (3, classes so far): both, label, result
        self._pairs = np.zeros((0, 0), np.int64)

    def add(self, truth: NDArray[Any], result: Result) -> None:
        """Raises DataError for a class that the model does not have, or a label without any pixel."""
        found = cast("Segmentation", result).class_map
        known = truth != UNSEEN[truth.dtype] if truth.dtype in UNSEEN else np.ones(truth.shape, bool)
        wanted, got = truth[known].astype(np.int64), found[known].astype(np.int64)
        got[got == UNSEEN[found.dtype]] = -1  # wrong, whatever the label says
        highest = int(wanted.max(initial=-1))
        if self.labels and highest >= len(self.labels):
            raise DataError(
                "a mask holds a class that the model does not have",
                got=str(highest),
                expected=f"0 to {len(self.labels) - 1}, or {np.iinfo(truth.dtype).max} for none",
            )
        classes = max(highest, int(got.max(initial=-1)), len(self.labels) - 1) + 1
        same = np.bincount(wanted[wanted == got], minlength=classes)
        mine = np.bincount(wanted, minlength=classes)
        self._rows.append(np.stack([same, mine, np.bincount(got[got >= 0], minlength=classes)]))
        if classes <= MOST_IN_TABLE:
            side = classes + 1  # a column for pixels that the network was not shown
            pairs = np.bincount(wanted * side + np.where(got < 0, classes, got), minlength=side * side)
            self._add_pairs(pairs.reshape(-1, side)[:side])

    def _add_pairs(self, pairs: NDArray[np.int64]) -> None:
        side = max(len(self._pairs), len(pairs))
        total = np.zeros((side, side), np.int64)
        for table in (self._pairs, pairs):
            inner = max(0, len(table) - 1)
            total[:inner, :inner] += table[:inner, :inner]
            if inner:
                total[:inner, -1] += table[:inner, -1]
        self._pairs = total

    def scores(self) -> Scores:
        """See `Metric.scores`."""
        classes = max(row.shape[1] for row in self._rows)
        rows = np.stack([np.pad(row, ((0, 0), (0, classes - row.shape[1]))) for row in self._rows])
        totals = rows.sum(axis=0)
        same, mine, got = totals
        if not mine.sum():
            raise DataError("there is nothing to compare with", got="masks without a labelled pixel")
        names = [self.labels[index] if self.labels else str(index) for index in range(classes)]
        per_class = {
            names[index]: {
                "iou": same[index] / (mine[index] + got[index] - same[index]),
                "dice": 2 * same[index] / (mine[index] + got[index]),
                "share": mine[index] / mine.sum(),
            }
            for index in np.flatnonzero(mine + got).tolist()
        }
        table = None
        if classes <= MOST_IN_TABLE:
            table = Confusion(labels=(*names, "not seen"), counts=self._pairs, of="pixels")
            if not self._pairs[:, -1].any():
                table = Confusion(labels=tuple(names), counts=self._pairs[:-1, :-1], of="pixels")
        return Scores(
            metrics=_metrics(totals), intervals=of_units(rows, _metrics), per_class=per_class, confusion=table
        )


def _metrics(totals: NDArray[Any]) -> dict[str, float]:
    same, mine, got = totals
    if not mine.any():  # images that were drawn show no labelled pixel
        return {}
    there = mine + got > 0
    iou = same[there] / (mine + got - same)[there]
    dice = 2 * same[there] / (mine + got)[there]
    metrics = {
        "mean_iou": float(iou.mean()),
        "mean_dice": float(dice.mean()),
        "pixel_accuracy": float(same.sum() / mine.sum()),
    }
    if len(same) == 2 and there[1]:
        metrics |= {"foreground_iou": float(iou[-1]), "foreground_dice": float(dice[-1])}
    return metrics


def create(spec: ModelSpec) -> SegmentationMetric:
    """See `edgecnn.evaluation.tasks`."""
    return SegmentationMetric(spec)


def labels(place: Place) -> list[Item]:
    """`masks/NAME.png` for `images/NAME.jpg`, or `NAME_mask.png` beside it. Raises DataError."""
    pairs = label_pairs(place, "masks", (".png", "_mask.png", ".mask.png"))
    binary = len(place.spec.labels) <= 2 and _is_black_and_white([mask for _, mask in pairs])
    return [Item(image, partial(_read, mask, binary)) for image, mask in pairs]


def truth_of(spec: ModelSpec, result: Result) -> NDArray[Any]:
    """The classes that were found."""
    return cast("Segmentation", result).class_map


def _read(path: Path, binary: bool, frame_hw: tuple[int, int]) -> NDArray[Any]:
    mask = read_mask(path)
    check_size(mask, frame_hw, path)
    return (mask == np.iinfo(mask.dtype).max).astype(np.uint8) if binary else mask


def _is_black_and_white(paths: list[Path]) -> bool:
    """Whether the largest number stands for class 1: masks of a sample hold it and 0, and nothing else."""
    white = False
    for path in paths[:: max(1, len(paths) // SAMPLED)][:SAMPLED]:
        mask = read_mask(path)
        most = np.iinfo(mask.dtype).max
        if ((mask != 0) & (mask != most)).any():
            return False
        white = white or bool((mask == most).any())
    return white
