"""ONNX files of a few nodes, for tests that care about what goes in and out rather than what is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from edgecnn.spec import ModelSpec

Sides = Sequence[int | str | None]

DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def write_onnx(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sides],
    outputs: Mapping[str, Sides],
    *,
    dtype: str = "float32",
    constants: Sequence[onnx.TensorProto] = (),
    spec: ModelSpec | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a model.

    Args:
        path: where to.
        nodes: in order.
        inputs, outputs: name → sides; None or a name for a free one.
        dtype: of all of them.
        constants: initializers.
        spec: goes into the metadata.
        metadata: more of it.
    """

    def tensors(shapes: Mapping[str, Sides]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, DTYPES[dtype], list(sides)) for name, sides in shapes.items()
        ]

    graph = helper.make_graph(list(nodes), "small", tensors(inputs), tensors(outputs), list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    own = {} if spec is None else {"edgecnn.spec": spec.to_json()}
    helper.set_model_props(model, {**own, **(metadata or {})})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_means(
    path: Path, *, batch: int | str = "N", size: Sequence[int | str] = (8, 8), **options: Any
) -> Path:
    """Input `image` (batch, 3, H, W) → output `means` (batch, 3), the mean of each channel."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
    ]
    return write_onnx(path, nodes, {"image": [batch, 3, *size]}, {"means": [batch, 3]}, **options)
