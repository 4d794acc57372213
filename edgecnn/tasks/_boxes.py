"""From a network's outputs to the boxes of a frame: format → candidates → NMS → frame pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.detections import Detections
from edgecnn.errors import InferenceError
from edgecnn.geometry import Geometry
from edgecnn.spec import ModelSpec
from edgecnn.tasks._formats import Candidates, Selection, open_format

__all__ = ["FARTHEST_PX", "BoxReader", "Boxes", "agreement", "corners", "match_boxes", "suppress"]

MAX_CANDIDATES = 10_000  # the surest; NMS takes time that grows with their square
FARTHEST_PX = 1e6  # a box reaches no farther: beyond, sums of coordinates lose whole pixels
MATCH_IOU = 0.5


class Boxes(NamedTuple):
    """The objects of one frame, and what the network says of each beyond its box.

    Attributes:
        detections: in pixels of the frame.
        inputs_xyxy: (N, 4) the same boxes in pixels of the input, not cut at any border.
        extras: (N, E) the numbers behind each box; E is 0 where the format has none.
    """

    detections: Detections
    inputs_xyxy: NDArray[np.float64]
    extras: NDArray[Any]


class BoxReader:
    """Reads boxes as the spec's head says.

    Args:
        spec: the model's.
        outputs: those that may hold boxes.
        head: options of the format.
        extra: numbers behind each box.

    Raises:
        SpecError: as `open_format`.
    """

    def __init__(
        self, spec: ModelSpec, outputs: Sequence[TensorInfo], *, head: Mapping[str, Any], extra: int = 0
    ) -> None:
        self.format, self.selection = open_format(spec, outputs, head=head, extra=extra)
        self.labels = spec.labels
        self.extra = extra
        self._class_min_scores = {
            spec.labels.index(name) if name in spec.labels else int(name): score
            for name, score in self.selection.class_min_scores.items()
        }

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int, geometry: Geometry) -> Boxes:
        """The boxes of frame `index`. Raises InferenceError where they or their scores are no numbers."""
        with np.errstate(all="ignore"):  # what comes of it is checked, whatever the caller has set
            return self._read(outputs, index, geometry)

    def _read(self, outputs: Mapping[str, NDArray[Any]], index: int, geometry: Geometry) -> Boxes:
        selection = self.selection
        found = self._checked(self.format.read(outputs, index))
        kept = found.take(suppress(found, selection))
        turned = None
        boxes = geometry.boxes_to_frame(kept.boxes_xyxy)
        if kept.angles_rad is not None:
            turned = geometry.to_frame(corners(kept.boxes_xyxy, kept.angles_rad)).astype(np.float32)
            height, width = geometry.frame_hw
            boxes = np.concatenate([turned.min(axis=1), turned.max(axis=1)], axis=1).clip(
                0, (width, height) * 2
            )
        sides = boxes[:, 2:] - boxes[:, :2]
        there = (sides > 0).all(axis=1) & (sides >= selection.min_side_px).all(axis=1)
        order = np.flatnonzero(there)[: selection.max_detections]
        detections = Detections(
            boxes_xyxy=boxes[order],
            scores=kept.scores[order].clip(0, 1).astype(np.float32),
            class_ids=kept.class_ids[order].astype(np.int64),
            labels=self.labels,
            corners_xy=None if turned is None else turned[order],
        )
        extras = np.zeros((len(kept.scores), 0)) if kept.extras is None else kept.extras
        return Boxes(detections, kept.boxes_xyxy[order], extras[order])

    def _checked(self, found: Candidates) -> Candidates:
        """Finite, above the threshold of their class, and not too many."""
        parts = (found.boxes_xyxy, found.extras, found.angles_rad)
        if not all(part is None or np.isfinite(part).all() for part in parts):
            raise InferenceError(
                "a box is infinite or NaN",
                got=f"among the {len(found.scores)} that score above {self.selection.lowest_score}",
                expected="finite coordinates",
                remedy="The network overflows: build it with --precision fp32, or check its preprocessing",
            )
        if self._class_min_scores:
            limits = defaultdict(lambda: self.selection.min_score, self._class_min_scores)
            least = np.array([limits[index] for index in found.class_ids.tolist()])
            found = found.take(found.scores > least)
        if len(found.scores) > MAX_CANDIDATES:
            found = found.take(np.argpartition(-found.scores, MAX_CANDIDATES)[:MAX_CANDIDATES])
        return found._replace(boxes_xyxy=np.clip(found.boxes_xyxy, -FARTHEST_PX, FARTHEST_PX))


def suppress(found: Candidates, selection: Selection) -> NDArray[np.intp]:
    """Indices of those that no surer one covers, the surest first (greedy non-maximum suppression)."""
    iou = selection.nms_iou
    if iou is None or len(found.scores) < 2:
        return np.argsort(-found.scores, kind="stable")
    import cv2

    classes = np.zeros(len(found.scores), np.int64) if selection.class_agnostic else found.class_ids
    if found.angles_rad is None:
        left_top = found.boxes_xyxy[:, :2]
        # OpenCV moves each class by the largest coordinate, which keeps them apart only if none is negative
        places = np.concatenate(
            [left_top - left_top.min(axis=0), (found.boxes_xyxy[:, 2:] - left_top).clip(0)], axis=1
        )
        # lists: this binding is slower with arrays
        kept = cv2.dnn.NMSBoxesBatched(places.tolist(), found.scores.tolist(), classes.tolist(), 0.0, iou)
        return np.asarray(kept, np.intp).reshape(-1)
    return _suppress_turned(found, found.angles_rad, classes, iou)


def _suppress_turned(
    found: Candidates, angles_rad: NDArray[Any], classes: NDArray[np.int64], iou: float
) -> NDArray[np.intp]:
    """The same for oriented boxes: each class apart, because OpenCV computes these in float32."""
    import cv2

    centres = (found.boxes_xyxy[:, :2] + found.boxes_xyxy[:, 2:]) / 2
    sizes = (found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]).clip(0)
    degrees = np.degrees(angles_rad)
    order = np.argsort(-found.scores, kind="stable")
    alive = np.zeros(len(order), bool)
    for class_id in np.unique(classes):
        members = np.flatnonzero(classes == class_id)
        turned = [
            (tuple(centres[member].tolist()), tuple(sizes[member].tolist()), float(degrees[member]))
            for member in members
        ]
        kept = cv2.dnn.NMSBoxesRotated(turned, found.scores[members].tolist(), 0.0, iou)
        alive[members[np.asarray(kept, np.intp).reshape(-1)]] = True
    return order[alive[order]]


def corners(boxes_xyxy: NDArray[Any], angles_rad: NDArray[Any]) -> NDArray[np.float64]:
    """(n, 4, 2): corners of boxes turned about their centres, clockwise from the one that was upper left."""
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    half = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / 2
    right = half[:, :1] * np.stack([np.cos(angles_rad), np.sin(angles_rad)], axis=1)
    down = half[:, 1:] * np.stack([-np.sin(angles_rad), np.cos(angles_rad)], axis=1)
    turned: NDArray[np.float64] = np.stack(
        [centres - right - down, centres + right - down, centres + right + down, centres - right + down],
        axis=1,
    )
    return turned


def pairwise_iou(first_xyxy: NDArray[Any], second_xyxy: NDArray[Any]) -> NDArray[np.float64]:
    """(n, 4), (m, 4) → (n, m) intersection over union."""
    first, second = first_xyxy.astype(np.float64)[:, None], second_xyxy.astype(np.float64)[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    both = sides.clip(0).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - both
    iou: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return iou


def match_boxes(reference: Detections, result: Detections) -> list[tuple[int, int]]:
    """Pairs of the same object: same class, IoU of 0.5 or more; the best pairs first, each box in one."""
    if not len(reference) or not len(result):
        return []
    iou = pairwise_iou(reference.boxes_xyxy, result.boxes_xyxy)
    iou[reference.class_ids[:, None] != result.class_ids[None]] = 0
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for place in np.argsort(-iou, axis=None, kind="stable").tolist():
        row, column = divmod(place, iou.shape[1])
        if iou[row, column] < MATCH_IOU:
            break
        if row not in used[0] and column not in used[1]:
            pairs.append((row, column))
            used[0].add(row)
            used[1].add(column)
    return pairs


def agreement(reference: Detections, result: Detections) -> dict[str, float]:
    """`box_agreement`: of all boxes of both, the share that has its like; 1 where there is none."""
    total = len(reference) + len(result)
    return {"box_agreement": 2 * len(match_boxes(reference, result)) / total if total else 1.0}
