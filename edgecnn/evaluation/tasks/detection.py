"""Detection: COCO JSON or YOLO labels. A label is `Objects`; `box_metric` has the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecnn.evaluation.box_labels import box_items
from edgecnn.evaluation.box_metric import BoxMetric, every_score
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.objects import Objects, objects_of
from edgecnn.results import Result
from edgecnn.spec import ModelSpec

__all__ = ["create", "labels", "scoring_head", "truth_of"]


def create(spec: ModelSpec) -> BoxMetric:
    """See `edgecnn.evaluation.tasks`."""
    return BoxMetric(spec, ("bbox",))


def labels(place: Place) -> list[Item]:
    """Boxes; of a polygon, the box around it. Raises DataError."""
    return box_items(place, masks=False, keypoints=None)


def truth_of(spec: ModelSpec, result: Result) -> Objects:
    """The boxes that were found."""
    return objects_of(result)


def scoring_head(head: Mapping[str, Any]) -> dict[str, Any]:
    """Without a threshold of the score."""
    return every_score(head)
