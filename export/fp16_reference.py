"""What FP16 hardware would compute of a lowered graph, as a graph that any CPU computes.

ONNX Runtime has no FP16 kernels on most CPUs. It computes such a graph in FP32 and takes the casts between
two nodes out again, even with optimizations off, so that there is neither rounding nor overflow to be seen.
Here every FP16 tensor becomes an FP32 one whose values are rounded to FP16 by a pair of casts, which ONNX
Runtime leaves alone: each operator reads FP16 numbers, computes in FP32, and gives FP16 numbers, infinite
beyond 65504.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgecnn.export.graph import constant, to_bytes
from edgecnn.export.placement import is_mover

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["as_fp16_computes", "rounded_to_fp16"]

_EXACT = frozenset({"Clip", "Concat", "Identity", "Max", "MaxPool", "Min", "Neg", "Relu"})
"""Operators whose results are FP16 numbers wherever what they read are; with those that only move values."""


def as_fp16_computes(content: bytes) -> bytes:
    """`rounded_to_fp16` for the bytes of an ONNX file; they themselves where there is no FP16 in it."""
    import onnx
    import onnx_ir as ir

    proto = onnx.load_from_string(content)
    casts = (node for node in proto.graph.node if node.op_type == "Cast")
    if not any(attribute.i == onnx.TensorProto.FLOAT16 for node in casts for attribute in node.attribute):
        return content  # what was lowered casts its input to FP16
    return to_bytes(rounded_to_fp16(ir.from_proto(proto)))


def rounded_to_fp16(model: ir.Model) -> ir.Model:
    """A copy of a lowered model that rounds wherever it says FP16; one without FP16 stays as it is.

    Scales of Q/DQ, which are FP16 numbers there, become FP32 ones of the same values. A model whose own
    inputs or outputs are FP16 was not lowered here, and is returned as it is.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    copy = model.clone()
    graph = copy.graph
    half, single = ir.DataType.FLOAT16, ir.DataType.FLOAT
    if any(value.dtype == half for value in (*graph.inputs, *graph.outputs)):
        return copy
    singles: dict[ir.Value, ir.Value] = {}

    def widened(value: ir.Value) -> ir.Value:
        """A constant of the same numbers in FP32."""
        if value not in singles:
            assert value.const_value is not None
            numbers = value.const_value.numpy().astype(np.float32)
            singles[value] = constant(graph, f"{value.name}.float32", numbers)
        return singles[value]

    for node in list(graph):
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == half and value.const_value is not None:
                node.replace_input_with(index, widened(value))
        exact = node.op_type in _EXACT or is_mover(node)
        for value in node.outputs:
            if value.dtype != half:
                continue
            value.type = ir.TensorType(single)
            if exact:
                continue
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", single)
            down = ir.node("Cast", [value], {"to": half}, name=f"{value.name}.down")
            up = ir.node("Cast", [down.outputs[0]], {"to": single}, name=f"{value.name}.up")
            down.outputs[0].name, up.outputs[0].name = f"{value.name}.rounded16", f"{value.name}.rounded"
            for made, dtype in ((down, half), (up, single)):
                made.outputs[0].type, made.outputs[0].shape = ir.TensorType(dtype), value.shape
            ir.convenience.replace_all_uses_with(value, up.outputs[0])
            down.replace_input_with(0, value)
            graph.insert_after(node, [down, up])
    RemoveUnusedNodesPass()(copy)  # and the FP16 constants
    return copy
