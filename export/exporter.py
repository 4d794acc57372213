"""`export_onnx`: a PyTorch model becomes one ONNX file that says how to use it and how exact it is.

    check the module ─▶ capture (torch → ONNX) ─▶ simplify ─▶ name ─▶ compare with PyTorch ─▶ write

Nothing is written until the comparison has passed, and the file appears whole or not at all. The same
module, spec and library versions give the same bytes: no date, no path and no random input goes in.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn import __version__
from edgecnn.backends import TensorInfo
from edgecnn.errors import ExportError
from edgecnn.export.capture import OPSETS, Capture, Exporter, capture, lower_opset
from edgecnn.export.check import compare
from edgecnn.export.result import ExportResult, ParityReport
from edgecnn.export.torch_boundary import essential_line, require
from edgecnn.files import check_output, write_atomic
from edgecnn.metadata import EXPORT_KEY, SPEC_KEY
from edgecnn.progress import Progress, no_progress
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx
    import torch

    from edgecnn.export.reference import Reference

__all__ = ["TOLERANCE", "export_onnx"]

TOLERANCE = 1e-4
"""Accepted error as a fraction of an output's range. Real networks stay below 1e-5: only the order of
float32 sums differs. A wrong weight, axis or constant is orders of magnitude above.
"""

_MAX_BYTES = 2**31 - 1  # protobuf's limit for one message
_MAX_IR_VERSION = 10  # the newest that onnxruntime 1.20 and TensorRT 10.3 read
_DYNAMIC_BATCHES = (1, 3, 2)


def export_onnx(
    module: torch.nn.Module | torch.export.ExportedProgram,
    spec: ModelSpec,
    path: str | os.PathLike[str],
    *,
    opset: int = 19,
    batch: int | None = 1,
    output_names: Sequence[str] | None = None,
    exporter: Exporter = "auto",
    tolerance: float = TOLERANCE,
    source: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a PyTorch model to an ONNX file, and check the file's graph against the model.

    Args:
        module: an `nn.Module`, an `ExportedProgram`, or a TorchScript module, which takes one image tensor
            (N, C, H, W) or (N, H, W, C) float32 as the spec says. It is run in evaluation mode and left as
            it was.
        spec: how the model is used; goes into the file.
        path: the file to write.
        opset: version of ONNX's operators, 17 to 23. TensorRT 10.3 reads up to 20; FP16 scales of
            Q/DQ need 19.
        batch: images at once, or None to leave it free.
        output_names: names for the outputs, in the module's order.
        exporter: `auto`; `dynamo` for torch.export; `torchscript` for the older tracer, which freezes
            branches that depend on the image.
        tolerance: largest accepted error, as a fraction of each output's range.
        source: where the module comes from; stored in the file.
        force: overwrite `path`.
        progress: told of each stage.

    Raises:
        ExportError: not exportable, or not as asked.
        ParityError: exported, and the graph computes something else; nothing is written.
        SpecError: the spec does not fit the module.
        OutputError, OutputExistsError: `path` cannot be written.
        BackendUnavailableError: torch, onnx, onnxscript or onnxruntime is missing.
    """
    started = perf_counter()
    target = check_output(path, force=force)
    _check_options(opset, batch, exporter)
    require("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime")
    import torch

    from edgecnn.export.head import check_task
    from edgecnn.export.reference import Reference
    from edgecnn.export.samples import sample_batches

    with _stage("check the module", progress):
        reference = Reference(module)
        reference.check_shape(spec.image)
        _check_batch(reference, batch)
        images = sample_batches(spec.image, _DYNAMIC_BATCHES if batch is None else (batch,))
        with reference.evaluating():
            own_outputs = reference.check(images[0])
        check_task(spec, own_outputs)
    with reference.evaluating():
        with _stage("translate to ONNX", progress):
            # torch takes a batch of 1 for a constant, so a free one is traced with 2
            example = np.repeat(images[0][:1], 2, axis=0) if batch is None else images[0]
            captured = capture(
                reference,
                torch.from_numpy(example),
                opset=opset,
                dynamic_batch=batch is None,
                exporter=exporter,
            )
        with _stage("simplify", progress):
            model, torch_names, spec, notes = _tidy(
                captured, reference, spec, list(own_outputs), output_names, batch=batch, opset=opset
            )
        with _stage("compare with PyTorch", progress):
            parity = compare(model, captured, torch_names, reference, images, spec, tolerance=tolerance)
    with _stage("write", progress):
        _describe(model, spec, parity, captured.exporter, source)
        data = model.SerializeToString(deterministic=True)
        write_atomic(target, data, force=force)
    return ExportResult(
        path=target,
        size_bytes=len(data),
        opset=opset,
        spec=spec,
        inputs=_tensor_infos(model.graph.input),
        outputs=_tensor_infos(model.graph.output),
        node_counts=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        parity=parity,
        exporter=captured.exporter,
        notes=notes,
        seconds=perf_counter() - started,
    )


@contextlib.contextmanager
def _stage(name: str, progress: Progress) -> Iterator[None]:
    progress(name, 0, 1)
    yield
    progress(name, 1, 1)


def _check_options(opset: int, batch: int | None, exporter: str) -> None:
    if opset not in OPSETS:
        raise ExportError("opset out of range", got=str(opset), expected=f"{OPSETS[0]} to {OPSETS[-1]}")
    if batch is not None and not 1 <= batch <= 4096:
        raise ExportError("batch out of range", got=str(batch), expected="1 to 4096, or None (dynamic)")
    if exporter not in ("auto", "dynamo", "torchscript"):
        raise ExportError("unknown exporter", got=exporter, expected="auto, dynamo or torchscript")


def _check_batch(reference: Reference, batch: int | None) -> None:
    fixed = reference.fixed_batch()
    if fixed is not None and fixed != batch:
        raise ExportError(
            "the exported program has a fixed batch",
            got=f"batch {'dynamic' if batch is None else batch}",
            expected=f"batch {fixed}",
            remedy=f"Use --batch {fixed}, or export the .pt2 again with dynamic_shapes",
        )


def _tidy(
    captured: Capture,
    reference: Reference,
    spec: ModelSpec,
    own_names: Sequence[str],
    asked_names: Sequence[str] | None,
    *,
    batch: int | None,
    opset: int,
) -> tuple[onnx.ModelProto, dict[str, str], ModelSpec, tuple[str, ...]]:
    """Captured graph → (checked model, its tensor names → torch's names, completed spec, notes)."""
    import onnx
    import onnx_ir as ir

    from edgecnn.export.head import choose_output_names, complete_spec
    from edgecnn.export.passes import finish, simplify

    model = captured.model
    _check_size(model)
    input_shape = (batch, *spec.image.shape)
    simplify(model, input_shape)
    names = choose_output_names(model, own_names, spec, asked_names)
    torch_values = _values_known_to_torch(captured)
    finish(
        model,
        input_shape=input_shape,
        output_names=names,
        parameter_names=reference.parameter_names,
    )
    model.producer_name, model.producer_version = "edgecnn", __version__
    model.graph.name = spec.name or "main"
    outputs = _ir_infos(model.graph.outputs)
    spec, notes = complete_spec(model, spec, outputs)
    left = sum(node.op_type == "BatchNormalization" for node in model.graph)
    if left:
        notes = (*notes, f"{left} batch norms are not behind a layer that could take them, and stay")
    proto = ir.serde.serialize_model(model)
    constants = {tensor.name for tensor in proto.graph.initializer}  # they carry their shapes themselves
    described = [info for info in proto.graph.value_info if info.name not in constants]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(described)
    proto = lower_opset(proto, opset)
    proto.ir_version = min(
        _MAX_IR_VERSION, onnx.helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True)
    )
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError("the exported graph is not valid ONNX", got=essential_line(error)) from error
    return proto, {str(value.name): name for value, name in torch_values.items()}, spec, notes


def _check_size(model: Any) -> None:
    weights_bytes = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    if weights_bytes > _MAX_BYTES:
        raise ExportError(
            "the model does not fit into one ONNX file",
            got=f"{weights_bytes / 1e9:.1f} GB of weights",
            expected="less than 2.1 GB",
            remedy="edgecnn is for networks that run on edge devices",
        )


def _values_known_to_torch(captured: Capture) -> dict[Any, str]:
    """Tensors of the graph → the node of torch's program that computes the same; empty for the tracer.

    To be asked before tensors are renamed: until then both carry the same name.
    """
    if captured.program is None:
        return {}
    nodes = {node.name for node in captured.program.graph.nodes if node.op == "call_function"}
    values = [value for node in captured.model.graph for value in node.outputs]
    return {value: value.name for value in values if value.name is not None and value.name in nodes}


def _describe(
    model: onnx.ModelProto,
    spec: ModelSpec,
    parity: ParityReport,
    exporter: str,
    source: Mapping[str, Any] | None,
) -> None:
    """Write the spec and the origin into the file's metadata."""
    import onnx
    import torch

    origin = {
        "source": dict(source or {}),
        "exporter": exporter,
        "versions": {"edgecnn": __version__, "onnx": onnx.__version__, "torch": torch.__version__},
        "parity": parity.to_dict(),
    }
    onnx.helper.set_model_props(
        model, {EXPORT_KEY: json.dumps(origin, sort_keys=True, allow_nan=False), SPEC_KEY: spec.to_json()}
    )


def _ir_infos(values: Sequence[Any]) -> tuple[TensorInfo, ...]:
    infos = []
    for value in values:
        shape = tuple(side if isinstance(side, int) else None for side in value.shape or ())
        infos.append(TensorInfo(str(value.name), shape, str(np.dtype(value.dtype.numpy()))))
    return tuple(infos)


def _tensor_infos(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorInfo, ...]:
    import onnx

    infos = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim)
        infos.append(
            TensorInfo(value.name, shape, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
        )
    return tuple(infos)
