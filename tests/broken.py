"""ONNX files that are not what they should be, and some that only look so; name → how to write one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def convnet(*, opset: int = 17, ir_version: int = 8, inputs_hold_weights: bool = False) -> onnx.ModelProto:
    """Conv → Relu → GlobalAveragePool → Flatten, (N, 3, 8, 8) → (N, 4)."""
    weight = numpy_helper.from_array(
        np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32), "w"
    )
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
    if inputs_hold_weights:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])]
    graph = helper.make_graph(nodes, "convnet", inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def _write(path: Path, model: onnx.ModelProto) -> None:
    path.write_bytes(model.SerializeToString())  # onnx.save would look at it


def _truncated(path: Path) -> None:
    data = convnet().SerializeToString()
    path.write_bytes(data[: len(data) // 2])


def _unknown_operator(path: Path) -> None:
    model = convnet()
    model.graph.node[0].op_type = "Frobnicate"
    _write(path, model)


def _unknown_domain(path: Path) -> None:
    model = convnet()
    model.graph.node[0].domain = "my.domain"
    _write(path, model)


def _dangling_input(path: Path) -> None:
    model = convnet()
    model.graph.node[0].input[0] = "nowhere"
    _write(path, model)


def _wrong_size_of_weights(path: Path) -> None:
    model = convnet()
    model.graph.initializer[0].dims[1] = 4
    _write(path, model)


def _external(path: Path, location: str) -> None:
    onnx.save(convnet(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "weights.bin").unlink()
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    _write(path, model)


def _short_external_data(path: Path) -> None:
    _external(path, "weights.bin")
    (path.parent / "weights.bin").write_bytes(b"few")


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "random": lambda path: path.write_bytes(np.random.default_rng(1).bytes(5000)),
    "text": lambda path: path.write_text("this is no model\n" * 20),
    "html": lambda path: path.write_text("<!DOCTYPE html><html><body>404</body></html>"),
    "truncated": _truncated,
    "opset_99": lambda path: _write(path, convnet(opset=99)),
    "ir_version_99": lambda path: _write(path, convnet(ir_version=99)),
    "unknown_operator": _unknown_operator,
    "unknown_domain": _unknown_domain,
    "dangling_input": _dangling_input,
    "wrong_size_of_weights": _wrong_size_of_weights,
    "missing_external_data": lambda path: _external(path, "weights.bin"),
    "external_data_outside": lambda path: _external(path, "../../../etc/passwd"),
    "short_external_data": _short_external_data,
}
"""None of these is usable; each must be refused with one line."""
