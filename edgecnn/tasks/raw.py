"""No decoding: the outputs as the network gives them, for a task that edgecnn does not know.

Each output has a batch axis in front. One that has none, such as the list of boxes that NonMaxSuppression
gives, belongs to all frames at once and cannot be split: use `Model.infer` for such a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import InferenceError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import RawOutputs, Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks import read_head

__all__ = ["Head", "create"]


@dataclass(frozen=True)
class Head:
    """Nothing to say."""


class Raw:
    """Passes the outputs on, one frame each.

    Args:
        batches: output → rows, None where the batch axis is free.
    """

    def __init__(self, batches: Mapping[str, int | None]) -> None:
        self.batches = batches

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """Split the batch axis. Raises InferenceError where an output has not as many rows as it should."""
        for name, array in outputs.items():
            rows = self.batches[name] or len(geometries)
            if array.shape[:1] != (rows,):
                raise _no_batch_axis(InferenceError, name, got=str(array.shape), expected=f"{rows} rows")
        return [
            RawOutputs({name: np.asarray(array[index]) for name, array in outputs.items()})
            for index in range(len(geometries))
        ]

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Nothing to draw."""

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """No metric of its own: SQNR and cosine of the outputs say it all."""
        return {}


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> Raw:
    """Make the task. Raises SpecError where an output cannot have a batch axis."""
    read_head(spec, Head)
    for output in outputs:
        if not output.shape or output.shape[0] not in (None, outputs[0].shape[0]):
            raise _no_batch_axis(SpecError, output.name, got=str(output.shape), expected="the batch in front")
    return Raw({output.name: output.shape[0] for output in outputs})


def _no_batch_axis(
    kind: type[InferenceError] | type[SpecError], name: str, *, got: str, expected: str
) -> InferenceError | SpecError:
    remedy = "Use Model.infer, which gives the outputs as they are"
    return kind(f"output {name} has no batch axis", got=got, expected=expected, remedy=remedy)
