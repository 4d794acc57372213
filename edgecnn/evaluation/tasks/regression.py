"""Regression: a map of numbers for each image. A label is (H, W) float32, NaN where nothing is known.

Over the pixels of all images that label and result know, d the result's number and t the label's:

    rmse = √ mean (d − t)²      mae = mean |d − t|      in the model's unit; 0 is the best
    abs_rel = mean |d − t| / t      delta_1 = share with max(d / t, t / d) < 1.25      where t > 0
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError
from edgecnn.evaluation.folders import label_pairs
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.maps import read_values
from edgecnn.evaluation.scores import Scores, of_units
from edgecnn.results import Result, ValueMap
from edgecnn.spec import ModelSpec

__all__ = ["RegressionMetric", "create", "labels", "truth_of"]

CLOSE = 1.25


class RegressionMetric:
    """Keeps six sums of each image."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    def add(self, truth: NDArray[np.float32], result: Result) -> None:
        """See `Metric.add`."""
        values = cast("ValueMap", result).values
        known = np.isfinite(truth) & np.isfinite(values)
        wanted, got = truth[known].astype(np.float64), values[known].astype(np.float64)
        error = np.abs(got - wanted)
        above = wanted > 0
        low, high = np.minimum(got, wanted)[above], np.maximum(got, wanted)[above]
        self._rows.append(
            [
                float(len(error)), float(error @ error), float(error.sum()),
                float(above.sum()), float((error[above] / wanted[above]).sum()),
                float(((low > 0) & (high < CLOSE * low)).sum()),
            ]
        )  # fmt: skip

    def scores(self) -> Scores:
        """See `Metric.scores`."""
        rows = np.array(self._rows)
        if not rows[:, 0].sum():
            raise DataError("there is nothing to compare with", got="maps without a known number")
        return Scores(metrics=_metrics(rows.sum(axis=0)), intervals=of_units(rows, _metrics))


def _metrics(sums: NDArray[Any]) -> dict[str, float]:
    known, squares, errors, above, relative, close = sums.tolist()
    if not known:  # images that were drawn show no known number
        return {}
    metrics = {"rmse": math.sqrt(squares / known), "mae": errors / known}
    if above:
        metrics |= {"abs_rel": relative / above, "delta_1": close / above}
    return metrics


def create(spec: ModelSpec) -> RegressionMetric:
    """See `edgecnn.evaluation.tasks`."""
    return RegressionMetric()


def labels(place: Place) -> list[Item]:
    """`maps/NAME.npy` or `.png` for `images/NAME.jpg`, or `NAME_map.npy` beside it. Raises DataError."""
    pairs = label_pairs(place, "maps", (".npy", ".png", "_map.npy", "_map.png"))
    return [Item(image, partial(_read, path)) for image, path in pairs]


def truth_of(spec: ModelSpec, result: Result) -> NDArray[np.float32]:
    """The numbers that were found."""
    return cast("ValueMap", result).values


def _read(path: Path, frame_hw: tuple[int, int]) -> NDArray[np.float32]:
    return read_values(path, frame_hw)
