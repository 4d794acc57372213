"""Finished rows, (N, K, 6 + extra): left, top, right, bottom, score, class, extra. No NMS is left to do.

YOLOv10, YOLO26, and any network whose export holds the NMS (Ultralytics' `nms=True`). Rows that hold no
object have a low score. Oriented boxes are centre, width, height, score, class, extra, angle.

    {"format": "end_to_end"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import SpecError
from edgecnn.spec import ModelSpec
from edgecnn.tasks._formats import Candidates, Selection, not_finite, pick_output
from edgecnn.tasks._formats._scores import from_cxcywh

__all__ = ["Head", "create", "reading"]

MOST_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Head(Selection):
    """How to read the rows.

    Attributes:
        angle: the last number is an oriented box's angle in radians.
        boxes: `xyxy`, or `cxcywh` (centre and size), as oriented boxes are.
        normalized: boxes are in parts of the input's width and height, not in pixels.
        output: name of the output; the only one with three axes where None.
    """

    format: Literal["end_to_end"] = "end_to_end"
    nms_iou: float | None = None
    angle: bool = False
    boxes: Literal["xyxy", "cxcywh"] | None = None
    normalized: bool = False
    output: str | None = None


class FinishedRows:
    """(N, K, 6 + extra) → candidates."""

    class_counts: tuple[int, ...] = ()

    def __init__(self, head: Head, output: str, size_hw: tuple[int, int]) -> None:
        self.head = head
        self.output = output
        self.scale = (size_hw[1], size_hw[0]) * 2 if head.normalized else None

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int) -> Candidates:
        """Rows above the threshold."""
        numbers = outputs[self.output][index]  # (K, 6 + extra)
        scores = numbers[:, 4]
        if not np.isfinite(scores).all():
            raise not_finite(self.output)
        rows = numbers[scores > self.head.lowest_score]
        if not np.isfinite(rows[:, 5]).all():
            raise not_finite(self.output)
        boxes = rows[:, :4].astype(np.float64)
        if self.scale is not None:
            boxes = boxes * self.scale
        if (self.head.boxes or ("cxcywh" if self.head.angle else "xyxy")) == "cxcywh":
            boxes = from_cxcywh(boxes)
        behind = rows[:, 6:]
        angles = behind[:, -1] if self.head.angle else None
        extras = behind[:, :-1] if self.head.angle else behind
        ids = rows[:, 5].round().astype(np.int64)
        return Candidates(boxes, rows[:, 4], ids, extras if extras.shape[1] else None, angles)


def create(head: Head, spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> FinishedRows:
    """Raises SpecError where the rows have not as many numbers as they should."""
    info = pick_output(outputs, head.output, "output", 3)
    wanted = 6 + extra + head.angle
    if len(info.shape) != 3 or info.shape[2] not in (None, wanted):
        raise SpecError(
            f"output {info.name} does not hold finished boxes",
            got=str(info.shape),
            expected=f"(N, K, {wanted}): box, score, class"
            + (f" and {wanted - 6} more" if wanted > 6 else ""),
        )
    return FinishedRows(head, info.name, spec.image.size_hw)


def reading(spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> dict[str, Any] | None:
    """A few hundred rows of six numbers."""
    ranked = [info for info in outputs if len(info.shape) == 3]
    if len(ranked) != 1:
        return None
    _, rows, numbers = ranked[0].shape
    return {} if numbers == 6 + extra and rows is not None and rows <= MOST_ROWS else None
