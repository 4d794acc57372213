"""Lowering: model + quantization table + precision + target → the graph that the target compiles.

Precision lives in the graph: the compiler is told nothing that the graph does not say, so the very graph
that ships can be measured by ONNX Runtime on any CPU.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

from edgecnn import __version__
from edgecnn.errors import BuildError
from edgecnn.metadata import ACCURACY_KEY, BUILD_KEY, QUANTIZATION_KEY, read_json
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgecnn.export.lowering.fp32_nodes import Ranges

__all__ = ["PRECISIONS", "TARGETS", "Precision", "Target", "lower_graph", "refuse_lowered"]

Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["onnxruntime", "tensorrt"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
TARGETS: tuple[Target, ...] = ("onnxruntime", "tensorrt")


def lower_graph(
    model: ir.Model,
    precision: Precision,
    *,
    target: Target = "onnxruntime",
    leave: Collection[str] = (),
    ranges: Ranges | None = None,
) -> ir.Model:
    """A lowered copy of a float32 model; its metadata says what was done, and the table stays behind.

    `leave` names layers that stay out of INT8, for TensorRT alone. `ranges` has the smallest and the largest
    value of each tensor, by which FP16 decides what stays in FP32 where the model is not calibrated.

    For TensorRT and for FP16, `lowering` in the metadata's build report says what was kept in FP32 and why;
    see `edgecnn.export.lowering.tensorrt.LoweringReport`.

    Raises:
        BuildError: an unknown target, INT8 without a quantization table, a model that is lowered already, or
            one that cannot be lowered to this precision.
        ModelFormatError: the table in the model is damaged, or belongs to another one.
    """
    if target not in TARGETS:
        raise BuildError("unknown target", got=target, expected="one of " + ", ".join(TARGETS))
    refuse_lowered(model)
    lowered = model.clone()
    table = QuantizationTable.from_metadata(model.metadata_props)
    if precision == "int8" and table is None:
        raise BuildError(
            "INT8 needs a calibrated model",
            got="no quantization table",
            remedy="edgecnn calibrate MODEL --data PHOTOS -o model.calibrated.onnx",
        )
    report: dict[str, Any] = {"precision": precision, "target": target, "edgecnn": __version__}
    if target == "tensorrt" or precision == "fp16":  # FP16 is one graph for all targets
        from edgecnn.export.lowering.tensorrt import lower_tensorrt

        done = lower_tensorrt(lowered, precision, table, leave=leave, ranges=ranges)
        report["lowering"] = done.to_dict()
    elif precision == "int8" and table is not None:
        from edgecnn.export.lowering.int8_onnxruntime import lower_int8

        lower_int8(lowered, table)
    for key in (QUANTIZATION_KEY, ACCURACY_KEY):
        lowered.metadata_props.pop(key, None)
    lowered.metadata_props[BUILD_KEY] = json.dumps(report, sort_keys=True)
    return lowered


def refuse_lowered(model: ir.Model) -> None:
    """Raise BuildError for a model that edgecnn has lowered, or that another tool has quantized."""
    from edgecnn.export.qdq import quantized_operators

    built = read_json(model.metadata_props, BUILD_KEY)
    quantized = quantized_operators(model.graph)
    if built is None and not quantized:
        return
    raise BuildError(
        "the model is lowered already" if built else "the model is quantized already",
        got=str(built.get("precision")) if built else ", ".join(quantized),
        expected="an exported or calibrated model" if built else "a float32 model",
        remedy="Use the file that `edgecnn export` or `edgecnn calibrate` wrote"
        if built
        else "It needs no calibration: `edgecnn build --precision int8` takes its scales as they are; "
        "or calibrate the float model, with this one as --ranges",
    )
