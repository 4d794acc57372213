"""Keypoints: places of a body, a face, a tool.

Two ways of writing them:

- behind each box, as YOLO-pose does: x, y and perhaps a score for each point, in the row of a format of boxes
  (`yolo` or `end_to_end`): {"points": 17, "format": "yolo", "objectness": false}
- heat maps (N, K, h, w) of one object that fills the frame, as HRNet and SimpleBaseline do:
  {"format": "heatmaps"}. The place is the maximum, moved a quarter of a cell towards the higher one of its
  neighbours on each axis (Newell et al., Stacked Hourglass Networks, 2016); the score is the maximum.

`skeleton` lists pairs of points that are drawn with a line between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.detections import Detections
from edgecnn.errors import SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks import read_head, split_head
from edgecnn.tasks._boxes import FARTHEST_PX, BoxReader, agreement, match_boxes
from edgecnn.tasks._formats import find_format, not_finite, pick_output
from edgecnn.tasks._formats._scores import sigmoid
from edgecnn.values import check

__all__ = ["Head", "HeatMapHead", "complete", "create"]

NEAR = 0.05  # of the box's diagonal: points that are no farther apart agree


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is not about boxes, for points behind boxes.

    Attributes:
        points: how many each object has.
        values: numbers a point: 3 (x, y, score) or 2 (x, y).
        skeleton: pairs of points, from 0.
    """

    points: int
    values: int = 3
    skeleton: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check("points", self.points, 1 <= self.points <= 10_000, "1 to 10000")
        check("values", self.values, self.values in (2, 3), "2 (x, y) or 3 (x, y, score)")
        _check_skeleton(self.skeleton, self.points)


@dataclass(frozen=True, kw_only=True)
class HeatMapHead:
    """How to read heat maps.

    Attributes:
        activation: what is still to be done to the heat.
        min_score: a point counts for the box around all points where its score is above this.
        output: (N, K, h, w); the only one with four axes where None.
        skeleton: pairs of points, from 0.
    """

    format: str = "heatmaps"
    activation: str = "none"
    min_score: float = 0.2
    output: str | None = None
    skeleton: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check("activation", self.activation, self.activation in ("none", "sigmoid"), "none or sigmoid")


class _Keypoints:
    """What both ways share."""

    skeleton: tuple[tuple[int, int], ...]

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Draw each object's box, points and skeleton."""
        from edgecnn.drawing import draw_detections

        draw_detections(image_bgr, cast("Detections", result), skeleton=self.skeleton)

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """`box_agreement` as detection, and `keypoint_agreement`.

        The latter is the share of points of matching objects that are no farther apart than a twentieth of
        the box's diagonal.
        """
        first, second = cast("Detections", reference), cast("Detections", result)
        metrics = agreement(first, second)
        shares = []
        if first.keypoints_xys is not None and second.keypoints_xys is not None:
            for row, column in match_boxes(first, second):
                box = first.boxes_xyxy[row].astype(np.float64)
                apart = first.keypoints_xys[row, :, :2] - second.keypoints_xys[column, :, :2]
                near = np.hypot(*apart.T.astype(np.float64)) <= NEAR * np.hypot(*(box[2:] - box[:2]))
                shares.append(float(near.mean()))
        metrics["keypoint_agreement"] = sum(shares) / len(shares) if shares else metrics["box_agreement"]
        return metrics


class PointsBehindBoxes(_Keypoints):
    """Rows of boxes and points → one Detections with keypoints a frame."""

    def __init__(self, head: Head, reader: BoxReader, scale_xy: tuple[int, int]) -> None:
        self.head = head
        self.scale_xy = scale_xy
        self.skeleton = head.skeleton
        self.reader = reader

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """As detection, with points in pixels of the frame; a point may lie outside."""
        results: list[Result] = []
        for index, geometry in enumerate(geometries):
            boxes = self.reader.read(outputs, index, geometry)
            values = boxes.extras.reshape(-1, self.head.points, self.head.values)
            points = np.ones((*values.shape[:2], 3), np.float32)
            places = values[..., :2].astype(np.float64) * self.scale_xy
            points[..., :2] = geometry.to_frame(places.clip(-FARTHEST_PX, FARTHEST_PX))
            if self.head.values == 3:
                points[..., 2] = values[..., 2].clip(0, 1)
            results.append(replace(boxes.detections, keypoints_xys=points))
        return results


class HeatMaps(_Keypoints):
    """Heat maps of one object → one Detections with one object a frame."""

    def __init__(self, head: HeatMapHead, output: str, spec: ModelSpec) -> None:
        self.head = head
        self.skeleton = head.skeleton
        self.output = output
        self.labels = spec.labels
        self.size_hw = spec.image.size_hw

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """One object with all points; none where no point scores above `min_score`."""
        return [
            self._object(outputs[self.output][index], geometry) for index, geometry in enumerate(geometries)
        ]

    def _object(self, heat: NDArray[Any], geometry: Geometry) -> Detections:
        count, rows, columns = heat.shape
        places, scores = peaks(heat)
        if not np.isfinite(scores).all():
            raise not_finite(self.output)
        if self.head.activation == "sigmoid":
            scores = sigmoid(scores)
        step = np.array([self.size_hw[1] / columns, self.size_hw[0] / rows])
        points = np.concatenate([geometry.to_frame(places * step), scores.clip(0, 1)[:, None]], axis=1)
        sure = scores > self.head.min_score
        if not sure.any():
            empty = np.zeros((0, count, 3), np.float32)
            return replace(Detections.empty(self.labels), keypoints_xys=empty)
        height, width = geometry.frame_hw
        around = points[sure, :2].clip(0, (width, height))
        return Detections(
            boxes_xyxy=np.concatenate([around.min(axis=0), around.max(axis=0)])[None].astype(np.float32),
            scores=scores[sure].mean(keepdims=True).clip(0, 1).astype(np.float32),
            class_ids=np.zeros(1, np.int64),
            labels=self.labels,
            keypoints_xys=points[None].astype(np.float32),
        )


def peaks(heat: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """(K, h, w) → places (K, 2) as x, y in cells, continuous, and the heat there (K,)."""
    count, rows, columns = heat.shape
    each = np.arange(count)
    row, column = np.divmod(heat.reshape(count, -1).argmax(axis=1), columns)
    places = np.stack([column, row], axis=1) + 0.5
    right = heat[each, row, np.minimum(column + 1, columns - 1)]
    left = heat[each, row, np.maximum(column - 1, 0)]
    below = heat[each, np.minimum(row + 1, rows - 1), column]
    above = heat[each, np.maximum(row - 1, 0), column]
    inner_x = (column > 0) & (column < columns - 1)
    inner_y = (row > 0) & (row < rows - 1)
    places[:, 0] += 0.25 * (right > left) * inner_x - 0.25 * (right < left) * inner_x
    places[:, 1] += 0.25 * (below > above) * inner_y - 0.25 * (below < above) * inner_y
    return places, heat[each, row, column].astype(np.float32)


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> PointsBehindBoxes | HeatMaps:
    """Make the task.

    Raises:
        SpecError: as detection; or heat maps that are none.
    """
    if _is_heat(spec, outputs):
        head = read_head(spec, HeatMapHead)
        info = pick_output(outputs, head.output, "output", 4)
        if len(info.shape) != 4:
            raise SpecError(
                f"output {info.name} holds no heat maps", got=str(info.shape), expected="(N, K, h, w)"
            )
        if info.shape[1] is not None:
            _check_skeleton(head.skeleton, info.shape[1])
        return HeatMaps(head, info.name, spec)
    own, rest = _split(spec)
    reader = BoxReader(spec, outputs, head=rest, extra=own.points * own.values)
    height, width = spec.image.size_hw
    return PointsBehindBoxes(own, reader, (width, height) if rest.get("normalized") else (1, 1))


def complete(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> dict[str, Any]:
    """The head with what the outputs' shapes tell. Raises SpecError where they leave several readings."""
    if _is_heat(spec, outputs):
        return {"format": "heatmaps", **spec.head}
    own, rest = _split(spec)
    found = find_format(spec, outputs, head=rest, extra=own.points * own.values)
    return {**spec.head, **found}


def _is_heat(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> bool:
    if "format" in spec.head:
        return bool(spec.head["format"] == "heatmaps")
    return len(outputs) == 1 and len(outputs[0].shape) == 4


def _split(spec: ModelSpec) -> tuple[Head, dict[str, Any]]:
    if "points" not in spec.head:
        raise SpecError(
            "how many points does an object have?", expected="points", remedy="Say it: --head points=17"
        )
    return split_head(spec, Head)


def _check_skeleton(skeleton: Sequence[tuple[int, int]], points: int) -> None:
    fits = all(0 <= point < points for pair in skeleton for point in pair)
    check("skeleton", skeleton, fits, f"pairs of points from 0 to {points - 1}")
