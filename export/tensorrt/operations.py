"""How many multiplications each node of an ONNX graph takes, and in which type it asks for them.

    Conv            N · M · out_h · out_w · (C / groups) · k_h · k_w
    ConvTranspose   N · C · in_h · in_w · (M / groups) · k_h · k_w
    Gemm, MatMul    elements of the output · length of the axis that is summed over

Counted as multiply-accumulates, from the shapes of weights, inputs and outputs, so a depthwise convolution
counts what it needs and not what a compiler that pads its channels makes of it. One of these is two
operations in NVIDIA's TOPS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx

__all__ = ["Operation", "count_operations"]

OperationKind = Literal["convolution", "gemm"]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A node that multiplies and adds.

    Attributes:
        node: its name, or the one that TensorRT gives to a node without: `node_of_` and its first output.
        macs: multiply-accumulate operations of one inference.
        asked: the type that the graph asks for: `int8` where data and weights come from DequantizeLinear.
    """

    node: str
    kind: OperationKind
    macs: int
    asked: str


def count_operations(model: onnx.ModelProto, *, batch: int = 1) -> tuple[Operation, ...]:
    """The convolutions and matrix products of a model, in its order; `batch` for a free first axis.

    A node whose shapes cannot be inferred counts 0.
    """
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:  # an operator of TensorRT's plugins; its neighbours count 0
        graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(
                side.dim_value if side.HasField("dim_value") else batch if axis == 0 else 0
                for axis, side in enumerate(tensor.shape.dim)
            )
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    operations = []
    for node in graph.node:
        kind = _KINDS.get(node.op_type)
        if kind is None or node.domain not in ("", "ai.onnx"):
            continue
        data, weight = node.input[0], node.input[1]
        asked = "int8" if data in dequantized and weight in dequantized else _name(types.get(data, 0))
        operations.append(
            Operation(
                node=node.name or f"node_of_{node.output[0]}",
                kind=kind,
                macs=_macs(node, shapes),
                asked=asked,
            )
        )
    return tuple(operations)


_KINDS: dict[str, OperationKind] = {
    "Conv": "convolution",
    "ConvTranspose": "convolution",
    "Gemm": "gemm",
    "MatMul": "gemm",
}


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    data, weight = shapes.get(node.input[0], ()), shapes.get(node.input[1], ())
    output = shapes.get(node.output[0], ())
    if not weight or not output or not data:
        return 0
    if node.op_type == "ConvTranspose":
        return prod(data) * prod(weight[1:])
    if node.op_type == "Conv":
        return prod(output) * prod(weight[1:])
    if node.op_type == "Gemm":
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        return prod(output) * weight[1 if transposed else 0]
    return prod(output) * data[-1]


def _name(elem_type: int) -> str:
    from onnx import TensorProto

    names: dict[int, str] = {
        TensorProto.FLOAT: "fp32",
        TensorProto.FLOAT16: "fp16",
        TensorProto.BFLOAT16: "bf16",
    }
    return names.get(elem_type, "unknown")
