"""FP16: half-precision weights and activations, float32 at the network's borders.

What FP16 would ruin stays in FP32 with casts around it: exponentials and statistics, which overflow or
lose everything at 65504, and constants that do not fit. Everything is written into the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgecnn.export.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LARGEST_FP16", "lower_fp16"]

LARGEST_FP16 = 65504.0

_KEPT_IN_FP32 = frozenset(
    {
        "Softmax", "LogSoftmax", "Exp", "Log", "Pow", "ReduceMean", "ReduceSum", "LayerNormalization",
        "InstanceNormalization", "GroupNormalization", "BatchNormalization", "LRN", "CumSum",
    }
)  # fmt: skip
# Inputs whose element type ONNX fixes to float32: (operator, position).
_FLOAT32_INPUTS = frozenset({("Resize", 1), ("Resize", 2), ("Upsample", 1)})


def lower_fp16(model: ir.Model) -> None:
    """Rewrite a float32 model in place."""
    import onnx_ir as ir

    graph = model.graph
    half, single = ir.DataType.FLOAT16, ir.DataType.FLOAT
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def cast(value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` as `dtype`: a converted constant, or one Cast shared by all that read it."""
        if (value, dtype) in casts:
            return casts[value, dtype]
        if value.const_value is not None:
            result = constant(graph, f"{value.name}.{dtype.name.lower()}", value.const_value.numpy().astype(dtype.numpy()))
        else:
            node = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}.to_{dtype.name.lower()}")
            result = node.outputs[0]
            result.name, result.shape, result.type = f"{value.name}.{dtype.name.lower()}", value.shape, ir.TensorType(dtype)
            producer = value.producer()
            if producer is None:
                graph.insert_before(next(iter(graph)), node)
            else:
                graph.insert_after(producer, node)
        casts[value, dtype] = result
        return result

    for node in list(graph):
        wanted = single if _stays_in_fp32(node) else half
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (half, single):
                continue
            needed = single if (node.op_type, index) in _FLOAT32_INPUTS else wanted
            if value.dtype != needed:
                node.replace_input_with(index, cast(value, needed))
        if node.op_type == "Cast" and node.attributes.get_int("to") == single:
            node.attributes["to"] = ir.AttrInt64("to", wanted)
        for value in node.outputs:
            if value.dtype == single:
                value.type = ir.TensorType(wanted)
    for index, value in enumerate(graph.outputs):
        if value.dtype == half:
            name, value.name = value.name, f"{value.name}.float16"
            graph.outputs[index] = cast(value, single)
            graph.outputs[index].name = name
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)


def _stays_in_fp32(node: ir.Node) -> bool:
    if node.op_type in _KEPT_IN_FP32:
        return True
    constants = [value.const_value.numpy() for value in node.inputs if value is not None and value.const_value is not None]
    return any(
        array.dtype == np.float32 and array.size > 0 and np.abs(array).max() > LARGEST_FP16 and node.op_type != "Clip"
        for array in constants
    )
