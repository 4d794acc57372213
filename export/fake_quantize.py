"""torch.fake_quantize_* → Q/DQ, also for symmetric int8 without -128, which torch's own translation refuses.

ONNX's int8 ends at -128. `quant_min=-127` is written as `Max(x, -127 · scale)` before the QuantizeLinear: for
weights the optimizer computes it away, and for activations `edgecnn.export.qdq` knows it.

torch has no shape rules for these operators either, which torch.export needs for a free batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from edgecnn.quantization import LEVELS

if TYPE_CHECKING:
    import torch

__all__ = ["shape_rules", "translations"]

_WITHOUT_RULE = (
    "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "fake_quantize_per_channel_affine_cachemask",
)


@contextlib.contextmanager
def shape_rules() -> Iterator[None]:
    """Rules for the shapes of torch.fake_quantize_*, as long as the block runs, where torch has none."""
    import torch

    def like_input(self: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.empty_like(self), torch.empty_like(self, dtype=torch.bool)

    with torch.library._scoped_library("aten", "IMPL") as library:
        for name in _WITHOUT_RULE:
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
                library.impl(name, like_input, "Meta")
        yield


def translations() -> dict[Any, Any]:
    """torch's operator → its translation, for `torch.onnx.export(custom_translation_table=…)`."""
    import onnx_ir as ir
    import torch
    from onnxscript import opset18
    from onnxscript.function_libs.torch_lib.ops import core

    aten, op = torch.ops.aten, cast("Any", opset18)

    def symmetric(self: Any, scale: Any, zero_point: Any, lowest: Any, axis: int) -> Any:
        zero = op.Cast(zero_point, to=ir.DataType.INT8)
        quantized = op.QuantizeLinear(op.Max(self, lowest), scale, zero, axis=axis)
        return op.DequantizeLinear(quantized, scale, zero, axis=axis)

    def per_tensor(self: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int) -> Any:
        number = op.Constant(value_float=scale) if isinstance(scale, float) else scale
        if (quant_min, quant_max) == (-LEVELS, LEVELS):
            zero = op.Constant(value_int=zero_point) if isinstance(zero_point, int) else zero_point
            return symmetric(self, number, zero, op.Mul(number, op.Constant(value_float=-float(LEVELS))), 1)
        translate = (
            core.aten_fake_quantize_per_tensor_affine
            if isinstance(scale, float)
            else core.aten_fake_quantize_per_tensor_affine_tensor_qparams
        )
        return translate(self, scale, zero_point, quant_min, quant_max)

    def per_channel(self: Any, scale: Any, zero_point: Any, axis: int, quant_min: int, quant_max: int) -> Any:
        if (quant_min, quant_max) == (-LEVELS, LEVELS):
            sides = [1] * len(self.shape)
            sides[axis] = -1
            lowest = op.Mul(scale, op.Constant(value_float=-float(LEVELS)))
            column = op.Reshape(lowest, op.Constant(value_ints=sides))
            return symmetric(self, scale, zero_point, column, axis)
        return core.aten_fake_quantize_per_channel_affine(self, scale, zero_point, axis, quant_min, quant_max)

    return {
        aten.fake_quantize_per_tensor_affine.default: per_tensor,
        aten.fake_quantize_per_tensor_affine.tensor_qparams: per_tensor,
        aten.fake_quantize_per_channel_affine.default: per_channel,
    }
