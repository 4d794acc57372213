"""ONNX files in and out of the graph library (onnx_ir), with foreign failures translated at this boundary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.errors import BackendUnavailableError, ModelFormatError, ModelNotFoundError
from edgecnn.files import write_atomic
from edgecnn.interrupts import interrupts_deferred
from edgecnn.metadata import BUILD_KEY, EXPORT_KEY, QUANTIZATION_KEY

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = [
    "OPSETS",
    "constant",
    "fixed_batch",
    "insert_after_producer",
    "load_graph",
    "save_graph",
    "to_bytes",
]

OPSETS = range(13, 24)
"""ONNX opsets that the passes and lowerings here are written for. 13 brought Q/DQ with an axis."""

_OLDEST = 7  # from here on ONNX's own converter brings a model to OPSETS.start
_IR_VERSION = 8  # from 4 on, initializers need not be inputs


def load_graph(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX file, with the type and shape of every tensor inferred.

    All constants are initializers, and none of them is an input. A model that edgecnn did not write is
    brought to opset 13 if it is older, and simplified: a batch norm that is not folded would cost 5 dB of
    INT8 accuracy. A model that edgecnn wrote stays as it is, so names in its quantization table hold.

    Raises:
        ModelNotFoundError: no file there.
        ModelFormatError: not ONNX, truncated, or of an opset that is not known here.
        BackendUnavailableError: the packages of `edgecnn[export]` are missing.
    """
    try:
        with interrupts_deferred():  # one that falls into the import of onnx's extension crashes the process
            import onnx
        import onnx_ir as ir
        import onnx_ir.passes.common as common

        from edgecnn.export.passes import simplify
    except ImportError as error:
        raise BackendUnavailableError(
            "this step needs the export packages", got=str(error), remedy="pip install 'edgecnn[export]'"
        ) from error
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise ModelNotFoundError(f"model {file} {what}", expected="an ONNX file")
    proto = _read(file)
    try:
        proto = _in_known_opset(proto, file)
        onnx.checker.check_model(proto)
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
        model = ir.from_proto(proto)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelFormatError(
            f"{file} is not a valid ONNX model", got=_first_line(error), remedy="Export it again"
        ) from error
    _check_constants(model, file)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveInitializersFromInputsPass()(model)
    sides = _input_sides(model)
    if sides and not model.metadata_props.keys() & {EXPORT_KEY, QUANTIZATION_KEY, BUILD_KEY}:
        simplify(model, sides)
        model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
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
    """An initializer that holds `array`: the one of that name and content, otherwise a new one."""
    import numpy as np
    import onnx_ir as ir

    array = np.asarray(array)
    taken = graph.initializers.get(name)
    if taken is not None and taken.const_value is not None:
        there = taken.const_value.numpy()
        if there.dtype == array.dtype and np.array_equal(there, array):
            return taken
        return constant(graph, f"{name}_", array)  # a network may have a parameter of just that name
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def fixed_batch(model: ir.Model) -> int:
    """The batch that the model's input prescribes; 1 where it is free."""
    shape = model.graph.inputs[0].shape
    side: Any = shape[0] if shape is not None and len(shape) else 1
    return side if isinstance(side, int) and side > 0 else 1  # some exporters write -1 for a free one


def insert_after_producer(graph: ir.Graph, value: ir.Value, *nodes: ir.Node) -> None:
    """Put nodes that read `value` behind the node that makes it, or at the graph's front."""
    producer = value.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), nodes)
    else:
        graph.insert_after(producer, nodes)


def _read(file: Path) -> onnx.ModelProto:
    """Parse the file and the data files beside it."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

    try:
        proto = onnx.load(file, load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError, whose module has no type stubs
        raise _not_whole(file) from error
    if not proto.HasField("graph") or not proto.opset_import:  # bytes that happen to parse, such as none
        raise _not_whole(file)
    try:
        load_external_data_for_model(proto, str(file.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        outside = {ExternalDataInfo(t).location for t in proto.graph.initializer if uses_external_data(t)}
        raise ModelFormatError(
            f"{file} keeps its weights in other files, which cannot be read",
            got=_first_line(error),
            remedy=f"Copy {', '.join(sorted(outside)) or 'them'} to the same folder",
        ) from error
    return proto


def _in_known_opset(proto: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    from onnx import version_converter

    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset in OPSETS:
        return proto
    if not _OLDEST <= opset < OPSETS.start:
        raise ModelFormatError(
            f"{file} has an opset that is not known here",
            got=str(opset),
            expected=f"{_OLDEST} to {OPSETS.stop - 1}",
            remedy="Export it again with --opset 19",
        )
    try:
        converted = version_converter.convert_version(proto, OPSETS.start)
    except RuntimeError as error:
        raise ModelFormatError(
            f"{file} has opset {opset}, and ONNX cannot convert it to {OPSETS.start}",
            got=_first_line(error),
            remedy="Export it again with --opset 19",
        ) from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(proto.metadata_props)
    return converted


def _input_sides(model: ir.Model) -> list[Any]:
    """The sides of the one input: a number, or a name, or None for a free batch. Empty if not known."""
    inputs = model.graph.inputs
    if len(inputs) != 1 or inputs[0].shape is None:
        return []
    sides: list[Any] = []
    for index, side in enumerate(inputs[0].shape):
        if isinstance(side, int) and side > 0:
            sides.append(side)
        else:
            name = None if isinstance(side, int) else side.value
            sides.append(None if index == 0 else name or f"side_{index}")
    return sides


def _check_constants(model: ir.Model, file: Path) -> None:
    """Older versions of ONNX's checker do not compare the bytes of a constant with its shape."""
    try:
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                value.const_value.numpy()
    except ValueError as error:
        raise ModelFormatError(
            f"{file} is not a valid ONNX model",
            got=f"a constant of another size: {_first_line(error)}",
            remedy="Copy or export it again, with the files that hold its weights",
        ) from error


def _not_whole(file: Path) -> ModelFormatError:
    with file.open("rb") as stream:
        start = stream.read(8)
    return ModelFormatError(
        f"{file} is not a whole ONNX file",
        got=f"{file.stat().st_size} bytes that start with {start!r}",
        remedy="Copy or export it again",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
