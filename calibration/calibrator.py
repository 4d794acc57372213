"""Calibration: frames through the float model → the quantization table, and the accuracy that it gives.

    frames ──▶ preprocessing ──▶ float model, all activations visible ──▶ statistics ──▶ ranges ──▶ table
    some of these frames ──▶ the best steps for the weights ──▶ table
    held-out frames ──▶ float model and the lowered INT8 model ──▶ accuracy report
    a budget ──▶ layers that stay in float, and rounding anew ──▶ table

Frames stream through one at a time; as many of them are kept as fit a bound on memory, to round the weights
by. What comes out is the float model again, with the table and the report in its metadata: any ONNX tool
still opens it, and every target can be built from it.

The plain way, largest magnitudes and nearest steps, is measured beside the chosen one. Unless a method was
asked for by name, it is kept where it is better, on ONNX Runtime's grid or on the table's own, which TensorRT
gets: over all frames (`Measured.worse_than`), and over their sources by more than chance.

With a budget, one half of the held-out frames, of other sources than the other half, decides which layers
stay in float, and the report is of the other half: it had no part in the choice. Without one, the frames that
report have also decided which adjustments of `auto` were kept, and whether the plain way was.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgecnn.calibration.interchange import match_ranges, read_ranges
from edgecnn.calibration.measurement import Measuring, open_with_labels
from edgecnn.calibration.mixed import Budget
from edgecnn.calibration.outcome import Outcome, find_outcome
from edgecnn.calibration.ranges import Method
from edgecnn.calibration.recipe import Recipe, Rounding
from edgecnn.calibration.result import CalibrationResult
from edgecnn.dataset import FrameSet, open_frames
from edgecnn.errors import BuildError
from edgecnn.evaluation import LabelledSet
from edgecnn.export.graph import load_graph, save_graph
from edgecnn.export.lowering import refuse_lowered
from edgecnn.export.measure import check_spec
from edgecnn.export.placement import is_anchor
from edgecnn.files import check_output
from edgecnn.metadata import ACCURACY_KEY, CAMERA_KEY, QUANTIZATION_KEY
from edgecnn.progress import Progress, no_progress
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Rounding", "calibrate"]


def calibrate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    method: Method | Literal["auto"] = "auto",
    rounding: Rounding = "second-order",
    budget: Budget | None = None,
    limit: int = 512,
    evaluation_data: str | os.PathLike[str] | None = None,
    spec: ModelSpec | None = None,
    threads: int | None = None,
    report: str | os.PathLike[str] | None = None,
    ranges: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> CalibrationResult:
    """Calibrate an exported model for INT8 and measure what INT8 costs.

    With `auto` and without a budget, the held-out frames that accuracy is measured on also decide which
    adjustments are kept (at most four) and whether the plain way is: see `chosen_on_same_frames`.

    Args:
        model: a float32 ONNX file.
        data: a folder of images, an image pattern, a video, a camera, or a `.npy` of uint8 (N, H, W, 3) RGB.
        output: where the calibrated model is written.
        method: how a range is chosen from what was seen; see `edgecnn.calibration.ranges`. `auto` takes for
            each tensor the one that disturbs least what is computed from it.
        rounding: how weights are rounded: `nearest`; `second-order`, such that each layer's output changes
            least; or `adaround`, which also tries gradient descent, with PyTorch.
        budget: what INT8 may cost. Layers stay in float as far as it takes, the slow ones in INT8. Where that
            is not enough, the best that was found is written, with a warning.
        limit: frames to use at most; of a longer video, evenly spaced ones.
        evaluation_data: frames to measure accuracy on; where None, a fifth of `data` is held out.
        spec: used instead of the model's own.
        threads: CPU threads; ONNX Runtime's own choice where None.
        report: where a page that shows all of it is written, as HTML; see `edgecnn.calibration.report`.
        ranges: a file of another tool whose ranges are taken instead of `method`'s, and its rounding where
            `rounding` is `nearest`; see `edgecnn.calibration.interchange`.
        force: overwrite `output` and `report`.
        progress: called as frames are done.

    Raises:
        DataError: no frames, too few to hold any out, or an activation that is infinite or NaN.
        BuildError: the model is lowered or quantized already, has nothing that INT8 speeds up, or has weights
            that are infinite or NaN.
        ModelFormatError, ModelNotFoundError, SpecError: the model cannot be used.
        SourceError: a video or camera cannot be opened.
        OutputError, OutputExistsError: `output` or `report` cannot be written, are the same file, or one that
            is read.
        BackendUnavailableError: AdaRound without PyTorch.
    """
    Recipe.check(method, rounding)
    inputs = (model, data, evaluation_data, ranges)
    target = check_output(output, force=force, inputs=inputs)
    if report is not None:
        check_output(report, force=force, inputs=(*inputs, output))
    budget = budget or Budget()
    graph, spec = _load(model, spec)
    recipe = Recipe(
        method=method,
        rounding=rounding,
        imported=None if ranges is None else match_ranges(graph, read_ranges(ranges)),
        budget=budget,
        reports=report is not None,
        threads=threads,
        progress=progress,
    )
    frames = _open(data, evaluation_data, spec, budget, limit)
    measuring = Measuring(
        graph,
        frames.judging,
        metrics=tuple(budget.max_drop),
        labelled=frames.labelled,
        threads=threads,
        progress=progress,
    )
    budget.check(measuring)
    outcome = find_outcome(graph, spec.image, frames.calibration, measuring, recipe)
    if budget:
        outcome = outcome.on_other_frames(measuring, frames.reporting)
    _write(outcome, target, force=force)
    result = _result(outcome, target, frames, recipe)
    if report is not None:
        from edgecnn.calibration.report import write_report

        write_report(
            report,
            result,
            outcome.model,
            outcome.stats,
            spec,
            frames.held_out,
            threads=threads,
            force=force,
            progress=progress,
        )
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class _Frames:
    """Frames to calibrate with, and those held out: to judge by and to report, the same without a budget.

    `labelled` has the labels of those held out, where a budget asks for them and there are any.
    """

    calibration: FrameSet
    held_out: FrameSet
    judging: FrameSet
    reporting: FrameSet
    labelled: LabelledSet | None


def _load(model: str | os.PathLike[str], spec: ModelSpec | None) -> tuple[ir.Model, ModelSpec]:
    """The float model without an earlier table, and its spec."""
    graph = load_graph(model)
    refuse_lowered(graph)
    if CAMERA_KEY in graph.metadata_props:
        raise BuildError(
            f"{model} has its preprocessing compiled in",
            expected="the model before that",
            remedy="Calibrate what `edgecnn export` wrote; `edgecnn build --camera` comes last",
        )
    for key in (QUANTIZATION_KEY, ACCURACY_KEY):
        graph.metadata_props.pop(key, None)
    spec = check_spec(graph, spec, name=str(model))
    _check_quantizable(graph, name=str(model))
    return graph, spec


def _open(
    data: str | os.PathLike[str],
    evaluation_data: str | os.PathLike[str] | None,
    spec: ModelSpec,
    budget: Budget,
    limit: int,
) -> _Frames:
    def to_judge_by(path: str | os.PathLike[str]) -> tuple[FrameSet, LabelledSet | None]:
        if budget.max_drop:
            return open_with_labels(path, spec, limit=limit)
        return open_frames(path, limit=limit), None

    if evaluation_data is None:
        both, labelled = to_judge_by(data)
        frames, held_out = both.split()
    else:
        frames = open_frames(data, limit=limit)
        held_out, labelled = to_judge_by(evaluation_data)
    judging, reporting = held_out.split(2) if budget else (held_out, held_out)
    return _Frames(
        calibration=frames, held_out=held_out, judging=judging, reporting=reporting, labelled=labelled
    )


def _write(outcome: Outcome, target: Path, *, force: bool) -> None:
    measured, metadata = outcome.chosen.measured, outcome.model.metadata_props
    metadata[QUANTIZATION_KEY] = outcome.chosen.table.to_json()
    # The hash ties the report to the very graph that was measured: a build that makes another one says so.
    identity = {
        "precision": "int8",
        "target": "onnxruntime",
        "graph_sha256": hashlib.sha256(measured.lowered).hexdigest(),
    }
    accuracy = {**identity, **measured.accuracy.to_dict(), "symmetric": measured.symmetric.to_dict()}
    metadata[ACCURACY_KEY] = json.dumps(accuracy, sort_keys=True)
    save_graph(outcome.model, target, force=force)


def _result(outcome: Outcome, path: Path, frames: _Frames, recipe: Recipe) -> CalibrationResult:
    budget, mix, measured = recipe.budget, outcome.mix, outcome.chosen.measured
    warnings = list(outcome.warnings)
    if budget.max_drop and frames.labelled is None:
        warnings.append(f"{frames.held_out.name} has no labels: what FP32 finds was taken as right")
    if budget and mix:
        warnings += mix.warnings(frames.judging.count, measured)
    return CalibrationResult(
        path=path,
        table=outcome.chosen.table,
        accuracy=measured.accuracy,
        symmetric=measured.symmetric,
        skipped=tuple(dict.fromkeys([*frames.calibration.skipped, *frames.held_out.skipped])),
        plain=None if outcome.plain is None else outcome.plain.accuracy,
        layers=outcome.chosen.layers,
        adjustments=outcome.adjustments,
        warnings=tuple(warnings),
        sensitivity=mix.sensitivity if mix else (),
        tradeoff=mix.tradeoff if mix else (),
        budget=budget or None,
        budget_met=not mix.misses if mix and budget else None,
        chosen_on_same_frames=recipe.method == "auto" and recipe.imported is None and not budget,
        drops={name: (measured.drops[0][name], measured.drops[1][name]) for name in measured.drops[0]},
    )


def _check_quantizable(model: ir.Model, *, name: str) -> None:
    if any(is_anchor(node) for node in model.graph):
        return
    dtypes = sorted(
        {str(value.dtype) for value in model.graph.initializers.values() if value.uses()} - {"INT64"}
    )
    raise BuildError(
        f"{name} has nothing to quantize",
        got=f"constants of type {', '.join(dtypes)}" if dtypes else "no constants",
        expected="Conv, Gemm or MatMul with constant float32 weights",
    )
