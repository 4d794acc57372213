"""What the tests of boxes share: a task from shapes, a frame's geometry, and NMS read from its definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.detections import Detections
from edgecnn.geometry import Geometry
from edgecnn.preprocess import plan_resize
from edgecnn.spec import ImageSpec, ModelSpec, Resize
from edgecnn.tasks import Task, create_task

SIZE_HW = (128, 160)
IDENTITY = Geometry(frame_hw=SIZE_HW, scale_xy=(1, 1), offset_xy=(0, 0))


def f32(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def image(resize: Resize = "letterbox") -> ImageSpec:
    return ImageSpec(
        size_hw=SIZE_HW,
        resize=resize,
        resize_hw=(150, 190) if resize == "crop" else None,
        mean=(0,) * 3,
        std=(1,) * 3,
    )


def make(
    outputs: Mapping[str, Any],
    *,
    task: str = "detection",
    labels: Sequence[str] = (),
    resize: Resize = "letterbox",
    **head: Any,
) -> Task:
    """The task for outputs of these shapes."""
    spec = ModelSpec(task=task, image=image(resize), labels=tuple(labels), head=head)
    infos = [TensorInfo(name, tuple(array.shape), str(array.dtype)) for name, array in outputs.items()]
    return create_task(spec, infos)


def detect(outputs: Mapping[str, Any], *, geometry: Geometry = IDENTITY, **options: Any) -> Detections:
    """The detections of the first frame."""
    (result,) = make(outputs, **options).decode(outputs, [geometry])
    assert isinstance(result, Detections)
    return result


def geometry_of(frame_hw: tuple[int, int], resize: Resize) -> Geometry:
    return plan_resize(image(resize), frame_hw).geometry


def iou(a: Any, b: Any) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def nms(boxes: Any, scores: Any, classes: Any, limit: float | None, *, agnostic: bool = False) -> list[int]:
    """Greedy: the surest box stays, and those of its class that it covers go; and again with what is left."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    kept: list[int] = []
    for index in order:
        rivals = [other for other in kept if agnostic or classes[other] == classes[index]]
        if limit is None or all(iou(boxes[other], boxes[index]) <= limit for other in rivals):
            kept.append(index)
    return kept


def check(found: Detections, boxes: Any, scores: Any, classes: Any) -> None:
    """The same objects in the same order, to the rounding of float32."""
    assert len(found) == len(scores)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    np.testing.assert_array_equal(found.class_ids, classes)
    np.testing.assert_allclose(found.boxes_xyxy, np.reshape(boxes, (-1, 4)), atol=1e-3)


def expected(
    boxes: Any,
    scores: Any,
    classes: Any,
    *,
    limit: float | None,
    geometry: Geometry = IDENTITY,
    **options: Any,
) -> tuple[Any, Any, Any]:
    """(boxes in the frame, scores, classes) of what is left of candidates in the input."""
    boxes, scores, classes = (
        np.asarray(boxes, np.float64).reshape(-1, 4),
        np.asarray(scores),
        np.asarray(classes),
    )
    kept = nms(boxes, scores, classes, limit, **options)
    boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
    (sx, sy), (ox, oy) = geometry.scale_xy, geometry.offset_xy
    height, width = geometry.frame_hw
    boxes = (boxes - [ox, oy, ox, oy]) / [sx, sy, sx, sy]
    boxes = np.clip(boxes, 0, [width, height, width, height])
    there = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[there], scores[there], classes[there]


def random_boxes(random: np.random.Generator, count: int) -> Any:
    """(count, 4) cx cy w h in and around the input, many of them on one another."""
    height, width = SIZE_HW
    centres = random.uniform(-0.1, 1.1, (max(1, count // 4), 2)) * [width, height]
    chosen = centres[random.integers(len(centres), size=count)] + random.normal(0, 4, (count, 2))
    return np.concatenate([chosen, random.uniform(5, 50, (count, 2))], axis=1).astype(np.float32)


def corners_of(cxcywh: Any) -> Any:
    boxes = np.asarray(cxcywh, np.float64)
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
