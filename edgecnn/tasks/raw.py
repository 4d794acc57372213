"""No decoding: the outputs as the network gives them, for a task that edgecnn does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.geometry import Geometry
from edgecnn.results import RawOutputs, Result
from edgecnn.spec import ModelSpec

__all__ = ["create"]


class Raw:
    """Passes the outputs on, one frame each."""

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """Split the batch axis."""
        return [
            RawOutputs({name: array[index] for name, array in outputs.items()}) for index in range(len(geometries))
        ]

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Nothing to draw."""

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """No metric of its own: SQNR and cosine of the outputs say it all."""
        return {}


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> Raw:
    """Make the task; it takes any outputs."""
    return Raw()
