"""Lowering: model + quantization table + precision + target → the graph that the target compiles.

Precision lives in the graph: the compiler is told nothing that the graph does not say, so the very graph
that ships can be measured by ONNX Runtime on any CPU.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from edgecnn import __version__
from edgecnn.errors import BuildError
from edgecnn.metadata import ACCURACY_KEY, BUILD_KEY, QUANTIZATION_KEY
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PRECISIONS", "TARGETS", "Precision", "Target", "lower_graph"]

Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["onnxruntime"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
TARGETS: tuple[Target, ...] = ("onnxruntime",)


def lower_graph(model: ir.Model, precision: Precision, *, target: Target = "onnxruntime") -> ir.Model:
    """A lowered copy of a float32 model; its metadata says what was done, and the table stays behind.

    Raises:
        BuildError: INT8 without a quantization table, or a model that is lowered already.
        ModelFormatError: the table in the model is damaged.
    """
    metadata = model.metadata_props
    if BUILD_KEY in metadata:
        built = json.loads(metadata[BUILD_KEY]).get("precision")
        raise BuildError(
            "the model is lowered already", got=f"{built}", expected="an exported or calibrated model",
            remedy="Build from the file that `edgecnn export` or `edgecnn calibrate` wrote",
        )
    lowered = model.clone()
    table = QuantizationTable.from_metadata(metadata)
    if precision == "int8":
        if table is None:
            raise BuildError(
                "INT8 needs a calibrated model", got="no quantization table",
                remedy="edgecnn calibrate MODEL --data PHOTOS -o model.calibrated.onnx",
            )
        from edgecnn.export.lowering.int8_onnxruntime import lower_int8

        lower_int8(lowered, table)
    elif precision == "fp16":
        from edgecnn.export.lowering.fp16 import lower_fp16

        lower_fp16(lowered)
    for key in (QUANTIZATION_KEY, ACCURACY_KEY):
        lowered.metadata_props.pop(key, None)
    build = {"precision": precision, "target": target, "edgecnn": __version__}
    lowered.metadata_props[BUILD_KEY] = json.dumps(build, sort_keys=True)
    return lowered
