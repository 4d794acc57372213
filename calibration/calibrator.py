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
gets: see `Measured.worse_than`.

With a budget, one half of the held-out frames, of other sources than the other half, decides which layers
stay in float, and the report is of the other half: it had no part in the choice. Without one, the frames that
report have also decided which adjustments of `auto` were kept, and whether the plain way was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from edgecnn import __version__
from edgecnn.calibration.adjustments import Adjustment, measure_adjustments
from edgecnn.calibration.centring import centre
from edgecnn.calibration.equalization import equalize
from edgecnn.calibration.interchange import match_ranges, on_frames, read_ranges
from edgecnn.calibration.measurement import Measuring, open_with_labels
from edgecnn.calibration.mixed import Budget
from edgecnn.calibration.observation import observe_activations, weight_scales
from edgecnn.calibration.ranges import METHODS, Method, choose_range
from edgecnn.calibration.result import CalibrationResult
from edgecnn.calibration.sample import KeptFrames, diversity
from edgecnn.calibration.search import Trial, reason, search
from edgecnn.calibration.second_order import LayerRounding, round_network
from edgecnn.calibration.selection import select_ranges
from edgecnn.calibration.sensitivity import measure_sensitivities
from edgecnn.dataset import open_frames
from edgecnn.errors import BuildError, DataError
from edgecnn.export.graph import load_graph, save_graph
from edgecnn.export.lowering import refuse_lowered
from edgecnn.export.measure import check_spec
from edgecnn.export.placement import is_anchor
from edgecnn.export.torch_boundary import require
from edgecnn.files import check_output
from edgecnn.metadata import ACCURACY_KEY, CAMERA_KEY, QUANTIZATION_KEY
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Rounding", "calibrate"]

Rounding = Literal["nearest", "second-order", "adaround"]
_ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)

NARROW = 5.0
"""Frames that amount to fewer different ones are said to be too much alike; see docs/quantization.md."""


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
        BuildError: the model is lowered or quantized already, or has nothing that INT8 speeds up.
        ModelFormatError, ModelNotFoundError, SpecError: the model cannot be used.
        SourceError: a video or camera cannot be opened.
        OutputError, OutputExistsError: `output` or `report` cannot be written.
        BackendUnavailableError: AdaRound without PyTorch.
    """
    if method not in (*METHODS, "auto"):
        raise DataError("unknown method", got=method, expected="one of " + ", ".join((*METHODS, "auto")))
    if rounding not in _ROUNDINGS:
        raise DataError("unknown rounding", got=rounding, expected="one of " + ", ".join(_ROUNDINGS))
    if rounding == "adaround":
        require("torch")
    target = check_output(output, force=force)
    if report is not None:
        check_output(report, force=force)
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
    imported = None if ranges is None else match_ranges(graph, read_ranges(ranges))
    labelled = None
    if budget and budget.max_drop and evaluation_data is None:
        frames, labelled = open_with_labels(data, spec, limit=limit)
    else:
        frames = open_frames(data, limit=limit)
    if evaluation_data is None:
        frames, held_out = frames.split()
    elif budget and budget.max_drop:
        held_out, labelled = open_with_labels(evaluation_data, spec, limit=limit)
    else:
        held_out = open_frames(evaluation_data, limit=limit)
    judging, reporting = held_out.split(2) if budget else (held_out, held_out)
    measuring = Measuring(
        graph,
        judging,
        metrics=tuple(budget.max_drop) if budget else (),
        labelled=labelled,
        threads=threads,
        progress=progress,
    )
    if budget:
        budget.check(measuring)

    plain_only = method == "minmax" and rounding == "nearest" and imported is None
    searching = bool(budget) or report is not None
    kept = KeptFrames(frames, graph, spec.image, total=frames.count if searching or not plain_only else None)
    stats, count, digest = observe_activations(
        graph,
        spec.image,
        kept,
        histograms=method != "minmax" or report is not None,
        threads=threads,
        total=frames.count,
        progress=progress,
    )
    spread = diversity(kept.thumbnails)
    plain_table = QuantizationTable(
        activations={name: choose_range(entry, "minmax") for name, entry in stats.items()},
        weights=weight_scales(graph),
        method="minmax",
        frames=count,
        frames_sha256=digest,
        tool=f"edgecnn {__version__}",
        software=_software(),
        diversity=spread,
    )
    unrounded, seen, equalized = plain_table, stats, None
    plainly_measuring = measuring.of(graph.clone())  # equalization changes weights
    if imported is not None:
        unrounded = on_frames(imported, plain_table)
    elif method == "auto":
        equalized = equalize(graph, plain_table, stats, kept.tensors, threads=threads, progress=progress)
        if equalized is not None and equalized.accepted:
            seen = dict(equalized.stats)
        chosen = select_ranges(graph, seen, kept.tensors, threads=threads, progress=progress)
        unrounded = dataclasses.replace(
            plain_table, activations=chosen, weights=weight_scales(graph), method=method
        )
        unrounded = centre(graph, unrounded, kept.tensors, threads=threads, progress=progress)
    elif method != "minmax":
        chosen = {name: choose_range(entry, method) for name, entry in stats.items()}
        unrounded = dataclasses.replace(plain_table, activations=chosen, method=method)

    def rounded(kept_in_float: Mapping[str, str]) -> tuple[QuantizationTable, tuple[LayerRounding, ...]]:
        table = dataclasses.replace(unrounded, kept_in_float=kept_in_float)
        if rounding == "nearest" or plain_is_kept:
            return table, ()
        adaptive = rounding == "adaround"
        return without_rejected(
            *round_network(graph, table, kept.tensors, adaptive=adaptive, threads=threads, progress=progress)
        )

    def without_rejected(
        table: QuantizationTable, layers: tuple[LayerRounding, ...]
    ) -> tuple[QuantizationTable, tuple[LayerRounding, ...]]:
        """What adjustments took out once stays out, whatever is rounded anew."""
        if "rounding" in rejected:
            table, layers = dataclasses.replace(table, weights=unrounded.weights, rounding="nearest"), ()
        if "bias correction" in rejected:
            table = dataclasses.replace(table, biases={})
            layers = tuple(dataclasses.replace(layer, bias_factor=0.0) for layer in layers)
        return table, layers

    rejected: set[str] = set()
    plain_is_kept = False
    table, layers = rounded(unrounded.kept_in_float)
    adjustments: tuple[Adjustment, ...] = ()
    if table.method == "auto":
        table, adjustments = measure_adjustments(
            graph,
            spec.image,
            table,
            {name: choose_range(entry, "minmax") for name, entry in seen.items()},
            equalized,
            judging,
            threads=threads,
            progress=progress,
        )
        rejected = {one.name for one in adjustments if not one.accepted}
        unrounded = dataclasses.replace(unrounded, activations=table.activations)
        table, layers = without_rejected(table, layers)
    warnings = [*_narrow(count, spread), *(() if imported is None else imported.warnings)]
    measured = measuring(table, "comparing")
    plain = None
    if not plain_only:
        plain = plainly_measuring(plain_table, "comparing with the plain way")
        if (worse := measured.worse_than(plain)) is not None:
            plainly = "the largest magnitudes and nearest steps"
            warning = f"{unrounded.method} ranges with {rounding} rounding gave {worse}"
            if unrounded.method == "auto":
                warnings.append(f"{warning}: {plainly} are kept")
                plain_is_kept = True
                if equalized is not None:
                    equalized.undo()
                adjustments, seen = (), stats
                unrounded = table = plain_table
                measured, layers = plain, ()
            else:  # asked for by name
                warnings.append(f"{warning}, which {plainly} give")
    mixed = None
    if searching:
        sensitivities = measure_sensitivities(
            graph,
            unrounded,
            kept.tensors,
            second_order=not (rounding == "nearest" or plain_is_kept or "rounding" in rejected),
            threads=threads,
            progress=progress,
        )

        def attempt(names: tuple[str, ...]) -> Trial:
            reasons = {name: reason(sensitivities, name) for name in names}
            table, layers = rounded({**unrounded.kept_in_float, **reasons})
            measured = measuring(table, f"comparing with {len(names)} layers in float")
            return Trial(kept=names, table=table, layers=layers, measured=measured)

        first = Trial(kept=(), table=table, layers=layers, measured=measured)
        mixed = search(budget or Budget(), sensitivities, first, attempt)
        table, layers, measured = mixed.chosen.table, mixed.chosen.layers, mixed.chosen.measured
    kept.tensors.clear()
    if budget and mixed:
        measuring = measuring.on(reporting)
        measured = measuring(table, "comparing on other frames")
        plainly_measuring = plainly_measuring.on(reporting)
        plain = plain and plainly_measuring(plain_table, "comparing with the plain way on other frames")
        if budget.max_drop and labelled is None:
            warnings.append(f"{held_out.name} has no labels: what FP32 finds was taken as right")
        warnings += mixed.warnings(budget, judging.count, measured)
    graph.metadata_props[QUANTIZATION_KEY] = table.to_json()
    # The hash ties the report to the very graph that was measured: a build that makes another one says so.
    identity = {
        "precision": "int8",
        "target": "onnxruntime",
        "graph_sha256": hashlib.sha256(measured.lowered).hexdigest(),
    }
    accuracy_report = {**identity, **measured.accuracy.to_dict(), "symmetric": measured.symmetric.to_dict()}
    graph.metadata_props[ACCURACY_KEY] = json.dumps(accuracy_report, sort_keys=True)
    save_graph(graph, target, force=force)
    result = CalibrationResult(
        path=target,
        table=table,
        accuracy=measured.accuracy,
        symmetric=measured.symmetric,
        skipped=tuple(dict.fromkeys([*frames.skipped, *held_out.skipped])),
        plain=None if plain is None else plain.accuracy,
        layers=layers,
        adjustments=adjustments,
        warnings=tuple(warnings),
        sensitivity=mixed.sensitivity if mixed else (),
        tradeoff=mixed.tradeoff if mixed else (),
        budget_met=not mixed.misses if mixed and budget else None,
        chosen_on_same_frames=method == "auto" and imported is None and not budget,
        drops={name: (measured.drops[0][name], measured.drops[1][name]) for name in measured.drops[0]},
    )
    if report is not None:
        from edgecnn.calibration.report import write_report

        write_report(
            report, result, graph, seen, spec, held_out, threads=threads, force=force, progress=progress
        )
    return result


def _narrow(count: int, spread: float) -> Iterable[str]:
    if count >= NARROW > spread:
        yield (
            f"the {count} calibration frames are much alike: they are like {spread:.1f} "
            "different ones; add frames of other scenes"
        )


def _software() -> dict[str, str]:
    """The packages that the numbers depend on."""
    import onnxruntime

    return {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}


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
