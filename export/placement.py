"""Which tensors are quantized: one set of rules for calibration and for every lowering.

1. *Anchors* – Conv, Gemm, MatMul with constant weights – are what INT8 is for: their inputs are quantized.
2. An activation function that clamps at zero (Relu, Clip from 0) is part of the operator before it: the
   range is taken after it, never between. Quantizing the range before a Clip to [0, 6] costs 12 dB on
   EfficientNet-Lite0.
3. Operators that only move values (MaxPool, Reshape, …) keep the scale of their input, so that they run on
   8-bit data.
4. What is arithmetic in its own right (Softmax, LayerNormalization, Exp …) and a network's outputs stay
   in float.
5. A layer that the table keeps in float – automatic mixed precision – has float weights on every target, and
   reads float numbers wherever the target has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "activations",
    "bias_of",
    "clamp_after",
    "clip_bounds",
    "is_anchor",
    "is_mover",
    "name_of",
    "non_negative_values",
    "reason_for_float",
    "result_of",
    "scale_source",
    "weight_axis",
    "weight_of",
]

_ANCHORS = frozenset({"Conv", "Gemm", "MatMul"})
_CLAMPS = frozenset({"Relu", "Clip"})
_MOVERS = frozenset(
    {
        "DepthToSpace", "Flatten", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze",
        "Transpose", "Unsqueeze",
    }
)  # fmt: skip
# Never below zero; and not below zero where none of their inputs is.
_NON_NEGATIVE = frozenset({"HardSigmoid", "Relu", "Sigmoid", "Softmax"})
_SIGN_KEEPING = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "Mul"})


def activations(graph: ir.Graph) -> Iterator[ir.Value]:
    """The float32 tensors that nodes make, and the inputs, in topological order.

    Without those between an operator and its clamp.
    """
    import onnx_ir as ir

    yield from (value for value in graph.inputs if value.dtype == ir.DataType.FLOAT)
    for node in graph:
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT and clamp_after(value) is None:
                yield value


def is_anchor(node: ir.Node) -> bool:
    """Whether 8-bit kernels can compute this node: an anchor with constant weights of plain shape."""
    return node.op_type in _ANCHORS and weight_of(node) is not None


def weight_of(node: ir.Node) -> ir.Value | None:
    """The constant float32 weights of an anchor or ConvTranspose, if they can be quantized per channel.

    None also where a MatMul's weights are not a matrix (per channel, ONNX Runtime fails on a stack of them)
    and where the bias is computed, or differs from row to row.
    """
    import onnx_ir as ir

    if node.domain != "" or node.op_type not in _ANCHORS | {"ConvTranspose"}:
        return None
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or weight.dtype != ir.DataType.FLOAT:
        return None
    rank = len(weight.const_value.shape)
    if rank < 2 or (node.op_type == "MatMul" and rank > 2):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        if bias.const_value is None:
            return None
        sides = bias.const_value.shape.numpy()
        if math.prod(sides) > 1 and (sides[-1] == 1 or math.prod(sides[:-1]) > 1):
            return None
    return weight


def name_of(node: ir.Node) -> str:
    """What to call a node in reports and in the table: its name, or its first output's where it has none."""
    return str(node.name or node.outputs[0].name)


def reason_for_float(node: ir.Node, table: QuantizationTable) -> str | None:
    """Why a layer cannot or shall not read INT8, whatever the target; None where it may.

    Args:
        node: Conv, ConvTranspose, Gemm or MatMul.
        table: what calibration found.
    """
    if (reason := table.kept_in_float.get(name_of(node))) is not None:
        return reason
    weight, source = weight_of(node), node.inputs[0]
    if weight is None:
        return "its weights or bias are computed, or of a shape that cannot be quantized per channel"
    entry = table.weights.get(str(weight.name))
    if entry is None or entry.axis != weight_axis(node):  # two nodes may share a matrix
        return "its weights are not in the quantization table"
    if source is None or scale_source(source).name not in table.activations:
        return "its input is not in the quantization table"
    return None


def bias_of(node: ir.Node) -> ir.Value | None:
    """The constant bias of a node that has quantizable weights: one number or one a channel, or None."""
    return node.inputs[2] if len(node.inputs) > 2 else None


def weight_axis(node: ir.Node) -> int:
    """The axis of a node's weights that runs over output channels (of one group, for ConvTranspose)."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def result_of(node: ir.Node) -> ir.Value:
    """What a node gives, after its clamp where it has one."""
    clamp = clamp_after(node.outputs[0])
    return node.outputs[0] if clamp is None else clamp.outputs[0]


def clamp_after(value: ir.Value) -> ir.Node | None:
    """The clamp that is part of the operator behind `value`: the only reader of an anchor or Add."""
    producer = value.producer()
    if producer is None or producer.op_type not in _ANCHORS | {"Add"} or value.is_graph_output():
        return None
    uses = tuple(value.uses())
    if len(uses) != 1:
        return None
    bounds = clip_bounds(uses[0].node)
    return uses[0].node if bounds is not None and bounds[0] == 0 else None


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """What a Relu or Clip limits its input to; None for other operators, and for bounds that are computed."""
    if node.op_type not in _CLAMPS:
        return None
    bounds = [-math.inf if node.op_type == "Clip" else 0.0, math.inf]
    for index, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        if value.const_value is None:
            return None
        bounds[index] = float(value.const_value.numpy().reshape(()))
    return bounds[0], bounds[1]


def non_negative_values(graph: ir.Graph) -> set[ir.Value]:
    """The tensors that the graph's structure, not the data, keeps from going below zero."""
    found: set[ir.Value] = set()
    for node in graph:
        bounds = clip_bounds(node)
        operands = node.inputs[:1] if is_mover(node) else node.inputs
        if (
            node.op_type in _NON_NEGATIVE
            or (bounds is not None and bounds[0] >= 0)
            or (
                (is_mover(node) or node.op_type in _SIGN_KEEPING)
                and all(operand in found for operand in operands)
            )
        ):
            found.update(node.outputs)
    return found


def is_mover(node: ir.Node) -> bool:
    """Whether each number of the output is one of the input's."""
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in _MOVERS


def scale_source(value: ir.Value) -> ir.Value:
    """The tensor whose scale `value` takes over: itself, unless it is only moved values of another one."""
    node = value.producer()
    while node is not None and is_mover(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value
