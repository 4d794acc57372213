"""Keypoints: COCO JSON or YOLO labels with points. A label is `Objects` with keypoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecnn.evaluation.box_labels import ANY, box_items
from edgecnn.evaluation.box_metric import BoxMetric, every_score
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.objects import Objects, objects_of
from edgecnn.results import Result
from edgecnn.spec import ModelSpec

__all__ = ["create", "labels", "scoring_head", "truth_of"]


def create(spec: ModelSpec) -> BoxMetric:
    """See `edgecnn.evaluation.tasks`."""
    return BoxMetric(spec, ("bbox", "keypoints"))


def labels(place: Place) -> list[Item]:
    """Boxes and points. Raises DataError."""
    return box_items(place, masks=False, keypoints=place.spec.head.get("points", ANY))


def truth_of(spec: ModelSpec, result: Result) -> Objects:
    """The objects that were found."""
    return objects_of(result)


def scoring_head(head: Mapping[str, Any]) -> dict[str, Any]:
    """Without a threshold of the score."""
    return every_score(head)
