"""Small networks of the kinds that people run, in FP32, FP16 and INT8, made with `onnx` alone.

The precision stands in the graph: FP16 as types, INT8 as symmetric Q/DQ before each convolution with scales
from one run on random pixels. They are not trained; what counts is that two machines compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecnn.backends.onnxruntime import create_session

__all__ = ["NETWORKS", "Precision", "make_network"]

Precision = Literal["fp32", "fp16", "int8"]
SIDE = 224


class _Net:
    """A graph under construction; methods return the name of their output.

    Args:
        half: FP16 between a cast at the input and one at each output.
        scales: of the input of each convolution, in INT8; None for no Q/DQ.
    """

    def __init__(self, *, half: bool, scales: list[float] | None, batch: int | str) -> None:
        self.random = np.random.default_rng(0)
        self.dtype = np.float16 if half else np.float32
        self.half, self.scales, self.batch = half, scales, batch
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.outputs: list[tuple[str, list[int | str]]] = []
        self.observed: list[str] = []  # the input of each convolution

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = values
        return name

    def image(self) -> str:
        return self.add("Cast", "image", to=TensorProto.FLOAT16) if self.half else "image"

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, group: int = 1
    ) -> str:
        """Convolution and ReLU."""
        shape = (outputs, inputs // group, kernel, kernel)
        weights = self.random.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))
        self.observed.append(x)
        if self.scales is None:
            w = self.constant(weights.astype(self.dtype))
        else:
            zero = self.constant(np.int8(0))
            scale = self.constant(np.float32(self.scales[len(self.observed) - 1]))
            x = self.add("DequantizeLinear", self.add("QuantizeLinear", x, scale, zero), scale, zero)
            each = np.maximum(np.abs(weights).max((1, 2, 3)), 1e-6).astype(np.float32) / 127
            grid = np.clip(np.round(weights / each[:, None, None, None]), -127, 127).astype(np.int8)
            zeros = self.constant(np.zeros(outputs, np.int8))
            w = self.add("DequantizeLinear", self.constant(grid), self.constant(each), zeros, axis=0)
        bias = self.constant(self.random.standard_normal(outputs).astype(self.dtype) * self.dtype(0.1))
        pad = kernel // 2
        attributes = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [pad] * 4,
            "group": group,
        }
        return self.add("Relu", self.add("Conv", x, w, bias, **attributes))

    def output(self, x: str, name: str, sides: list[int | str]) -> None:
        self.nodes.append(helper.make_node("Cast", [x], [name], to=TensorProto.FLOAT))  # in FP32 nothing
        self.outputs.append((name, [self.batch, *sides]))

    def to_bytes(self, *, observe: bool = False) -> bytes:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [self.batch, 3, SIDE, SIDE])
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name, sides in self.outputs
        ]
        if observe:
            names = dict.fromkeys(self.observed[1:])
            outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        constants = [numpy_helper.from_array(values, name) for name, values in self.constants.items()]
        graph = helper.make_graph(self.nodes, "sample", [image], outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        return bytes(model.SerializeToString())


def _residual(net: _Net) -> None:
    """A classifier of residual blocks, as ResNet."""
    x = net.conv(net.image(), 3, 32, 7, stride=4)
    for width, stride in ((32, 1), (64, 2), (128, 2)):
        shortcut = net.conv(x, 32 if width == 32 else width // 2, width, 1, stride=stride)
        inner = net.conv(x, 32 if width == 32 else width // 2, width, stride=stride)
        x = net.add("Add", shortcut, net.conv(inner, width, width))
    pooled = net.add("Flatten", net.add("GlobalAveragePool", x))
    weights = net.constant(net.random.standard_normal((128, 100)).astype(net.dtype) * net.dtype(0.1))
    net.output(net.add("MatMul", pooled, weights), "scores", [100])


def _depthwise(net: _Net) -> None:
    """A feature extractor of depthwise convolutions with squeeze and excitation, as MobileNet."""
    x = net.conv(net.image(), 3, 16, stride=4)
    for width in (16, 32, 64):
        x = net.conv(net.conv(x, width, width, stride=2, group=width), width, 2 * width, 1)
        gate = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", x), 2 * width, 2 * width, 1))
        x = net.add("Mul", x, gate)
    net.output(net.add("Flatten", net.add("GlobalAveragePool", x)), "embedding", [128])


def _detector(net: _Net) -> None:
    """A pyramid with upsampling, concatenation and two outputs, as a detector's neck."""
    fine = net.conv(net.conv(net.image(), 3, 16, stride=4), 16, 32, stride=2)
    coarse = net.conv(fine, 32, 64, stride=2)
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    wide = net.add("Resize", coarse, "", scales, mode="nearest",
                   coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    both = net.conv(net.add("Concat", fine, wide, axis=1), 96, 32)
    net.output(net.add("Sigmoid", net.conv(both, 32, 8, 1)), "objects", [8, 28, 28])
    net.output(net.conv(coarse, 64, 8, 1), "boxes", [8, 14, 14])


NETWORKS: dict[str, Callable[[_Net], None]] = {
    "residual": _residual,
    "depthwise": _depthwise,
    "detector": _detector,
}


def make_network(name: str, precision: Precision, *, batch: int | str = 1) -> bytes:
    """An ONNX file: `image` (batch, 3, 224, 224) float32 → float32 outputs."""
    write = NETWORKS[name]
    scales = None
    if precision == "int8":
        plain = _Net(half=False, scales=None, batch=1)
        write(plain)
        session = create_session(plain.to_bytes(observe=True))
        image = np.random.default_rng(1).random((1, 3, SIDE, SIDE), np.float32)
        found = dict(zip(dict.fromkeys(plain.observed[1:]), session.run(None, {"image": image}), strict=True))
        found["image"] = image
        scales = [max(float(np.abs(found[x]).max()), 1e-6) / 127 for x in plain.observed]
    net = _Net(half=precision == "fp16", scales=scales, batch=batch)
    write(net)
    return net.to_bytes()
