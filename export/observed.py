"""The smallest and largest value of every tensor over some frames, for FP16 without a calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError
from edgecnn.export.layers import ExposedModel
from edgecnn.export.placement import activations, scale_source
from edgecnn.preprocess import Preprocessor
from edgecnn.progress import Progress, no_progress
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["observe_ranges"]


def observe_ranges(
    model: ir.Model,
    image: ImageSpec,
    frames: Iterable[NDArray[np.uint8]],
    *,
    total: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, tuple[float, float]]:
    """Run frames through a float model: tensor name → its smallest and largest value.

    Tensors that only hold moved values of another one are left out, as in a quantization table.

    Raises:
        DataError: no frames, or a value that is infinite or NaN.
    """
    names = [
        str(value.name)
        for value in activations(model.graph)
        if scale_source(value) is value and value.producer() is not None
    ]
    exposed = ExposedModel(model.clone(), names)
    preprocess = Preprocessor(image, batch=exposed.batch)
    ranges: dict[str, tuple[float, float]] = {}
    count = 0
    for frame in frames:
        for row in range(exposed.batch):
            preprocess(frame, row)
        arrays = [preprocess.tensor, *exposed(preprocess.tensor)]
        for name, array in zip([exposed.input, *names], arrays, strict=True):
            if not array.size:
                continue
            smallest, largest = float(array.min()), float(array.max())
            if not (math.isfinite(smallest) and math.isfinite(largest)):
                raise DataError(
                    f"activation {name} is infinite or NaN on frame {count}",
                    remedy="Check the preprocessing and the weights: the float model itself overflows",
                )
            low, high = ranges.get(name, (smallest, largest))
            ranges[name] = min(low, smallest), max(high, largest)
        count += 1
        progress("observing ranges", count, total)
    if not count:
        raise DataError("nothing to observe", got="no frames", expected="at least one")
    return ranges
