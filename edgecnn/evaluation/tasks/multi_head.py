"""Several tasks of one network: `images/`, and beside it for each head labels of its name.

    drive/
      images/0001.jpg …
      lanes/0001.png …       masks of the head `lanes`
      objects.json           COCO's boxes of the head `objects`

Each head's labels are as its task has them. A label is head → that head's label; a head without labels is not
evaluated, and an image may have labels for some heads only. Metrics are `HEAD.METRIC`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from edgecnn.errors import UnlabelledError
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.scores import Scores
from edgecnn.evaluation.tasks import Metric, available_metrics, metric_module
from edgecnn.evaluation.tasks import scoring_head as head_for_scoring
from edgecnn.results import MultiResult, Result
from edgecnn.spec import ImageSpec, ModelSpec

__all__ = ["MultiMetric", "create", "labels", "scoring_head", "truth_of"]


class MultiMetric:
    """A metric for each head; one that there are no labels for is left out."""

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self._specs = specs
        self._metrics: dict[str, Metric] = {}

    def add(self, truth: Mapping[str, Any], result: Result) -> None:
        """See `Metric.add`."""
        for name, own in truth.items():
            if name not in self._metrics:
                spec = self._specs[name]
                self._metrics[name] = metric_module(spec.task).create(spec)
            self._metrics[name].add(own, cast("MultiResult", result)[name])

    def scores(self) -> Scores:
        """See `Metric.scores`."""
        parts = {name: self._metrics[name].scores() for name in self._specs if name in self._metrics}
        return Scores(
            metrics={f"{name}.{m}": v for name, part in parts.items() for m, v in part.metrics.items()},
            intervals={f"{name}.{m}": v for name, part in parts.items() for m, v in part.intervals.items()},
            parts=parts,
        )


def create(spec: ModelSpec) -> MultiMetric:
    """See `edgecnn.evaluation.tasks`."""
    return MultiMetric(_specs(spec))


def labels(place: Place) -> list[Item]:
    """The images that have a label for any head. Raises DataError."""
    images = place.images or place.data / "images"
    merged: dict[Path, dict[str, Any]] = {}
    for name, spec in _specs(place.spec).items():
        candidates = (place.data / name, place.data / f"{name}.json")
        data = next((path for path in candidates if path.exists()), None)
        if data is None or Path(name).name != name:
            continue
        for item in metric_module(spec.task).labels(Place(data=data, images=images, spec=spec)):
            merged.setdefault(item.path.resolve(), {})[name] = item.read
    if not merged:
        raise UnlabelledError(
            f"no labels in {place.data}",
            expected="images/, and a folder or .json for a head: " + ", ".join(_specs(place.spec)),
        )
    return [Item(path, partial(_read, readers)) for path, readers in merged.items()]


def truth_of(spec: ModelSpec, result: Result) -> dict[str, Any]:
    """What each head found, but for those that cannot stand for a label."""
    return {
        name: metric_module(own.task).truth_of(own, cast("MultiResult", result)[name])
        for name, own in _specs(spec).items()
        if hasattr(metric_module(own.task), "truth_of")
    }


def scoring_head(head: Mapping[str, Any]) -> dict[str, Any]:
    """Each part's head as its metric wants it."""
    specs = _specs(ModelSpec(task="multi_head", image=ImageSpec(size_hw=(1, 1)), head=head))
    return {
        name: {**part, "head": dict(head_for_scoring(specs[name]))} if name in specs else part
        for name, part in head.items()
    }


def _specs(spec: ModelSpec) -> dict[str, ModelSpec]:
    """Of each head that there is a metric for, its own spec."""
    return {
        name: replace(
            spec, task=part["task"], head=part.get("head", {}), labels=tuple(part.get("labels", ()))
        )
        for name, part in spec.head.items()
        if part["task"] in available_metrics()
    }


def _read(readers: Mapping[str, Any], frame_hw: tuple[int, int]) -> dict[str, Any]:
    return {name: read(frame_hw) for name, read in readers.items()}
