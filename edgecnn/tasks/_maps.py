"""One number a place, (N, 1, h, w) or (N, h, w) → the same at the frame's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import SpecError
from edgecnn.geometry import Geometry
from edgecnn.resampling import linear, seen
from edgecnn.tasks._formats import not_finite

__all__ = ["at_frame", "is_map", "pick_map"]


def is_map(info: TensorInfo) -> bool:
    """Whether an output is one number a place."""
    return len(info.shape) == 3 or (len(info.shape) == 4 and info.shape[1] in (1, None))


def pick_map(outputs: Sequence[TensorInfo], name: str | None, option: str) -> TensorInfo:
    """The output of that name, or the only map. Raises SpecError."""
    maps = [info for info in outputs if (info.name == name if name else is_map(info))]
    if len(maps) != 1 or not is_map(maps[0]):
        raise SpecError(
            f"no map of numbers in {name}" if name else "which output is the map?",
            got=", ".join(f"{info.name} {info.shape}" for info in outputs),
            expected="(N, 1, h, w) or (N, h, w)",
            remedy=f"Name it: --head {option}=NAME",
        )
    return maps[0]


def at_frame(
    values: NDArray[Any], geometry: Geometry, input_hw: tuple[int, int], *, output: str
) -> NDArray[np.float32]:
    """(1, h, w) or (h, w) → (H, W) float32, NaN beside what the network was shown. Raises InferenceError."""
    plane = np.asarray(values.reshape(values.shape[-2:]), np.float32)
    if not np.isfinite(plane).all():
        raise not_finite(output)
    full = linear(plane, geometry, input_hw)
    shown = seen(geometry, input_hw)
    if (shown[0].stop - shown[0].start, shown[1].stop - shown[1].start) == geometry.frame_hw:
        return full
    part = np.full_like(full, np.nan)
    part[shown] = full[shown]
    return part
