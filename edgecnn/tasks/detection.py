"""Detection: boxes, with a class and a score each.

The head names the format in which the network writes its boxes, with the format's own options
(`edgecnn.tasks._formats`; docs/tasks.md lists them), and which boxes are kept:

    {"format": "yolo", "objectness": false, "min_score": 0.25, "nms_iou": 0.7}

Where the outputs' shapes leave one format only, it need not be named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.detections import Detections
from edgecnn.geometry import Geometry
from edgecnn.results import Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks._boxes import BoxReader, agreement
from edgecnn.tasks._formats import find_format

__all__ = ["complete", "create"]


class Detect:
    """Boxes in one of the formats → one Detections a frame."""

    def __init__(self, reader: BoxReader) -> None:
        self.reader = reader

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """Boxes that are left after NMS, in pixels of the frame. Raises InferenceError where they are NaN."""
        return [
            self.reader.read(outputs, index, geometry).detections for index, geometry in enumerate(geometries)
        ]

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Draw each box in the colour of its class, with its name and score."""
        from edgecnn.drawing import draw_detections

        draw_detections(image_bgr, cast("Detections", result))

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """`box_agreement`: the share of all boxes that have their like: same class, IoU 0.5."""
        return agreement(cast("Detections", reference), cast("Detections", result))


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> Detect:
    """Make the task.

    Raises:
        SpecError: an unknown format, wrong options, outputs or labels that do not fit, or outputs that
            several formats fit, which the error names.
    """
    return Detect(BoxReader(spec, outputs, head=spec.head))


def complete(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> dict[str, Any]:
    """The head with what the outputs' shapes tell. Raises SpecError where they leave several readings."""
    return find_format(spec, outputs, head=spec.head)
