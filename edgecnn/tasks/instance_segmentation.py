"""Instance segmentation: boxes, and a mask for each, put together from prototypes.

As YOLACT does it (Bolya et al. 2019): behind each box stand K coefficients, and another output holds K
prototypes (N, K, h, w) for the frame:

    mask = Σ coefficient · prototype > 0 inside the box        (where the logistic function is above 0.5)

    {"format": "yolo", "objectness": false, "prototypes_output": "output1"}

The format is one whose rows may go on behind the box: `yolo` or `end_to_end`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.detections import Detections
from edgecnn.errors import InferenceError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.masks import Crop, Masks
from edgecnn.resampling import cells_of_pixels, linear
from edgecnn.results import Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks import split_head
from edgecnn.tasks._boxes import Boxes, BoxReader, agreement, match_boxes
from edgecnn.tasks._formats import find_format, pick_output

__all__ = ["Head", "complete", "create"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is not about boxes.

    Attributes:
        prototypes_output: name of the output (N, K, h, w); the only one with four axes where None.
    """

    prototypes_output: str | None = None


class SegmentInstances:
    """Boxes, coefficients and prototypes → one Detections with masks a frame."""

    def __init__(self, reader: BoxReader, prototypes: str, input_hw: tuple[int, int]) -> None:
        self.reader = reader
        self.prototypes = prototypes
        self.input_hw = input_hw

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """As detection; the masks are small here, and grow to the frame's size when they are looked at."""
        results: list[Result] = []
        for index, geometry in enumerate(geometries):
            boxes = self.reader.read(outputs, index, geometry)
            masks = self._masks(boxes, outputs[self.prototypes][index], geometry)
            results.append(replace(boxes.detections, masks=masks))
        return results

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Draw each object's mask, box, name and score."""
        from edgecnn.drawing import draw_detections

        draw_detections(image_bgr, cast("Detections", result))

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """`box_agreement` as detection, and `mask_agreement`: mean over the boxes that match."""
        first, second = cast("Detections", reference), cast("Detections", result)
        metrics = agreement(first, second)
        pairs = match_boxes(first, second)
        if first.masks is not None and second.masks is not None:
            both = [first.masks.iou(row, second.masks, column) for row, column in pairs]
            metrics["mask_agreement"] = sum(both) / len(both) if both else metrics["box_agreement"]
        return metrics

    def _masks(self, boxes: Boxes, prototypes: NDArray[Any], geometry: Geometry) -> Masks:
        """Coefficients times prototypes for the cells that each box needs, and no others."""
        _, rows, columns = prototypes.shape
        x, y = cells_of_pixels(geometry, self.input_hw, (rows, columns))
        makers: list[Callable[[], Crop]] = []
        flat = boxes.extras.astype(np.float32)
        for box, coefficients in zip(boxes.detections.boxes_xyxy.tolist(), flat, strict=True):
            # pixels whose centres lie in the box
            x1, y1, x2, y2 = (math.ceil(edge - 0.5) for edge in box)
            first_column, last_column = _cells(x1, x2, *x, columns)
            first_row, last_row = _cells(y1, y2, *y, rows)
            part = prototypes[:, first_row:last_row, first_column:last_column].astype(np.float32, copy=False)
            logits = np.tensordot(coefficients, part, axes=1)
            if not np.isfinite(logits).all():
                raise InferenceError(
                    f"output {self.prototypes} is infinite or NaN", expected="finite prototypes"
                )
            makers.append(
                partial(
                    _mask,
                    logits,
                    geometry,
                    self.input_hw,
                    (x1, y1, x2, y2),
                    (first_column, first_row),
                    (rows, columns),
                )
            )
        return Masks(geometry.frame_hw, makers)


def _cells(first_px: int, last_px: int, factor: float, shift: float, cells: int) -> tuple[int, int]:
    """The cells between which the pixels of a box are interpolated."""
    first = math.floor((first_px + 0.5) * factor + shift - 0.5)
    last = math.floor((last_px - 0.5) * factor + shift - 0.5) + 2
    first = min(max(0, first), cells - 1)
    return first, min(max(first + 1, last), cells)


def _mask(
    logits: NDArray[np.float32],
    geometry: Geometry,
    input_hw: tuple[int, int],
    region: tuple[int, int, int, int],
    first_cell_xy: tuple[int, int],
    map_hw: tuple[int, int],
) -> Crop:
    x1, y1, x2, y2 = region
    if x1 >= x2 or y1 >= y2:  # the box covers no pixel's centre
        return Crop(x1, y1, np.zeros((0, 0), bool))
    enlarged = linear(
        logits, geometry, input_hw, region_xyxy=region, first_cell_xy=first_cell_xy, map_hw=map_hw
    )
    return Crop(x1, y1, enlarged > 0)


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> SegmentInstances:
    """Make the task.

    Raises:
        SpecError: as detection; or no prototypes.
    """
    head, rest = split_head(spec, Head)
    prototypes = pick_output(outputs, head.prototypes_output, "prototypes_output", 4)
    if len(prototypes.shape) != 4 or prototypes.shape[1] is None:
        raise SpecError(
            f"output {prototypes.name} does not hold prototypes of masks",
            got=str(prototypes.shape),
            expected="(N, K, h, w)",
        )
    others = [info for info in outputs if info is not prototypes]
    reader = BoxReader(spec, others, head=rest, extra=prototypes.shape[1])
    return SegmentInstances(reader, prototypes.name, spec.image.size_hw)


def complete(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> dict[str, Any]:
    """The head with what the outputs' shapes tell. Raises SpecError where they leave several readings."""
    head, rest = split_head(spec, Head)
    prototypes = pick_output(outputs, head.prototypes_output, "prototypes_output", 4)
    others = [info for info in outputs if info is not prototypes]
    found = find_format(spec, others, head=rest, extra=prototypes.shape[1] or 0)
    return {"prototypes_output": prototypes.name, **found}
