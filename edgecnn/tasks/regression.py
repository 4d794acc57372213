"""Regression: a number for each pixel, such as depth.

{"unit": "m", "scale": 0.001}        the network gives millimetres, the result metres
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.geometry import Geometry
from edgecnn.results import Result, ValueMap
from edgecnn.spec import ModelSpec
from edgecnn.tasks import read_head
from edgecnn.tasks._maps import at_frame, pick_map

__all__ = ["Head", "create"]

CLOSE = 0.05  # of the reference's range: values that differ by no more agree


@dataclass(frozen=True, kw_only=True)
class Head:
    """How to read the map.

    Attributes:
        output: its name; the only map where None.
        unit: of the result.
        scale: factor from the network's numbers to the unit.
    """

    output: str | None = None
    unit: str = ""
    scale: float = 1.0


class Regress:
    """A map (N, 1, h, w) → one ValueMap a frame."""

    def __init__(self, head: Head, output: str, input_hw: tuple[int, int]) -> None:
        self.head = head
        self.output = output
        self.input_hw = input_hw

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """The map at the frame's resolution. Raises InferenceError where it holds NaN or infinity."""
        results: list[Result] = []
        for values, geometry in zip(outputs[self.output], geometries, strict=False):  # rows may be left over
            full = at_frame(values, geometry, self.input_hw, output=self.output)
            results.append(ValueMap(full * np.float32(self.head.scale), self.head.unit))
        return results

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Lay the numbers over the frame as colours, and say what the darkest and the brightest are."""
        from edgecnn.drawing import draw_heat, draw_lines

        found = cast("ValueMap", result)
        numbers = found.to_dict()
        draw_heat(image_bgr, found.values)
        if numbers["min"] is not None:
            draw_lines(image_bgr, [f"{numbers['min']:.3g} to {numbers['max']:.3g} {found.unit}".strip()])

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """`value_agreement`: the share of pixels that differ by 5 % of the reference's range or less."""
        first, second = cast("ValueMap", reference).values, cast("ValueMap", result).values
        known = np.isfinite(first)
        if not known.any():
            return {"value_agreement": 1.0}
        span = float(first[known].max() - first[known].min())
        close = np.abs(first[known] - second[known]) <= CLOSE * span
        return {"value_agreement": float(close.mean())}


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> Regress:
    """Make the task. Raises SpecError where the outputs leave open which one is the map."""
    head = read_head(spec, Head)
    return Regress(head, pick_map(outputs, head.output, "output").name, spec.image.size_hw)
