"""Small ONNX networks, built node by node, and what the tests of calibration and lowering do with them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgecnn.backends.onnxruntime import create_session
from edgecnn.calibration.observation import observe_activations, weight_scales
from edgecnn.calibration.ranges import choose_range
from edgecnn.errors import ModelFormatError
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering import Precision, lower_graph
from edgecnn.metadata import EXPORT_KEY, QUANTIZATION_KEY, SPEC_KEY
from edgecnn.quantization import ActivationRange, QuantizationTable, WeightScales
from edgecnn.spec import Layout, ModelSpec, image_spec

SIDE = 8


def spec(*, task: str = "raw", layout: Layout = "NCHW", side: int = SIDE) -> ModelSpec:
    """Pixels become -2 … 2: signed, so that zero points matter."""
    image = image_spec("unit", size_hw=(side, side), mean=(0.5,) * 3, std=(0.25,) * 3, layout=layout)
    return ModelSpec(task=task, image=image)


class Net:
    """A graph under construction. Methods that add a node return the name of its output.

    Args:
        shape: of the input, which is called `image`.
        opset: version of ONNX's operators.
        dtype: element type of the input.
    """

    def __init__(
        self,
        shape: Sequence[int | str] = ("N", 3, SIDE, SIDE),
        *,
        opset: int = 19,
        dtype: int = TensorProto.FLOAT,
        seed: int = 0,
    ) -> None:
        self.opset = opset
        self.random = np.random.default_rng(seed)
        self._inputs = [helper.make_tensor_value_info("image", dtype, shape)]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[Any]] = {}

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """A node with one output."""
        return self.split(
            operator, *inputs, names=[name or f"{operator.lower()}_{len(self._nodes)}"], **attributes
        )[0]

    def split(self, operator: str, *inputs: str, names: Sequence[str], **attributes: Any) -> list[str]:
        """A node with several outputs."""
        self._nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return list(names)

    def constant(self, array: Any, name: str | None = None) -> str:
        """An initializer; numbers become float32."""
        values = np.asarray(array)
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        name = name or f"constant_{len(self._constants)}"
        self._constants[name] = values
        return name

    def weights(self, *shape: int, name: str | None = None) -> str:
        """Random weights that keep the size of what goes through."""
        return self.constant(self.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), name)

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        groups: int = 1,
        bias: bool = True,
        **attributes: Any,
    ) -> str:
        """A convolution that keeps the size."""
        operands = [x, self.weights(outputs, inputs // groups, kernel, kernel)]
        if bias:
            operands.append(self.constant(self.random.standard_normal(outputs) / 4))
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.add("Conv", *operands, group=groups, **attributes)

    def relu(self, x: str) -> str:
        """A Relu."""
        return self.add("Relu", x)

    def clip(self, x: str, low: float | None, high: float | None) -> str:
        """A Clip with constant bounds."""
        bounds = ["" if bound is None else self.constant(float(bound)) for bound in (low, high)]
        return self.add("Clip", x, *bounds)

    def pooled(self, x: str) -> str:
        """(N, C, H, W) → (N, C)."""
        return self.add("Flatten", self.add("GlobalAveragePool", x))

    def model(
        self, *outputs: str, exported: bool = True, own_spec: ModelSpec | None = None
    ) -> onnx.ModelProto:
        """The finished model.

        Args:
            outputs: names of tensors.
            exported: say in the metadata that edgecnn exported it, so that it is not simplified.
            own_spec: goes into the metadata.
        """
        inferred = [helper.make_empty_tensor_value_info(name) for name in outputs]
        constants = [numpy_helper.from_array(array, name) for name, array in self._constants.items()]
        graph = helper.make_graph(self._nodes, "small", self._inputs, inferred, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        metadata = {EXPORT_KEY: "{}"} if exported else {}
        if own_spec is not None:
            metadata[SPEC_KEY] = own_spec.to_json()
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


def skip_unless_readable(opset: int) -> None:
    """Skip the test where ONNX Runtime is older than the opset."""
    net = Net(opset=opset)
    try:
        create_session(net.model(net.relu("image")).SerializeToString())
    except ModelFormatError as error:
        if "guarantees* support for models stamped with official released onnx opset versions" not in str(
            error
        ):
            raise
        pytest.skip(f"this ONNX Runtime does not read opset {opset}")


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write it."""
    onnx.save(model, path)
    return path


def graph_of(model: onnx.ModelProto, folder: Path) -> ir.Model:
    """As the commands read it."""
    return load_graph(save(model, folder / "network.onnx"))


def frames(count: int = 12, side: int = SIDE, seed: int = 1) -> list[NDArray[np.uint8]]:
    """Random frames (H, W, 3); the first two are black and white."""
    random = np.random.default_rng(seed)
    images = [random.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count)]
    images[0][:] = 0
    images[1][:] = 255
    return images


def calibrated(
    graph: ir.Model, *, layout: Layout = "NCHW", planted: Mapping[str, float] | None = None
) -> ir.Model:
    """The graph with a quantization table made from `frames()`.

    Args:
        graph: the float model; changed in place.
        layout: of its input.
        planted: tensor → amax, in place of what was observed.
    """
    stats, count, digest = observe_activations(graph, spec(layout=layout).image, frames())
    ranges = {name: choose_range(entry, "minmax") for name, entry in stats.items()}
    for name, amax in (planted or {}).items():
        assert name in ranges, name
        ranges[name] = ActivationRange(amax=amax, low=-amax, high=amax, method="planted")
    return with_table(graph, ranges, weight_scales(graph), count=count, digest=digest)


def with_table(
    graph: ir.Model,
    activations: Mapping[str, ActivationRange],
    weights: Mapping[str, WeightScales],
    *,
    count: int = 1,
    digest: str = "",
) -> ir.Model:
    """The graph with a table of these entries in its metadata."""
    table = QuantizationTable(
        activations=activations,
        weights=weights,
        method="minmax",
        frames=count,
        frames_sha256=digest,
        tool="test",
    )
    graph.metadata_props[QUANTIZATION_KEY] = table.to_json()
    return graph


def lowered_bytes(graph: ir.Model, precision: Precision = "int8") -> bytes:
    """The lowered model; ONNX's checker must accept it to the last shape and type."""
    content = to_bytes(lower_graph(graph, precision))
    onnx.checker.check_model(content, full_check=True)
    return content


def inputs(shape: Sequence[int] = (1, 3, SIDE, SIDE), seed: int = 2) -> NDArray[np.float32]:
    """Input tensors in the range of `spec()`."""
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)


def run(content: bytes, values: NDArray[Any], *, optimized: bool = True) -> list[NDArray[Any]]:
    """All outputs of a model."""
    session = create_session(content, optimized=optimized, threads=1)
    outputs: list[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: values})
    return outputs


def operators(content: bytes) -> Counter[str]:
    """Operator → count, as the graph says."""
    return Counter(node.op_type for node in onnx.load(io.BytesIO(content)).graph.node)


def sqnr_db(reference: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    """10 log10(Σ ref² / Σ (ref − x)²) of the worst output, in dB."""

    def one(first: NDArray[Any], second: NDArray[Any]) -> float:
        signal = float(np.square(first, dtype=np.float64).sum())
        noise = float(np.square(first.astype(np.float64) - second).sum())
        return float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))

    return min(one(first, second) for first, second in zip(reference, other, strict=True))


Builder = Callable[[Net], "str | list[str]"]
