"""What one QuantizeLinear or DequantizeLinear says, and the words in which it is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BuildError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "DEQUANTIZE",
    "QUANTIZE",
    "REMEDY",
    "Grid",
    "along",
    "data_name",
    "read_grid",
    "refusal",
    "same_grid",
    "several",
]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

REMEDY = "Train or quantize with symmetric int8: zero point 0, one scale a tensor, one a channel for weights"


@dataclass(frozen=True, eq=False)
class Grid:
    """real = (q - zero_point) · scale, q in low … high.

    Attributes:
        scale, zero_point: one number, or one for each slice along `axis`.
    """

    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]
    low: int
    high: int
    axis: int


def read_grid(node: ir.Node) -> Grid:
    """Raises BuildError for scales that are computed, for blocks, and for other types than int8 and uint8.

    A DequantizeLinear may read int32, as biases do.
    """
    scale, zero = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if scale is None or scale.const_value is None or (zero is not None and zero.const_value is None):
        raise refusal(node, "a scale that is computed", "constants")
    if node.attributes.get_int("block_size", 0):
        raise refusal(node, "a scale for each block", "one for each channel")
    data = node.inputs[0] if node.op_type == DEQUANTIZE else node.outputs[0]
    kind = zero.dtype if zero is not None else None if data is None else data.dtype
    types = {"INT8": np.int8, "UINT8": np.uint8} | ({"INT32": np.int32} if node.op_type == DEQUANTIZE else {})
    name = "an unknown type" if kind is None else kind.name
    if name not in types:
        raise refusal(node, name)
    limits = np.iinfo(types[name])
    scales = scale.const_value.numpy().astype(np.float64)
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise refusal(node, "a scale that is negative or not finite", "positive scales")
    zeros = np.zeros(1, np.int64)
    if zero is not None and zero.const_value is not None:
        zeros = zero.const_value.numpy().astype(np.int64)
    rank = 0 if data is None or data.shape is None else len(data.shape)
    axis = node.attributes.get_int("axis", 1)
    axis = axis + rank if axis < 0 else axis
    return Grid(scales, zeros, int(limits.min), int(limits.max), axis)


def same_grid(quantize: ir.Node, dequantize: ir.Node) -> bool:
    """Whether a DequantizeLinear gives back what went into a QuantizeLinear, rounded."""
    before, after = read_grid(quantize), read_grid(dequantize)
    return (
        np.array_equal(before.zero_point.ravel(), after.zero_point.ravel())
        and before.scale.size == after.scale.size
        and np.allclose(before.scale.ravel(), after.scale.ravel(), rtol=1e-6, atol=0)
    )


def along(numbers: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """One number, or one a slice along `axis`, in a shape that multiplies an array."""
    if numbers.size == 1:
        return numbers.reshape(())
    sides = [1] * rank
    sides[axis] = -1
    return numbers.reshape(sides)


def data_name(node: ir.Node) -> str:
    """The tensor that a node reads."""
    value = node.inputs[0]
    return str(node.name or node.outputs[0].name) if value is None else str(value.name)


def several(names: Iterable[str]) -> str:
    """Some names, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return ", ".join(distinct[:3]) + more


def refusal(node: ir.Node, got: str, expected: str = "int8 with zero point 0") -> BuildError:
    """The error for what a quantization table cannot say."""
    return BuildError(
        "the model is quantized already, in a way that cannot be kept",
        got=f"{got} at {data_name(node)}",
        expected=expected,
        remedy=REMEDY,
    )
