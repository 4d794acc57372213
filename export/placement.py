"""Which tensors are quantized: one set of rules for calibration and for every lowering.

1. *Anchors* – Conv, Gemm, MatMul with constant weights – are what INT8 is for: their inputs are quantized.
2. An activation function that clamps (Relu, Clip at zero) is part of the operator before it: the range is
   taken after it, never between. Quantizing the range before a Clip to [0, 6] costs 12 dB on
   EfficientNet-Lite0.
3. Operators that only move values (MaxPool, Reshape, …) keep the scale of their input, so that they run on
   8-bit data.
4. What is arithmetic in its own right (Softmax, LayerNormalization, Exp …) and a network's outputs stay
   in float.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "ANCHORS", "CLAMPS", "MOVERS", "activations", "clamp_after", "is_non_negative", "scale_source", "weight_axis", "weight_of",
]  # fmt: skip

ANCHORS = frozenset({"Conv", "Gemm", "MatMul"})
CLAMPS = frozenset({"Relu", "Clip"})
MOVERS = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth", "Slice", "Split"})
# Keep a non-negative input non-negative.
_MONOTONE = MOVERS | {"GlobalAveragePool", "AveragePool"}
_NON_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax"})


def activations(graph: ir.Graph) -> Iterator[ir.Value]:
    """The float tensors that depend on the input, in topological order, without those inside an operator and its clamp."""
    import onnx_ir as ir

    yield from graph.inputs
    for node in graph:
        for value in node.outputs:
            if value.dtype in (ir.DataType.FLOAT, None) and clamp_after(value) is None:
                yield value


def weight_of(node: ir.Node) -> ir.Value | None:
    """The constant weights of an anchor, or None where the second operand is computed."""
    if node.op_type not in ANCHORS or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    return weight if weight is not None and weight.const_value is not None else None


def weight_axis(node: ir.Node) -> int:
    """The axis of an anchor's weights that runs over output channels."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    if node.op_type == "MatMul":
        weight = node.inputs[1]
        assert weight is not None and weight.const_value is not None
        return len(weight.const_value.shape) - 1
    return 0


def clamp_after(value: ir.Value) -> ir.Node | None:
    """The clamp that is part of the operator which makes `value`: the only reader of an anchor's or an Add's output."""
    producer = value.producer()
    if producer is None or producer.op_type not in ANCHORS | {"Add"} or value.is_graph_output():
        return None
    uses = value.uses()
    if len(uses) != 1:
        return None
    consumer = uses[0].node
    return consumer if consumer.op_type in CLAMPS and clip_bounds(consumer)[0] == 0 else None


def clip_bounds(node: ir.Node) -> tuple[float | None, float | None]:
    """Constant bounds of a clamp: (0, None) for Relu; None where a Clip has no bound or computes it."""
    if node.op_type == "Relu":
        return 0.0, None
    bounds: list[float | None] = [None, None]
    for index, value in enumerate(node.inputs[1:3]):
        if value is not None and value.const_value is not None:
            bounds[index] = float(value.const_value.numpy().reshape(()))
    return bounds[0], bounds[1]


def is_non_negative(value: ir.Value) -> bool:
    """Whether the graph's structure, not the data, keeps a tensor from going below zero."""
    node = value.producer()
    if node is None:
        return False
    if node.op_type in _NON_NEGATIVE:
        return True
    if node.op_type == "Clip":
        low = clip_bounds(node)[0]
        return low is not None and low >= 0
    if node.op_type in _MONOTONE:
        return node.inputs[0] is not None and is_non_negative(node.inputs[0])
    if node.op_type in ("Add", "Concat"):
        return all(operand is not None and is_non_negative(operand) for operand in node.inputs)
    return False


def scale_source(value: ir.Value) -> ir.Value:
    """The tensor whose scale `value` takes over: itself, unless it is only moved values of another one."""
    node = value.producer()
    while node is not None and node.op_type in MOVERS and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value
