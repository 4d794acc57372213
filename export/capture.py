"""PyTorch → ONNX, as torch's own exporters write it. What comes out is correct, not yet tidy.

`dynamo` goes through torch.export and knows every node's place in the module tree. `torchscript` runs the
older tracer: the only way for a TorchScript file, and for a module on request. It records what one image
does, so a branch that depends on the image is frozen; that is why it is never taken silently.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

from edgecnn.errors import ExportError
from edgecnn.export.reference import Reference
from edgecnn.export.torch_boundary import essential_line, quiet, remedy_for

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import torch

__all__ = ["OPSETS", "Capture", "Exporter", "capture", "lower_opset"]

Exporter = Literal["auto", "dynamo", "torchscript"]

OPSETS = range(17, 24)
_TRACER_MAX_OPSET = 20  # the tracer writes no newer ones; they are reached by conversion
_DYNAMO_MIN_OPSET = (
    18  # torch's translations are written in it; an older one is reached when the graph is simple
)
_BATCH = "batch"


@dataclass(frozen=True, eq=False)
class Capture:
    """An ONNX graph fresh from torch.

    Attributes:
        model: unoptimized, with torch's names and metadata.
        program: the decomposed program that it was translated from: a value of the graph and a node of the
            program that have the same name hold the same tensor. None for the tracer.
        exporter: `dynamo` or `torchscript`.
    """

    model: ir.Model
    program: torch.export.ExportedProgram | None
    exporter: str


def capture(
    reference: Reference,
    example: torch.Tensor,
    *,
    opset: int,
    dynamic_batch: bool,
    exporter: Exporter = "auto",
) -> Capture:
    """Export a PyTorch model that is in evaluation mode.

    Args:
        reference: the model.
        example: an input (N, C, H, W) or (N, H, W, C) float32. With a dynamic batch, N must be at least 2:
            torch takes 1 for a constant.
        opset: version of ONNX's operators, one of `OPSETS`. The graph may come out in a newer one, from
            which `lower_opset` converts it once it is simplified.
        dynamic_batch: leave the first side free.
        exporter: `auto` takes `dynamo` wherever it applies.

    Raises:
        ExportError: torch cannot export it, or not with this opset, batch or exporter.
    """
    tracing = reference.kind == "torchscript" or exporter == "torchscript"
    if reference.kind == "torchscript" and exporter == "dynamo":
        raise ExportError("torch.export takes no TorchScript module", remedy="Leave out --exporter dynamo")
    if reference.kind == "program" and exporter == "torchscript":
        raise ExportError("an exported program cannot be traced", remedy="Leave out --exporter torchscript")
    try:
        with quiet():
            made = (
                _trace(reference.module, example, opset, dynamic_batch)
                if tracing
                else _export(reference.module, example, opset, dynamic_batch)
            )
    except Exception as error:  # torch raises whatever its layers raise
        line = essential_line(error)
        raise ExportError(
            "PyTorch's ONNX exporter does not take this module",
            got=line,
            remedy=remedy_for(line, "Reduce forward() to operators that ONNX has, or try another --exporter"),
        ) from error
    return made


def lower_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph in an older opset; names stay. Raises ExportError where an operator has no older one."""
    import onnx.version_converter

    reached = proto.opset_import[0].version
    if reached == opset:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, opset)
    except Exception as error:  # its C++ code raises whatever it likes
        raise ExportError(
            f"this module cannot be written in opset {opset}",
            got=essential_line(error),
            remedy=f"Use --opset {reached}",
        ) from error


def _export(module: Any, example: torch.Tensor, opset: int, dynamic_batch: bool) -> Capture:
    import torch

    from edgecnn.export.fake_quantize import shape_rules, translations

    free = dynamic_batch and not isinstance(module, torch.export.ExportedProgram)
    shapes = ({0: torch.export.Dim(_BATCH)},) if free else None
    with shape_rules():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=max(opset, _DYNAMO_MIN_OPSET),
            dynamic_shapes=shapes,
            custom_translation_table=translations(),
            optimize=False,
            verbose=False,
        )
    assert program is not None  # it is None for the tracer alone
    return Capture(program.model, program.exported_program, "dynamo")


def _trace(module: Any, example: torch.Tensor, opset: int, dynamic_batch: bool) -> Capture:
    import onnx_ir as ir
    import torch
    from onnx import load_from_string
    from onnxscript.version_converter import convert_version

    # What the tracer cannot translate it prints to stdout, whatever `verbose` says.
    muted = mock.patch.object(torch._C, "_jit_onnx_log")
    # PRESERVE keeps batch norms apart from convolutions: fused here, the weights would lose their names.
    file: Any = io.BytesIO()  # which torch takes, and does not say so
    with muted:
        torch.onnx.export(
            module, (example,), file, dynamo=False, opset_version=min(opset, _TRACER_MAX_OPSET),
            input_names=["image"], dynamic_axes={"image": {0: _BATCH}} if dynamic_batch else None,
            training=torch.onnx.TrainingMode.PRESERVE, verbose=False,
        )  # fmt: skip
    model = ir.serde.deserialize_model(load_from_string(file.getvalue()))
    if opset > _TRACER_MAX_OPSET:
        convert_version(model, opset)
    return Capture(model, None, "torchscript")
