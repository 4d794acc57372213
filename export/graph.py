"""ONNX files in and out of the graph library (onnx_ir), with foreign failures translated at this boundary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.errors import BackendUnavailableError, ModelFormatError, ModelNotFoundError
from edgecnn.files import write_atomic

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["constant", "convolution_macs", "load_graph", "save_graph", "to_bytes"]

# ONNX opsets that the passes and lowerings here are written for. 13 brought Q/DQ with an axis.
OPSETS = range(13, 24)


def load_graph(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX file, with the type and shape of every tensor inferred.

    Raises:
        ModelNotFoundError: no file there.
        ModelFormatError: not ONNX, truncated, or of an opset that is not known here.
        BackendUnavailableError: the packages of `edgecnn[export]` are missing.
    """
    try:
        import onnx
        import onnx_ir as ir
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise BackendUnavailableError(
            "this step needs the export packages", got=str(error), remedy="pip install 'edgecnn[export]'"
        ) from error
    file = Path(path)
    if not file.is_file():
        raise ModelNotFoundError(f"model {file} {'is a folder' if file.is_dir() else 'does not exist'}", expected="an ONNX file")
    try:
        proto = onnx.load(file)
        onnx.checker.check_model(proto)
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
        model = ir.from_proto(proto)
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelFormatError(
            f"{file} is not a valid ONNX file",
            got=f"{file.stat().st_size} bytes: {_first_line(error)}",
            remedy="Copy or export it again",
        ) from error
    opset = model.opset_imports.get("", 0)
    if opset not in OPSETS:
        raise ModelFormatError(
            f"{file} has an opset that is not known here",
            got=str(opset),
            expected=f"{OPSETS.start} to {OPSETS.stop - 1}",
            remedy="Export it again with --opset 19",
        )
    return model


def to_bytes(model: ir.Model) -> bytes:
    """The file's bytes; the same model gives the same bytes."""
    import onnx_ir as ir

    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def save_graph(model: ir.Model, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write an ONNX file, whole or not at all. Raises OutputError and OutputExistsError."""
    return write_atomic(path, to_bytes(model), force=force)


def constant(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    """The initializer of that name, registered in the graph; one that is there already is taken again."""
    import numpy as np
    import onnx_ir as ir

    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def convolution_macs(node: ir.Node) -> int:
    """Multiply-accumulate operations of a Conv for one frame; 0 where the output's size is not known."""
    weight, output = node.inputs[1], node.outputs[0]
    if weight is None or weight.shape is None or output.shape is None:
        return 0
    sides = [side for side in (*weight.shape.dims[1:], *output.shape.dims[1:]) if isinstance(side, int)]
    if len(sides) != len(weight.shape.dims) + len(output.shape.dims) - 2:
        return 0
    macs = 1
    for side in sides:
        macs *= side
    return macs


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
