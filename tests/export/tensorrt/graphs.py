"""Small networks whose sizes and operations can be worked out by hand, in each precision."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Dtype = Literal["fp32", "fp16", "int8"]

# two convolutions: 8 → 16 channels with 3x3, then 16 → 32 with 1x1, on 16x16; multiplications of each
FIRST_MACS = 16 * 16 * 16 * 8 * 3 * 3
SECOND_MACS = 16 * 16 * 32 * 16
SIDE = 16


class Graph:
    """Nodes and initializers in the making."""

    def __init__(self, float_type: type[np.floating[Any]]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._float = float_type
        self._random = np.random.default_rng(0)

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weights(self, name: str, *shape: int) -> str:
        return self.constant(name, self._random.standard_normal(shape).astype(self._float))

    def quantized(self, name: str) -> str:
        """Q and DQ behind a tensor, with one scale."""
        scale = self.constant(f"{name}_scale", np.array(0.05, self._float))
        zero = self.constant(f"{name}_zero", np.array(0, np.int8))
        q = self.node("QuantizeLinear", [name, scale, zero], f"{name}_q")
        return self.node("DequantizeLinear", [q, scale, zero], f"{name}_dq")

    def quantized_weights(self, name: str, *shape: int) -> str:
        """INT8 weights with a scale for each output channel, behind DQ."""
        stored = self.constant(name, self._random.integers(-127, 128, shape).astype(np.int8))
        scale = self.constant(f"{name}_scale", np.full(shape[0], 0.01, self._float))
        zero = self.constant(f"{name}_zero", np.zeros(shape[0], np.int8))
        return self.node("DequantizeLinear", [stored, scale, zero], f"{name}_dq", axis=0)

    def model(
        self, shape: list[Any], output: str, elem_type: int, metadata: dict[str, str] | None = None
    ) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("x", elem_type, shape)],
            [helper.make_tensor_value_info(output, elem_type, None)],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.example", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        helper.set_model_props(model, metadata or {})
        content: bytes = onnx.shape_inference.infer_shapes(model).SerializeToString()
        return content


def two_convolutions(
    first: Dtype = "fp32",
    second: Dtype | None = None,
    *,
    batch: int | str = 1,
    metadata: dict[str, str] | None = None,
    scale: int = 1,
) -> bytes:
    """Conv 3x3, Relu, Conv 1x1. With INT8 in either, the other floats are FP16.

    `scale` multiplies the channels, for a network with weights of some size.
    """
    second = second or first
    half = "fp32" not in (first, second)
    graph = Graph(np.float16 if half else np.float32)
    data = "x"
    channels = (8 * scale, 16 * scale, 32 * scale)
    for index, (precision, kernel) in enumerate(((first, 3), (second, 1))):
        shape = (channels[index + 1], channels[index], kernel, kernel)
        if precision == "int8":
            inputs = [graph.quantized(data), graph.quantized_weights(f"w{index}", *shape)]
        else:
            inputs = [data, graph.weights(f"w{index}", *shape)]
        data = graph.node("Conv", inputs, f"conv{index}", pads=[kernel // 2] * 4)
        if index == 0:
            data = graph.node("Relu", [data], "relu")
    elem_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    return graph.model([batch, channels[0], SIDE, SIDE], data, elem_type, metadata)


def fully_connected() -> bytes:
    """A Gemm in FP32, which Turing's compiler refuses."""
    graph = Graph(np.float32)
    graph.node("Gemm", ["x", graph.weights("w", 8, 4)], "y")
    return graph.model([1, 8], "y", TensorProto.FLOAT)


def unknown_operator() -> bytes:
    graph = Graph(np.float32)
    graph.nodes.append(helper.make_node("Frobnicate", ["x"], ["y"], name="frob", domain="com.example"))
    return graph.model([1, 8], "y", TensorProto.FLOAT)
