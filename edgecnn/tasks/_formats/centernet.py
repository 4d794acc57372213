"""CenterNet (Objects as Points, Zhou et al. 2019): a heat map a class whose peaks are the objects' centres.

    heat (N, C, h, w)   size (N, 2, h, w): width, height   offset (N, 2, h, w): x, y of the centre in its cell

in cells of the maps. A peak is a cell that no neighbour exceeds; there is nothing left for NMS.

    {"format": "centernet", "heat_output": "hm", "size_output": "wh", "offset_output": "reg"}
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
from edgecnn.tasks._formats import Candidates, Selection, not_finite
from edgecnn.tasks._formats._pairs import named
from edgecnn.tasks._formats._scores import sigmoid

__all__ = ["Head", "create", "reading"]


@dataclass(frozen=True, kw_only=True)
class Head(Selection):
    """How to read the maps.

    Attributes:
        heat_output, size_output, offset_output: names of the outputs; no offsets where the last is None.
        activation: what is still to be done to the heat.
    """

    format: Literal["centernet"] = "centernet"
    heat_output: str | None = None
    size_output: str | None = None
    offset_output: str | None = None
    activation: Literal["none", "sigmoid"] = "none"
    nms_iou: float | None = None


class Peaks:
    """Heat maps, sizes and offsets → candidates."""

    def __init__(self, head: Head, heat: TensorInfo, size_hw: tuple[int, int]) -> None:
        self.head = head
        self.size_hw = size_hw
        classes = heat.shape[1]
        self.class_counts: tuple[int, ...] = () if classes is None else (classes,)

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int) -> Candidates:
        """Peaks above the threshold."""
        head = self.head
        heat = outputs[str(head.heat_output)][index]  # (C, h, w)
        if not (heat.max(initial=-np.inf) < np.inf):
            raise not_finite(str(head.heat_output))
        scores = sigmoid(heat) if head.activation == "sigmoid" else heat
        classes, rows, columns = np.nonzero(scores > head.lowest_score)
        around = np.pad(scores, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        values = scores[classes, rows, columns]
        peak = np.ones(len(values), bool)
        for down in range(3):
            for right in range(3):
                peak &= values >= around[classes, rows + down, columns + right]
        classes, rows, columns, values = classes[peak], rows[peak], columns[peak], values[peak]
        centres = np.stack([columns, rows], axis=1).astype(np.float64)
        if head.offset_output is not None:
            centres += outputs[head.offset_output][index][:, rows, columns].T
        half = outputs[str(head.size_output)][index][:, rows, columns].T.astype(np.float64) / 2
        step = np.array([self.size_hw[1] / heat.shape[2], self.size_hw[0] / heat.shape[1]])
        boxes = np.concatenate([(centres - half) * step, (centres + half) * step], axis=1)
        return Candidates(boxes, values, classes)


def create(head: Head, spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> Peaks:
    """Raises SpecError where the outputs do not fit."""
    if extra:
        raise SpecError("format centernet has nothing behind its boxes", expected="format yolo or end_to_end")
    if head.heat_output is None or head.size_output is None:
        raise SpecError(
            "which outputs hold the heat and the sizes?",
            got=", ".join(f"{info.name} {info.shape}" for info in outputs),
            remedy="Name them: --head heat_output=… --head size_output=… --head offset_output=…",
        )
    heat = named(outputs, head.heat_output)
    for name in (head.size_output, head.offset_output):
        if name is None:
            continue
        info = named(outputs, name)
        if len(heat.shape) != 4 or len(info.shape) != 4 or info.shape[1] not in (None, 2):
            raise SpecError(
                f"outputs {heat.name} and {name} are no maps of centres",
                got=f"{heat.shape} and {info.shape}",
                expected="(N, classes, h, w) and (N, 2, h, w)",
            )
    return Peaks(head, heat, spec.image.size_hw)


def reading(spec: ModelSpec, outputs: Sequence[TensorInfo], extra: int) -> dict[str, Any] | None:
    """Three maps, two of them with two channels whose names tell them apart."""
    if extra or len(outputs) != 3 or any(len(info.shape) != 4 for info in outputs):
        return None
    sizes = [info for info in outputs if info.shape[1] == 2 and info.name in ("wh", "size", "sizes")]
    offsets = [info for info in outputs if info.shape[1] == 2 and info.name in ("reg", "offset", "offsets")]
    if len(sizes) != 1 or len(offsets) != 1:
        return None
    (heat,) = (info for info in outputs if info not in (sizes[0], offsets[0]))
    return {
        "heat_output": heat.name,
        "size_output": sizes[0].name,
        "offset_output": offsets[0].name,
    }
