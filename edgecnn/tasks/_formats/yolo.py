"""Rows of the YOLO family: one row a place in the picture, (N, rows, numbers) or (N, numbers, rows).

    YOLOv5, v6, v7, YOLOX    cx cy w h  objectness  one number a class  extra      score = objectness · class
    YOLOv8, v9, 11, 12       cx cy w h  one number a class  extra                  score = class
    their oriented boxes     cx cy w h  one number a class  angle in radians
    RT-DETR of Ultralytics   the second, in parts of the input, without NMS

Numbers are as the networks' exports give them: boxes decoded to pixels of the input, scores in [0, 1].

    {"format": "yolo", "objectness": false, "nms_iou": 0.7}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import InferenceError, SpecError
from edgecnn.spec import ModelSpec
from edgecnn.tasks._formats import Candidates, Selection, pick_output
from edgecnn.tasks._formats._scores import above, from_cxcywh

__all__ = ["Head", "create", "reading"]

STRIDES = (8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class Head(Selection):
    """How to read the rows.

    Attributes:
        objectness: the fifth number says whether there is an object; found where the labels or the number of
            rows tell.
        angle: the last number is an oriented box's angle.
        boxes: `cxcywh` (centre and size) or `xyxy`.
        normalized: boxes are in parts of the input's width and height, not in pixels.
        rows_first: (N, rows, numbers); found where None: there are more rows than numbers.
        output: name of the output; the only one with three axes where None.
    """

    format: Literal["yolo"] = "yolo"
    objectness: bool | None = None
    angle: bool = False
    boxes: Literal["cxcywh", "xyxy"] = "cxcywh"
    normalized: bool = False
    rows_first: bool | None = None
    output: str | None = None


class Rows:
    """(N, rows, numbers) or (N, numbers, rows) → candidates."""

    def __init__(
        self,
        head: Head,
        output: str,
        *,
        rows_first: bool,
        objectness: bool,
        extra: int,
        size_hw: tuple[int, int],
    ) -> None:
        self.head = head
        self.output = output
        self.rows_first = rows_first
        self.first_class = 5 if objectness else 4
        self.behind = extra + head.angle
        self.scale = (size_hw[1], size_hw[0]) * 2 if head.normalized else None
        self.class_counts: tuple[int, ...] = ()

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int) -> Candidates:
        """Scores first: the boxes of what is left are read, and nothing else."""
        numbers = outputs[self.output][index]
        if self.rows_first:
            numbers = numbers.T  # (numbers, rows)
        end = len(numbers) - self.behind
        if end <= self.first_class:
            raise InferenceError(
                f"output {self.output} has too few numbers a row",
                got=str(len(numbers)),
                expected=f"more than {self.first_class + self.behind}",
            )
        classes, lowest = numbers[self.first_class : end], self.head.lowest_score
        if self.first_class == 4:
            rows, ids, scores = above(classes, lowest, output=self.output)
        else:
            objectness = numbers[4]
            sure = np.flatnonzero(~(objectness <= lowest))  # keeps NaN, which `above` refuses
            picked = classes[:, sure] * objectness[sure]
            found, ids, scores = above(picked, lowest, output=self.output)
            rows = sure[found]
        boxes = numbers[:4, rows].T.astype(np.float64)
        if self.scale is not None:
            boxes = boxes * self.scale
        if self.head.boxes == "cxcywh":
            boxes = from_cxcywh(boxes)
        behind = numbers[end:, rows].T if self.behind else None
        if behind is None or not self.head.angle:
            return Candidates(boxes, scores, ids, behind)
        return Candidates(boxes, scores, ids, behind[:, :-1] if behind.shape[1] > 1 else None, behind[:, -1])


def create(head: Head, spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> Rows:
    """Find out what the head leaves open. Raises SpecError where the shape does not tell."""
    info = pick_output(outputs, head.output, "output", 3)
    rows_first, rows, numbers = _sides(head, spec, info)
    objectness = head.objectness
    behind = extra + head.angle
    if objectness is None:
        objectness = _objectness(spec, rows, None if numbers is None else numbers - 4 - behind)
    if objectness is None:
        raise SpecError(
            f"does output {info.name} say whether there is an object, apart from its class?",
            got=str(info.shape),
            expected="labels or a number of rows from which it follows",
            remedy="Give --labels, or --head objectness=true (YOLOv5, v7) or objectness=false (YOLOv8, 11)",
        )
    made = Rows(
        head, info.name, rows_first=rows_first, objectness=objectness, extra=extra, size_hw=spec.image.size_hw
    )
    if numbers is not None:
        classes = numbers - behind - (5 if objectness else 4)
        if classes < 1:
            raise SpecError(
                f"output {info.name} has too few numbers a row for boxes, classes and {behind} more",
                got=str(info.shape),
            )
        made.class_counts = (classes,)
    return made


def reading(spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> dict[str, Any] | None:
    """These are YOLO's rows where their number is that of the places of its grids."""
    ranked = [info for info in outputs if len(info.shape) == 3]
    if len(ranked) != 1:
        return None
    rows_first, rows, numbers = _sides(Head(), spec, ranked[0])
    if rows not in (_places(spec), 3 * _places(spec)) or numbers is None or numbers < 5 + extra:
        return None
    objectness = _objectness(spec, rows, numbers - 4 - extra)
    return {"rows_first": rows_first, **({} if objectness is None else {"objectness": objectness})}


def _sides(head: Head, spec: ModelSpec, info: TensorInfo) -> tuple[bool, int | None, int | None]:
    """(whether rows come first, how many rows, how many numbers a row)."""
    if len(info.shape) != 3:
        raise SpecError(
            f"output {info.name} does not hold rows of boxes",
            got=str(info.shape),
            expected="(N, rows, numbers) or (N, numbers, rows)",
        )
    _, first, second = info.shape
    rows_first = head.rows_first
    if rows_first is None:
        places = (_places(spec), 3 * _places(spec))
        if first in places or second in places:
            rows_first = second not in places
        elif first is None or second is None:
            rows_first = first is None  # what is free is the number of rows
        else:
            rows_first = first > second
    return (True, first, second) if rows_first else (False, second, first)


def _objectness(spec: ModelSpec, rows: int | None, classes: int | None) -> bool | None:
    """`classes`: numbers that are left for them, with objectness or without."""
    if spec.labels and classes is not None and classes - len(spec.labels) in (0, 1):
        return classes - len(spec.labels) == 1
    # three anchors at each place are YOLOv5's and v7's; one may be YOLOv8's or YOLOX's
    return True if rows == 3 * _places(spec) else None


def _places(spec: ModelSpec) -> int:
    height, width = spec.image.size_hw
    return sum(-(-height // stride) * -(-width // stride) for stride in STRIDES)
