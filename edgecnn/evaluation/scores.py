"""What an evaluation finds: numbers with names, their intervals, tables and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LOWER_IS_BETTER",
    "Confusion",
    "Curve",
    "Scores",
    "higher_is_better",
    "interval",
    "of_units",
    "resamples",
]

LOWER_IS_BETTER = frozenset({"rmse", "mae", "abs_rel"})
"""Metrics that are errors; all others are in [0, 1], and 1 is the best."""

RESAMPLES = 500
SEED = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Confusion:
    """How often what is labelled as one class was taken for another.

    Attributes:
        labels: class names, of rows and columns alike.
        counts: (C, C) int64: what the label says (row), what the model says (column).
        of: what is counted: `images`, `objects` or `pixels`.
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    of: str

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"of": self.of, "labels": list(self.labels), "counts": self.counts.tolist()}


@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """Curves over one axis.

    Attributes:
        name: in snake case, such as `pr_curve`.
        x_label, y_label: what the axes are.
        series: name of a curve → its (x, y), both (n,) float64.
    """

    name: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, numbers rounded to 1/100,000."""
        series = {
            name: {"x": np.round(x, 5).tolist(), "y": np.round(y, 5).tolist()}
            for name, (x, y) in self.series.items()
        }
        return {"name": self.name, "x": self.x_label, "y": self.y_label, "series": series}


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """What a task's metric has to say.

    Attributes:
        metrics: name → value; docs/evaluation.md defines them.
        intervals: of some metrics, from where to where 95 of 100 data sets of these images would put them
            (bootstrap over images): how far a small data set can be trusted.
        per_class: class name → metric → value.
        confusion: None where the task has none.
        curves: for plots.
        parts: of a network of several tasks, each one's own.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    confusion: Confusion | None = None
    curves: tuple[Curve, ...] = ()
    parts: Mapping[str, Scores] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, with what there is."""
        found: dict[str, Any] = {"metrics": dict(self.metrics)}
        if self.intervals:
            found["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        if self.per_class:
            found["per_class"] = {name: dict(values) for name, values in self.per_class.items()}
        if self.confusion is not None:
            found["confusion"] = self.confusion.to_dict()
        if self.curves:
            found["curves"] = [curve.to_dict() for curve in self.curves]
        if self.parts:
            found["heads"] = {name: part.to_dict() for name, part in self.parts.items()}
        return found


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better; a head's name in front does not matter."""
    return metric.rpartition(".")[2] not in LOWER_IS_BETTER


def resamples(count: int, rounds: int = RESAMPLES) -> list[NDArray[np.intp]]:
    """Indices of as many images as there are, drawn with replacement, the same each time."""
    generator = np.random.default_rng(SEED)
    return [generator.integers(0, count, count) for _ in range(rounds)]


def interval(values: list[float]) -> tuple[float, float]:
    """From the 2.5th to the 97.5th percentile."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def of_units(
    rows: NDArray[Any], combine: Callable[[NDArray[Any]], Mapping[str, float]]
) -> dict[str, tuple[float, float]]:
    """Intervals of metrics that follow from sums over images.

    Args:
        rows: (images, …): what each image adds.
        combine: the sums over images → the metrics.
    """
    if len(rows) < 2:
        return {}
    found: dict[str, list[float]] = {}
    generator = np.random.default_rng(SEED)
    for _ in range(RESAMPLES):
        times = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)))
        for name, value in combine(np.tensordot(times, rows, axes=1)).items():
            found.setdefault(name, []).append(value)
    return {name: interval(values) for name, values in found.items()}
