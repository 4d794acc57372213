"""The quantization table: what calibration found, as a value that travels in the model's metadata.

It says for each tensor how its numbers map to 8 bits, in the one form that every target takes: symmetric,
one scale for a whole activation, one scale a channel for weights:

    q = clip(round(x / scale), -127, 127)        x ≈ q · scale        scale = amax / 127

Lowering turns table and model into a graph for a target; the table itself names no target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgecnn.errors import ModelFormatError
from edgecnn.metadata import QUANTIZATION_KEY

__all__ = ["LEVELS", "ActivationRange", "QuantizationTable", "WeightScales"]

LEVELS = 127
"""Steps from zero to amax: int8 without -128, so that the grid is symmetric."""

TABLE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ActivationRange:
    """One activation tensor.

    Attributes:
        amax: the largest magnitude that is represented; what lies beyond saturates. Positive.
        low, high: smallest and largest value that was observed.
        method: how `amax` was chosen: `minmax` or `entropy`; `constant` for a tensor that was always zero.
    """

    amax: float
    low: float
    high: float
    method: str

    def __post_init__(self) -> None:
        if not 0 < self.amax < math.inf:
            raise ModelFormatError(
                "an activation's range is wrong", got=str(self.amax), expected="a positive number"
            )

    @property
    def scale(self) -> float:
        """Size of one step of the symmetric 8-bit grid."""
        return self.amax / LEVELS


@dataclass(frozen=True, kw_only=True)
class WeightScales:
    """One weight tensor: a scale for each slice along `axis`, all positive."""

    axis: int
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.axis < 0 or not all(0 < scale < math.inf for scale in self.scales):
            raise ModelFormatError(
                "a weight's scales are wrong", expected="an axis from 0 and positive numbers"
            )


@dataclass(frozen=True, kw_only=True)
class QuantizationTable:
    """What calibration found.

    Attributes:
        activations: tensor name → its range.
        weights: initializer name → its scales.
        method: the method that was asked for.
        frames: how many frames were observed; `frames_sha256` is the hash of their input tensors in order.
        tool: name and version of what made the table.
    """

    activations: Mapping[str, ActivationRange]
    weights: Mapping[str, WeightScales]
    method: str
    frames: int
    frames_sha256: str
    tool: str
    version: int = TABLE_VERSION

    def __post_init__(self) -> None:
        if self.version != TABLE_VERSION:
            raise ModelFormatError(
                "the quantization table has another version",
                got=str(self.version),
                expected=f"{TABLE_VERSION}; use the edgecnn that wrote it, {self.tool}",
            )

    def to_json(self) -> str:
        """The table as one JSON object; the same table gives the same text."""
        import msgspec

        return msgspec.json.encode(self, order="sorted").decode()

    @classmethod
    def from_json(cls, text: str) -> QuantizationTable:
        """Read what `to_json` wrote. Raises ModelFormatError on anything else."""
        import msgspec

        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise ModelFormatError(
                "the model's quantization table cannot be read",
                got=str(error),
                remedy="Calibrate the model again",
            ) from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> QuantizationTable | None:
        """The table in a calibrated model's metadata, or None."""
        text = metadata.get(QUANTIZATION_KEY)
        return None if text is None else cls.from_json(text)
