"""The quantization table: what calibration found, as a value that travels in the model's metadata.

It says for each tensor how its numbers map to 8 bits, in the one form that every target takes: symmetric,
one scale for a whole activation, one scale a channel for weights:

    q = clip(round(x / scale), -127, 127)        x ≈ q · scale        scale = amax / 127

Lowering turns table and model into a graph for a target; the table itself names no target. The model's
weights stay as they were trained: where calibration found better steps than the nearest ones, the table has
the difference.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import ModelFormatError
from edgecnn.metadata import QUANTIZATION_KEY

__all__ = [
    "FROM_GRAPH",
    "FROM_GRAPH_UINT8",
    "LEVELS",
    "ActivationRange",
    "QuantizationTable",
    "WeightScales",
    "crc32",
]

LEVELS = 127
"""Steps from zero to amax: int8 without -128, so that the grid is symmetric."""

FROM_GRAPH = "graph"
"""`ActivationRange.method` of a scale that stood in a quantized graph, for int8 with zero point 0."""

FROM_GRAPH_UINT8 = "graph-uint8"
"""The same for 255 steps from zero: amax / 255 is the scale. TensorRT has no such grid."""

TABLE_VERSION = 3
"""2 brought steps other than the nearest, and biases; 3 layers that stay in float. All three are read.

Fields that may be missing came without a new number, since a reader may do without them: `centred` (the grid
is coarser then), `weights_crc32` (steps on other weights are not noticed), `notes`.
"""

_READABLE = (1, 2, 3)
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class ActivationRange:
    """One activation tensor.

    Attributes:
        amax: the largest magnitude that is represented; what lies beyond saturates. Positive.
        low, high: smallest and largest value that was observed.
        method: how `amax` was chosen: `minmax`, `entropy`, `percentile`, `mse`, `pixels`; `constant` for a
            tensor that was always zero; `imported`; `FROM_GRAPH`, `FROM_GRAPH_UINT8`.
        centred: TensorRT gets a grid of 254 steps from zero to amax where its lowering can fold the zero
            point that this takes; the tensor is never negative.
    """

    amax: float
    low: float
    high: float
    method: str
    centred: bool = False

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
    """One weight tensor: a scale for each slice along `axis`, all positive.

    Attributes:
        axis: the axis that runs over output channels, 0 or 1.
        scales: one a slice; normal numbers of float32.
        moves: by how many steps each weight lies beside its nearest one, as deflated int8 in the weights'
            order; None where all are the nearest. See `with_steps`.
        weights_crc32: of the float32 weights that all this was found for; None where a table does not say.
    """

    axis: int
    scales: tuple[float, ...]
    moves: bytes | None = None
    weights_crc32: int | None = None

    def __post_init__(self) -> None:
        if self.axis not in (0, 1) or not all(_SMALLEST <= scale <= _LARGEST for scale in self.scales):
            raise ModelFormatError(
                "a weight's scales are wrong", expected="the axis 0 or 1, and positive float32 numbers"
            )

    @property
    def lowest(self) -> int:
        """The lowest step: -127, or -128 where the steps come from a graph that has it."""
        return -LEVELS if self.moves is None else -LEVELS - 1

    @classmethod
    def with_steps(
        cls, axis: int, scales: tuple[float, ...], weights: NDArray[Any], steps: NDArray[np.int8]
    ) -> WeightScales:
        """Scales with the steps that stand for `weights`; both arrays have the weights' shape."""
        nearest = _nearest(weights, _along(scales, axis, weights.ndim))
        moves = (steps.astype(np.int16) - nearest).astype(np.int8)  # modulo 256, as in `on_grid`
        return cls(
            axis=axis,
            scales=scales,
            moves=zlib.compress(moves.tobytes(), 6) if moves.any() else None,
            weights_crc32=crc32(weights),
        )

    def fits(self, weights: NDArray[Any]) -> bool:
        """Whether it was found for these weights, as far as it says."""
        sides = weights.shape
        return (
            self.axis < len(sides)
            and sides[self.axis] == len(self.scales)
            and self.weights_crc32 in (None, crc32(weights))
        )

    def on_grid(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """What INT8 is to make of `weights`: the values of their steps; without moves, `weights`.

        Raises:
            ModelFormatError: the moves belong to other weights, or are damaged.
        """
        if self.moves is None:
            return weights.astype(np.float64)
        try:
            # a damaged file may promise any length
            inflated = zlib.decompressobj().decompress(self.moves, weights.size + 1)
            moves = np.frombuffer(inflated, np.int8).reshape(weights.shape)
        except (zlib.error, ValueError) as error:
            raise ModelFormatError(
                "the steps of a weight cannot be read", got=str(error), remedy="Calibrate the model again"
            ) from error
        scales = _along(self.scales, self.axis, weights.ndim)
        return (_nearest(weights, scales) + moves.astype(np.int16)).astype(np.int8) * scales


@dataclass(frozen=True, kw_only=True)
class QuantizationTable:
    """What calibration found.

    Attributes:
        activations: tensor name → its range.
        weights: initializer name → its scales.
        method: the method that was asked for.
        frames: how many frames were observed; `frames_sha256` is the hash of their input tensors in order.
        tool: name and version of what made the table.
        rounding: how weights were rounded: `nearest` or `second-order`.
        biases: initializer name → the bias to use with INT8 in its place, one number a channel.
        software: package → version, of those that the numbers depend on.
        diversity: how many different frames the calibration frames amount to; None where it is not known.
        kept_in_float: name of a layer's node → why it stays out of INT8 on every target.
        notes: what differs from where the ranges were taken over from, in words.
    """

    activations: Mapping[str, ActivationRange]
    weights: Mapping[str, WeightScales]
    method: str
    frames: int
    frames_sha256: str
    tool: str
    version: int = TABLE_VERSION
    rounding: str = "nearest"
    biases: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    diversity: float | None = None
    kept_in_float: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.version not in _READABLE:
            raise ModelFormatError(
                "the quantization table has another version",
                got=str(self.version),
                expected=f"{TABLE_VERSION}; use the edgecnn that wrote it, {self.tool}",
            )

    def bias(self, name: str | None, values: NDArray[Any]) -> NDArray[np.float64]:
        """The bias to use with INT8 in place of the constant `name` with these values, in their shape."""
        found = self.biases.get(str(name))
        flat = values.astype(np.float64) if found is None else np.asarray(found, np.float64)
        if flat.size != values.size:
            raise ModelFormatError(
                f"the quantization table's bias {name} belongs to another model",
                got=f"{flat.size} numbers",
                expected=str(values.size),
            )
        return flat.reshape(values.shape)

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


def crc32(weights: NDArray[Any]) -> int:
    """Of weights as float32, for `WeightScales.weights_crc32`."""
    return zlib.crc32(np.ascontiguousarray(weights, np.float32).data)


def _along(scales: tuple[float, ...], axis: int, rank: int) -> NDArray[np.float64]:
    """Scales in a shape that multiplies weights."""
    sides = [1] * rank
    sides[axis] = -1
    return np.asarray(scales, np.float64).reshape(sides)


def _nearest(weights: NDArray[Any], scales: NDArray[np.float64]) -> NDArray[np.int16]:
    steps: NDArray[np.int16] = np.clip(np.rint(weights.astype(np.float64) / scales), -LEVELS, LEVELS).astype(
        np.int16
    )
    return steps
