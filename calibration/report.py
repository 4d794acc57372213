"""`edgecnn calibrate --report`: all that calibration found, on one page that people can read.

What calibration does not need itself is measured here, on some of the held-out frames: the error tensor by
tensor, and what FP16 costs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgecnn.calibration.adjustments import Adjustment
from edgecnn.calibration.mixed import Budget, TradeoffPoint
from edgecnn.calibration.observers import TensorStats
from edgecnn.calibration.second_order import LayerRounding
from edgecnn.compare import Agreement
from edgecnn.dataset import FrameSet
from edgecnn.errors import BuildError, DataError
from edgecnn.export.graph import to_bytes
from edgecnn.export.layers import compare_graphs
from edgecnn.export.lowering import lower_graph
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.export.measure import measure_accuracy
from edgecnn.export.placement import name_of, result_of, weight_of
from edgecnn.export.tensorrt.operations import count_operations
from edgecnn.files import write_atomic
from edgecnn.metadata import BUILD_KEY, read_json
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import ActivationRange, QuantizationTable
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgecnn.calibration.result import CalibrationResult

__all__ = ["Half", "LayerRow", "Report", "TensorRow", "write_report"]

_DEPTH_FRAMES = 16
_HALF_FRAMES = 32


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer with weights.

    Attributes:
        operator: in words, such as `Conv 3 × 3, depthwise, 32 → 32`.
        share: of the multiplications of all layers.
        int8: whether it reads INT8 on TensorRT; reason: why not.
        rounding: what became of its weights; None where they have the nearest steps unasked.
        contribution: its part of the output's squared error, 0 to 1; None where it was not measured.
        sqnr_db: of its result on the symmetric grid; None where not known, infinite where identical.
    """

    name: str
    operator: str
    share: float
    int8: bool
    reason: str | None = None
    rounding: LayerRounding | None = None
    contribution: float | None = None
    sqnr_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One activation: its range, and what the range was made from."""

    name: str
    entry: ActivationRange
    stats: TensorStats


@dataclass(frozen=True, kw_only=True)
class Half:
    """FP16: which nodes stay in FP32 and why, and what it costs; or why FP16 is not possible."""

    kept: Mapping[str, str]
    accuracy: Agreement | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page shows.

    Attributes:
        name: of the model file.
        input: the network's input in words.
        plain: largest magnitudes and nearest steps, as ONNX Runtime runs them.
        adjustments: what `auto` changed, and what each of it brought.
        depth: tensor → its SQNR in dB on the symmetric grid, None where identical; in the network's order.
        falls: tensor → by how many dB its SQNR is below the lowest of those that it is computed from.
        depth_frames: how many frames that was measured on.
        budget: what INT8 might cost; None where anything.
        budget_met: on the frames that chose the layers in float; None without a budget.
        chosen_on_same_frames: as in `CalibrationResult`.
    """

    name: str
    task: str
    input: str
    table: QuantizationTable
    warnings: Sequence[str]
    accuracy: Agreement
    symmetric: Agreement
    plain: Agreement | None
    adjustments: Sequence[Adjustment]
    layers: Sequence[LayerRow]
    tensors: Sequence[TensorRow]
    depth: Sequence[tuple[str, float | None]]
    falls: Mapping[str, float]
    depth_frames: int
    tradeoff: Sequence[TradeoffPoint]
    half: Half
    budget: Budget | None = None
    budget_met: bool | None = None
    chosen_on_same_frames: bool = False

    @property
    def int8_share(self) -> float:
        """Of the multiplications of all layers, those in INT8."""
        return sum(row.share for row in self.layers if row.int8)


def write_report(
    path: str | os.PathLike[str],
    result: CalibrationResult,
    model: ir.Model,
    stats: Mapping[str, TensorStats],
    spec: ModelSpec,
    frames: FrameSet,
    *,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Measure what the page needs beside calibration's own result, and write it.

    Args:
        path: an HTML file.
        result: of the calibration.
        model: the calibrated model, with the table in its metadata.
        stats: of the activations, with histograms.
        frames: held out; 32 of them at most are used.
        threads: CPU threads; ONNX Runtime's own choice where None.

    Raises:
        OutputError, OutputExistsError: as `write_atomic`.
        DataError: no frame can be read.
    """
    from edgecnn.calibration.report_page import render

    seen = 0

    def comparing(stage: str, done: int, _: int | None) -> None:
        nonlocal seen
        seen = done
        progress(stage, done, some.count)

    some = frames.spaced(_DEPTH_FRAMES)
    symmetric = model.clone()
    quantize(symmetric.graph, result.table, set(symmetric.graph))
    depth = [
        (name, found.sqnr_db)
        for name, found in compare_graphs(model.clone(), symmetric, spec.image, some, progress=comparing)
    ]
    page = render(
        Report(
            name=result.path.name,
            task=spec.task,
            input=_input(model, spec),
            table=result.table,
            warnings=result.warnings,
            accuracy=result.accuracy,
            symmetric=result.symmetric,
            plain=result.plain,
            adjustments=result.adjustments,
            layers=_layers(model, result, dict(depth)),
            tensors=[
                TensorRow(name=name, entry=result.table.activations[name], stats=entry)
                for name, entry in stats.items()
                if name in result.table.activations
            ],
            depth=depth,
            falls=_falls(model, dict(depth)),
            depth_frames=seen,
            tradeoff=result.tradeoff,
            budget=result.budget,
            budget_met=result.budget_met,
            chosen_on_same_frames=result.chosen_on_same_frames,
            half=_half(model, frames.spaced(_HALF_FRAMES), threads, progress),
        )
    )
    return write_atomic(path, page.encode(), force=force)


def _layers(model: ir.Model, result: CalibrationResult, depth: Mapping[str, float | None]) -> list[LayerRow]:
    import onnx_ir as ir

    try:
        reasons = _lowered(model, "int8")[1]["not_quantized"]
    except BuildError:  # not for TensorRT; the table says what it can
        reasons = result.table.kept_in_float
    rounding = {layer.weights: layer for layer in result.layers}
    sensitivity = {layer.name: layer for layer in result.sensitivity}
    error = sum(layer.contribution for layer in result.sensitivity)
    nodes = [node for node in model.graph if weight_of(node) is not None]
    counts = {item.node: item.macs for item in count_operations(ir.to_proto(model))}
    macs = [counts.get(str(node.name or f"node_of_{node.outputs[0].name}"), 0) for node in nodes]
    total = sum(macs) or 1
    rows = []
    for node, count in zip(nodes, macs, strict=True):
        name, weight = name_of(node), node.inputs[1]
        known = sensitivity.get(name)
        assert weight is not None
        reason = reasons.get(name)
        output = str(result_of(node).name)
        found = depth.get(output, -1.0)
        rows.append(
            LayerRow(
                name=name,
                operator=_operator(node),
                share=count / total,
                int8=reason is None,
                reason=reason,
                rounding=rounding.get(str(weight.name)),
                contribution=known.contribution / error if known and 0 < error < math.inf else None,
                sqnr_db=math.inf if found is None else found if output in depth else None,
            )
        )
    return rows


def _falls(model: ir.Model, depth: Mapping[str, float | None]) -> dict[str, float]:
    before: dict[str, float] = {}  # tensor → the lowest SQNR among it, or else what it is computed from
    falls = {}
    for node in model.graph:
        sources = [before.get(str(value.name), math.inf) for value in node.inputs if value is not None]
        lowest = min(sources, default=math.inf)
        for value in node.outputs:
            name = str(value.name)
            found = depth.get(name, lowest)
            before[name] = math.inf if found is None else found
            if name in depth and found is not None and lowest < math.inf:
                falls[name] = lowest - found
    return falls


def _half(model: ir.Model, frames: FrameSet, threads: int | None, progress: Progress) -> Half:
    def measuring(_: str, done: int, total: int | None) -> None:
        progress("measuring FP16", done, total)

    kept: Mapping[str, str] = {}
    try:
        lowered, report = _lowered(model, "fp16")
        kept = report["kept_fp32"]
        accuracy = measure_accuracy(
            to_bytes(model), to_bytes(lowered), frames, threads=threads, progress=measuring
        )
    except (BuildError, DataError) as error:
        return Half(kept=kept, problem=f"FP16 cannot be measured: {error}")
    return Half(kept=kept, accuracy=accuracy)


def _lowered(model: ir.Model, precision: Literal["fp16", "int8"]) -> tuple[ir.Model, Mapping[str, Any]]:
    """The graph for TensorRT, and what its lowering says that it did."""
    lowered = lower_graph(model, precision, target="tensorrt")
    return lowered, (read_json(lowered.metadata_props, BUILD_KEY) or {})["lowering"]


def _operator(node: ir.Node) -> str:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    shape = weight.const_value.shape.numpy()
    if node.op_type not in ("Conv", "ConvTranspose"):
        sides = shape[::-1] if node.attributes.get_int("transB", 0) else shape
        return f"{node.op_type} {sides[0]} → {sides[1]}"
    groups = node.attributes.get_int("group", 1)
    inputs, outputs = (
        (shape[1] * groups, shape[0]) if node.op_type == "Conv" else (shape[0], shape[1] * groups)
    )
    kind = "" if groups == 1 else ", depthwise" if groups == inputs else f", {groups} groups"
    return f"{node.op_type} {' × '.join(str(side) for side in shape[2:])}{kind}, {inputs} → {outputs}"


def _input(model: ir.Model, spec: ModelSpec) -> str:
    value = model.graph.inputs[0]
    sides = " × ".join(str(side) if isinstance(side, int) else "N" for side in value.shape or ())
    return f"{sides}, {spec.image.layout}"
