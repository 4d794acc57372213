"""Classification: a folder a class, or a JSON object from file names to classes. A label is a class id.

top1, top5           share of images whose class is the best, among the five best
balanced_accuracy    mean over classes of the share of its images that are found
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError
from edgecnn.evaluation.folders import named_images
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.reading import match_classes
from edgecnn.evaluation.scores import Confusion, Scores, of_units
from edgecnn.results import Classification, Result
from edgecnn.spec import ModelSpec

__all__ = ["ClassificationMetric", "create", "labels", "truth_of"]


class ClassificationMetric:
    """Keeps of each image its class, the class that was found, and the rank of its own."""

    def __init__(self, spec: ModelSpec) -> None:
        self.labels = spec.labels
        self._rows: list[tuple[int, int, int]] = []
        self._classes = 0

    def add(self, truth: int, result: Result) -> None:
        """Raises DataError for a class that the model does not have."""
        scores = cast("Classification", result).scores
        self._classes = len(scores)
        if truth >= len(scores):
            raise DataError(
                "a class that the model does not have", got=str(truth), expected=f"0 to {len(scores) - 1}"
            )
        order = np.argsort(-scores, kind="stable")
        self._rows.append((truth, int(order[0]), int(np.flatnonzero(order == truth)[0])))

    def scores(self) -> Scores:
        """See `Metric.scores`."""
        truth, found, rank = np.array(self._rows, np.int64).T
        classes = np.unique(np.concatenate([truth, found]))
        place = np.searchsorted(classes, truth), np.searchsorted(classes, found)
        counts = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(counts, place, 1)
        labelled, taken, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
        names = tuple(self.labels[index] if self.labels else str(index) for index in classes.tolist())
        per_class = {
            name: {
                "images": float(labelled[index]),
                "accuracy": right[index] / labelled[index],
                "precision": right[index] / taken[index] if taken[index] else 0.0,
            }
            for index, name in enumerate(_apart(names))
            if labelled[index]
        }
        hits = {"top1": rank == 0}
        if self._classes > 5:
            hits["top5"] = rank < 5
        metrics = {name: float(hit.mean()) for name, hit in hits.items()}
        there = labelled > 0
        metrics["balanced_accuracy"] = float((right[there] / labelled[there]).mean())
        rows = np.stack([np.ones(len(rank)), *hits.values()], axis=1)

        def shares(sums: NDArray[Any]) -> dict[str, float]:
            return {name: float(sums[1 + index] / sums[0]) for index, name in enumerate(hits)}

        return Scores(
            metrics=metrics,
            intervals=of_units(rows, shares),
            per_class=per_class,
            confusion=Confusion(labels=names, counts=counts, of="images"),
        )


def _apart(names: tuple[str, ...]) -> list[str]:
    """Names that are there twice, as among ImageNet's, with a number behind."""
    seen: dict[str, int] = {}
    apart = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        apart.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return apart


def create(spec: ModelSpec) -> ClassificationMetric:
    """See `edgecnn.evaluation.tasks`."""
    return ClassificationMetric(spec)


def labels(place: Place) -> list[Item]:
    """A folder a class, called by its name or its class id. Raises DataError."""
    named = named_images(place)
    ids = match_classes({name: name for _, name in named}, place.spec.labels, where=str(place.data))
    return [Item(path, lambda frame_hw, class_id=ids[name]: class_id) for path, name in named]  # type: ignore[misc]


def truth_of(spec: ModelSpec, result: Result) -> int:
    """The best class."""
    return cast("Classification", result).best.id
