"""TensorRT: a strongly typed graph that says everything, for TensorRT 10.3 to 11 and TensorRT for RTX.

TensorRT 11 has no precision flags any more, and what it is not told it computes in the type that is written.
So everything is written:

- `fp32`: the graph as it is.
- `fp16`: half-precision weights and activations, casts at the borders and around what stays in FP32.
- `int8`: explicit symmetric Q/DQ around the layers that INT8 is for, FP16 everywhere else.

What stays in FP32, and why, is found by `fp32_nodes`; where Q/DQ goes, by `tensorrt_int8`. The FP16
graph serves every target, ONNX Runtime too. Accuracy is measured on `edgecnn.export.fp16_reference`: ONNX
Runtime's optimizer computes garbage for FP16 around Q/DQ, and its kernels do not round to FP16.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgecnn.errors import BuildError
from edgecnn.export.lowering.fp16 import lower_fp16
from edgecnn.export.lowering.fp32_nodes import Ranges, nodes_for_fp32
from edgecnn.export.lowering.int8_onnxruntime import check_table
from edgecnn.export.lowering.tensorrt_centring import fold_zero_points
from edgecnn.export.lowering.tensorrt_expectation import sum_expectations
from edgecnn.export.lowering.tensorrt_int8 import Quantized, quantize
from edgecnn.export.placement import name_of
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LoweringReport", "lower_tensorrt"]

_OPSET = 19  # the first whose Q/DQ have FP16 scales
_NOT_ARITHMETIC = frozenset({"Cast", "QuantizeLinear", "Shape", "Size"})


@dataclass(frozen=True, kw_only=True)
class LoweringReport:
    """What a lowering for TensorRT did, and why.

    Attributes:
        precision: `fp32`, `fp16` or `int8`.
        kept_fp32: node → why it computes in FP32; empty for `fp32`, where all of them do.
        quantized: how many convolutions, transposed convolutions and matrix products read INT8.
        not_quantized: those that do not, of an `int8` graph → why.
        warnings: what could not be decided well, in words.
    """

    precision: Literal["fp32", "fp16", "int8"]
    kept_fp32: Mapping[str, str] = field(default_factory=dict)
    quantized: int = 0
    not_quantized: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "precision": self.precision,
            "kept_fp32": dict(self.kept_fp32),
            "quantized": self.quantized,
            "not_quantized": dict(self.not_quantized),
            "warnings": list(self.warnings),
        }


def lower_tensorrt(
    model: ir.Model,
    precision: Literal["fp32", "fp16", "int8"],
    table: QuantizationTable | None,
    *,
    leave: Collection[str] = (),
    ranges: Ranges | None = None,
) -> LoweringReport:
    """Rewrite a float32 model in place.

    Args:
        model: as `load_graph` gives it.
        precision: of the engine to come.
        table: what calibration found; INT8 needs it, and FP16 decides by its ranges what stays in FP32.
        leave: names of layers that stay out of INT8.
        ranges: smallest and largest value of each tensor, where there is no table to know them from.

    Raises:
        BuildError: INT8 without a table, a graph with branches or loops, or one whose opset is older than
            19 and cannot be converted.
        ModelFormatError: the table belongs to another model.
    """
    if precision == "fp32":
        return LoweringReport(precision=precision)
    if precision == "int8":
        if table is None:
            raise BuildError("INT8 needs a calibrated model", got="no quantization table")
        _raise_opset(model)
    if table is not None:
        check_table(model.graph, table)
        ranges = {name: (entry.low, entry.high) for name, entry in table.activations.items()}
    reasons = nodes_for_fp32(model.graph, ranges)
    keep = set(reasons)
    quantized = Quantized()
    if precision == "int8" and table is not None:
        quantized = quantize(model.graph, table, keep, leave)
    single_precision = quantized.single_precision | fold_zero_points(model.graph, keep)
    for node, convolution in sum_expectations(model.graph).items():
        keep.add(node)
        reasons[node] = reasons[convolution]
    lower_fp16(model, keep=keep | single_precision)
    warnings = list(table.notes) if precision == "int8" and table is not None else []
    if ranges is None:
        warnings.append(
            "the ranges of activations are not known, so FP16 may overflow: "
            "calibrate the model, or give frames with --data"
        )
    return LoweringReport(
        precision=precision,
        kept_fp32=_in_fp32(model.graph, reasons),
        quantized=quantized.layers,
        not_quantized=quantized.left_out,
        warnings=tuple(warnings),
    )


def _in_fp32(graph: ir.Graph, reasons: Mapping[ir.Node, str]) -> dict[str, str]:
    """Node → reason, for the nodes that the finished graph really computes in FP32."""
    import onnx_ir as ir

    single = ir.DataType.FLOAT
    found = {}
    for node in graph:
        computed = [value for value in node.inputs if value is not None and value.const_value is None]
        in_single = node.op_type not in _NOT_ARITHMETIC and any(value.dtype == single for value in computed)
        if in_single:
            found[name_of(node)] = reasons.get(node, f"ONNX's {node.op_type} takes no FP16 here")
    return found


def _raise_opset(model: ir.Model) -> None:
    """Bring a model to the opset whose Q/DQ take FP16 scales, with ONNX's own converter."""
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    opset = model.opset_imports.get("", 0)
    if opset >= _OPSET:
        return
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), _OPSET)
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    except (RuntimeError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(
            f"INT8 for TensorRT needs opset {_OPSET}, and ONNX cannot convert this model",
            got=f"opset {opset}: {str(error).strip().splitlines()[0]}",
            remedy=f"Export it again with --opset {_OPSET}",
        ) from error
    converted = ir.from_proto(proto)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(converted)
    model.graph, model.ir_version = converted.graph, max(model.ir_version, converted.ir_version)
