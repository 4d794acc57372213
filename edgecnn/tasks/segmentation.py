"""Semantic segmentation: a class for each pixel, at the frame's resolution.

What the output is, its shape and type say:

    integers (N, h, w) or (N, 1, h, w)     class ids, chosen in the graph
    floats (N, C, h, w)                    a score a class; the highest is the class
    floats (N, 1, h, w) or (N, h, w)       how sure it is class 1 and not class 0

    {"scores": "logits", "threshold": 0.5}

Classes are brought to the frame by taking the nearest cell; of a single score, the frame's pixels are
interpolated before the threshold, which gives smooth edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import InferenceError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.resampling import linear, nearest, seen
from edgecnn.results import UNSEEN, Result, Segmentation
from edgecnn.spec import ModelSpec
from edgecnn.tasks import read_head
from edgecnn.tasks._formats import not_finite
from edgecnn.values import check

__all__ = ["Head", "create"]

MOST_CLASSES = 65535


@dataclass(frozen=True, kw_only=True)
class Head:
    """How to read the output.

    Attributes:
        output: its name; the only one where None.
        scores: of a single score: `logits`, or `probabilities` where the network ends in a sigmoid.
        threshold: of a single score: from which probability on a pixel is of class 1.
    """

    output: str | None = None
    scores: Literal["logits", "probabilities"] = "logits"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check("threshold", self.threshold, 0 < self.threshold < 1, "a number between 0 and 1")


class Segment:
    """Class ids or scores → one Segmentation a frame."""

    def __init__(self, head: Head, output: str, spec: ModelSpec) -> None:
        self.output = output
        self.labels = spec.labels
        self.input_hw = spec.image.size_hw
        self.limit = head.threshold
        if head.scores == "logits":
            self.limit = math.log(head.threshold / (1 - head.threshold))

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """Class ids at the frame's resolution. Raises InferenceError where scores are NaN or ids are none."""
        results: list[Result] = []
        for values, geometry in zip(outputs[self.output], geometries, strict=False):  # rows may be left over
            ids = self._ids(values, geometry)
            shown = seen(geometry, self.input_hw)
            class_map = ids
            if (shown[0].stop - shown[0].start, shown[1].stop - shown[1].start) != geometry.frame_hw:
                class_map = np.full_like(ids, UNSEEN[ids.dtype])
                class_map[shown] = ids[shown]
            results.append(Segmentation(class_map, self.labels))
        return results

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Tint the classes, and name those that are most of the frame."""
        from edgecnn.drawing import draw_class_map

        draw_class_map(image_bgr, cast("Segmentation", result).class_map, self.labels)

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """`mean_iou` over the classes that either shows, and `pixel_agreement`, the share of equal pixels."""
        first, second = cast("Segmentation", reference).class_map, cast("Segmentation", result).class_map
        size = int(max(first.max(), second.max())) + 1
        pairs = np.bincount(first.ravel().astype(np.int64) * size + second.ravel(), minlength=size * size)
        table = pairs.reshape(size, size)
        same = np.diag(table).astype(np.float64)
        union = table.sum(axis=0) + table.sum(axis=1) - same
        there = union > 0
        return {
            "mean_iou": float((same[there] / union[there]).mean()),
            "pixel_agreement": float(same.sum() / table.sum()),
        }

    def _ids(self, values: NDArray[Any], geometry: Geometry) -> Any:
        """(H, W) uint8 or uint16."""
        if values.ndim == 3 and len(values) > 1:
            return nearest(best_class(_finite(values, self.output)), geometry, self.input_hw)
        plane = values.reshape(values.shape[-2:])
        if np.issubdtype(plane.dtype, np.floating):
            scores = linear(_finite(plane, self.output), geometry, self.input_hw)
            return (scores >= self.limit).astype(np.uint8)
        low, high = int(plane.min()), int(plane.max())
        most = len(self.labels) or MOST_CLASSES
        if low < 0 or high >= most:
            raise InferenceError(
                f"output {self.output} holds what is no class id",
                got=f"{low} to {high}",
                expected=f"0 to {most - 1}",
            )
        return nearest(plane.astype(_id_type(max(high + 1, len(self.labels)))), geometry, self.input_hw)


def best_class(scores: NDArray[np.float32]) -> NDArray[Any]:
    """(C, h, w) → (h, w): the class with the highest score, the first of equal ones.

    A running maximum, plane by plane: five times as fast as argmax over the slowest axis.
    """
    import cv2

    best = scores[0].copy()
    ids = np.zeros(best.shape, _id_type(len(scores)))
    higher, id_plane = np.empty(best.shape, np.uint8), np.empty_like(ids)
    for index in range(1, len(scores)):
        cv2.compare(scores[index], best, cv2.CMP_GT, higher)
        id_plane.fill(index)
        cv2.copyTo(id_plane, higher, ids)
        cv2.max(scores[index], best, best)
    return ids


def _id_type(classes: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if classes <= UNSEEN[np.dtype(np.uint8)] else np.uint16


def _finite(values: NDArray[Any], output: str) -> NDArray[np.float32]:
    values = np.ascontiguousarray(values, np.float32)
    flat = values.reshape(-1)
    with np.errstate(all="ignore"):
        total = flat @ flat  # NaN and infinity come through, and it is the fastest way to look at all
    if not np.isfinite(total) and not np.isfinite(values).all():
        raise not_finite(output)
    return values


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> Segment:
    """Make the task.

    Raises:
        SpecError: the outputs leave open which one holds the classes, it is no map, or the labels do not fit.
    """
    head = read_head(spec, Head)
    names = [output.name for output in outputs]
    if head.output is None and len(names) != 1:
        raise SpecError(
            "which output holds the classes?", got=", ".join(names), remedy="Name it: --head output=NAME"
        )
    name = head.output or names[0]
    if name not in names:
        raise SpecError("no such output", got=name, expected="one of " + ", ".join(names))
    info = outputs[names.index(name)]
    is_float = info.dtype.startswith("float")
    channels = info.shape[1] if len(info.shape) == 4 else 1
    if len(info.shape) not in (3, 4) or (not is_float and channels not in (1, None)):
        raise SpecError(
            f"output {name} is no map of classes",
            got=f"{info.dtype} {info.shape}",
            expected="scores (N, classes, h, w), or integers (N, h, w)",
        )
    if spec.labels and is_float and channels is not None:
        classes = 2 if channels == 1 else channels
        if len(spec.labels) != classes:
            raise SpecError(
                "labels do not fit the model",
                got=f"{len(spec.labels)} labels",
                expected=f"{classes}, one a class",
            )
    return Segment(head, name, spec)
