"""FP16: half-precision weights and activations, float32 at the network's borders.

What FP16 would ruin stays in FP32 with casts around it: exponentials, sums and statistics, which overflow
at 65504 or lose their small terms, and constants that do not fit. ONNX's own operator schemas say which
inputs and outputs may be FP16 at all. Everything is written into the graph.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.errors import BuildError
from edgecnn.export.graph import constant, insert_after_producer

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx.defs import OpSchema

__all__ = ["LARGEST_FP16", "lower_fp16", "stays_in_fp32"]

LARGEST_FP16 = 65504.0

_KEPT_IN_FP32 = frozenset(
    {
        "BatchNormalization", "CumSum", "Exp", "GlobalLpPool", "GroupNormalization",
        "InstanceNormalization", "LRN", "LayerNormalization", "Log", "LogSoftmax", "LpNormalization",
        "LpPool", "MeanVarianceNormalization", "Pow", "RMSNormalization",
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean",
        "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softmax", "Softplus",
    }
)  # fmt: skip


def lower_fp16(model: ir.Model, *, keep: Collection[ir.Node] = ()) -> None:
    """Rewrite a float32 model in place.

    Args:
        model: what is not float32 in it stays as it is.
        keep: nodes that stay in FP32, besides those that always do.

    Raises:
        BuildError: the graph has branches or loops, whose bodies are not rewritten here.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph, opset = model.graph, model.opset_imports.get("", 0)
    half, single = ir.DataType.FLOAT16, ir.DataType.FLOAT
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    borders = [index for index, value in enumerate(graph.outputs) if value.dtype == single]

    def cast(value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` as `dtype`: a converted constant, or one Cast shared by all that read it."""
        if (value, dtype) in casts:
            return casts[value, dtype]
        name = f"{value.name}.{dtype.name.lower()}"
        if value.const_value is not None:
            with np.errstate(over="ignore"):  # only a Clip's bound can be too large, and infinity serves it
                result = constant(graph, name, value.const_value.numpy().astype(dtype.numpy()))
        else:
            node = ir.node("Cast", [value], {"to": dtype}, name=f"{name}.cast")
            result = node.outputs[0]
            result.name, result.shape, result.type = name, value.shape, ir.TensorType(dtype)
            insert_after_producer(graph, value, node)
        casts[value, dtype] = result
        return result

    for node in list(graph):
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            raise BuildError(
                "FP16 is not possible for this model", got=f"{node.op_type} with a graph inside",
                remedy="Export it without branches and loops",
            )  # fmt: skip
        schema = None if node in keep or stays_in_fp32(node) else _schema(node, opset)
        halved: set[str] = set()  # the schema's type variables that are FP16 here
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (half, single):
                continue
            variable = None if schema is None else _fp16_variable(schema, schema.inputs, index)
            wanted = single if variable is None else half
            if value.dtype != wanted:
                node.replace_input_with(index, cast(value, wanted))
            if variable is not None:
                halved.add(variable)
        for index, value in enumerate(node.outputs):
            if (
                value.dtype == single
                and schema is not None
                and _fp16_variable(schema, schema.outputs, index) in halved
            ):
                value.type = ir.TensorType(half)
    for index in borders:
        value = graph.outputs[index]
        if value.dtype == half:
            name, value.name = value.name, f"{value.name}.float16"
            graph.outputs[index] = cast(value, single)
            graph.outputs[index].name = name
    RemoveUnusedNodesPass()(model)


def _schema(node: ir.Node, opset: int) -> OpSchema | None:
    """ONNX's description of the operator; None for one that is not ONNX's own."""
    import onnx

    if node.domain != "" or not onnx.defs.has(node.op_type):
        return None
    return onnx.defs.get_schema(node.op_type, opset)


def _fp16_variable(
    schema: OpSchema, parameters: Sequence[OpSchema.FormalParameter], index: int
) -> str | None:
    """The type variable of an input or output, such as `T`, if it may be FP16."""
    variable = parameters[min(index, len(parameters) - 1)].type_str  # the last one may stand for several
    # not `.types` of the parameter, which onnx 1.20 fails to convert to Python
    allowed = [
        entry.allowed_type_strs for entry in schema.type_constraints if entry.type_param_str == variable
    ]
    return variable if allowed and "tensor(float16)" in allowed[0] else None


def stays_in_fp32(node: ir.Node) -> bool:
    """Whether FP16 would ruin what this node computes, or its constants do not fit."""
    if node.op_type in _KEPT_IN_FP32:
        return True
    if node.op_type == "Clip":  # a bound that is too large for FP16 becomes infinite, which bounds as little
        return False
    constants = [
        value.const_value.numpy()
        for value in node.inputs
        if value is not None and value.const_value is not None
    ]
    return any(
        array.dtype == np.float32 and array.size > 0 and np.abs(array).max() > LARGEST_FP16
        for array in constants
    )
