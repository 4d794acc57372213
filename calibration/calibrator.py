"""Calibration: frames through the float model → the quantization table, and the accuracy that it gives.

    frames ──▶ preprocessing ──▶ float model, all activations visible ──▶ statistics ──▶ ranges ──▶ table
    some of these frames ──▶ the best steps for the weights ──▶ table
    held-out frames ──▶ float model and the lowered INT8 model ──▶ accuracy report

Frames stream through one at a time; as many of them are kept as fit a bound on memory, to round the weights
by. What comes out is the float model again, with the table and the report in its metadata: any ONNX tool
still opens it, and every target can be built from it.

The plain way, largest magnitudes and nearest steps, is measured beside the chosen one. Unless a method was
asked for by name, it is kept where it is better on either grid: ONNX Runtime's, or the table's own, which
TensorRT gets.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from edgecnn import __version__
from edgecnn.backends.onnxruntime import create_session
from edgecnn.calibration.mixed import TradeoffPoint
from edgecnn.calibration.centring import centre
from edgecnn.calibration.observers import TensorStats, merge, observe
from edgecnn.calibration.ranges import METHODS, SMALLEST_AMAX, Method, choose_range
from edgecnn.calibration.sample import KeptFrames, diversity
from edgecnn.calibration.second_order import LayerRounding, round_network
from edgecnn.calibration.selection import select_ranges
from edgecnn.calibration.sensitivity import LayerSensitivity
from edgecnn.camera.source import Skipped
from edgecnn.compare import Agreement
from edgecnn.dataset import FrameSet, open_frames
from edgecnn.errors import BuildError, DataError
from edgecnn.export.graph import fixed_batch, load_graph, save_graph, to_bytes
from edgecnn.export.lowering import lower_graph, refuse_lowered
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.export.measure import check_spec, measure_accuracy
from edgecnn.export.placement import activations, is_anchor, scale_source, weight_axis, weight_of
from edgecnn.files import check_output
from edgecnn.metadata import ACCURACY_KEY, CAMERA_KEY, QUANTIZATION_KEY
from edgecnn.preprocess import Preprocessor
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import LEVELS, QuantizationTable, WeightScales
from edgecnn.spec import ImageSpec, ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CalibrationResult", "Rounding", "calibrate", "observe_activations", "weight_scales"]

Rounding = Literal["nearest", "second-order"]
_ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)

NARROW = 5.0
"""Frames that amount to fewer different ones are said to be too much alike; see docs/quantization.md."""


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """What calibration wrote and found.

    Attributes:
        path: the calibrated model.
        table: the quantization table in it.
        accuracy: the INT8 model that ONNX Runtime gets, against the float model, on frames that
            calibration did not see.
        symmetric: the same for the table's own grid, which is TensorRT's: symmetric, with all else in FP32.
        skipped: images that could not be read, with the reason.
        plain: `accuracy` of largest magnitudes and nearest steps; None where just that was asked for.
        layers: what second-order rounding did, layer by layer; empty without it.
        warnings: what the person who calibrates should know.
        sensitivity: what each layer's quantization does to the outputs, in the network's order; empty where
            no budget was given.
        tradeoff: the sets of layers in float that were considered, from none on; empty as above.
    """

    path: Path
    table: QuantizationTable
    accuracy: Agreement
    symmetric: Agreement
    skipped: tuple[Skipped, ...]
    plain: Agreement | None = None
    layers: tuple[LayerRounding, ...] = ()
    warnings: tuple[str, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    tradeoff: tuple[TradeoffPoint, ...] = ()


def calibrate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    method: Method | Literal["auto"] = "auto",
    rounding: Rounding = "second-order",
    limit: int = 512,
    evaluation_data: str | os.PathLike[str] | None = None,
    spec: ModelSpec | None = None,
    threads: int | None = None,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> CalibrationResult:
    """Calibrate an exported model for INT8 and measure what INT8 costs.

    Args:
        model: a float32 ONNX file.
        data: a folder of images, an image pattern, a video, a camera, or a `.npy` of uint8 (N, H, W, 3) RGB.
        output: where the calibrated model is written.
        method: how a range is chosen from what was seen; see `edgecnn.calibration.ranges`. `auto` takes for
            each tensor the one that disturbs least what is computed from it.
        rounding: how weights are rounded: `nearest`, or `second-order`, such that each layer's output
            changes least.
        limit: frames to use at most; of a longer video, evenly spaced ones.
        evaluation_data: frames to measure accuracy on; where None, a fifth of `data` is held out.
        spec: used instead of the model's own.
        threads: CPU threads; ONNX Runtime's own choice where None.
        report: where a page that shows all of it is written, as HTML; see `edgecnn.calibration.report`.
        force: overwrite `output` and `report`.
        progress: called as frames are done.

    Raises:
        DataError: no frames, too few to hold any out, or an activation that is infinite or NaN.
        BuildError: the model is lowered or quantized already, or has nothing that INT8 speeds up.
        ModelFormatError, ModelNotFoundError, SpecError: the model cannot be used.
        SourceError: a video or camera cannot be opened.
        OutputError, OutputExistsError: `output` or `report` cannot be written.
    """
    if method not in (*METHODS, "auto"):
        raise DataError("unknown method", got=method, expected="one of " + ", ".join((*METHODS, "auto")))
    if rounding not in _ROUNDINGS:
        raise DataError("unknown rounding", got=rounding, expected="one of " + ", ".join(_ROUNDINGS))
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
    frames = open_frames(data, limit=limit)
    if evaluation_data is None:
        frames, held_out = frames.split()
    else:
        held_out = open_frames(evaluation_data, limit=limit)

    plain_only = method == "minmax" and rounding == "nearest"
    kept = KeptFrames(frames, graph, spec.image, total=None if plain_only else frames.count)
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
    table = plain_table
    layers: tuple[LayerRounding, ...] = ()
    if method == "auto":
        ranges = select_ranges(graph, stats, kept.tensors, threads=threads, progress=progress)
        table = dataclasses.replace(plain_table, activations=ranges, method=method)
        table = centre(graph, table, kept.tensors, threads=threads, progress=progress)
    elif method != "minmax":
        ranges = {name: choose_range(entry, method) for name, entry in stats.items()}
        table = dataclasses.replace(plain_table, activations=ranges, method=method)
    if rounding == "second-order":
        table, layers = round_network(graph, table, kept.tensors, threads=threads, progress=progress)
    kept.tensors.clear()
    warnings = [*_narrow(count, spread)]

    float_bytes = to_bytes(graph)
    measured = _measure(graph, table, float_bytes, held_out, threads, progress, "comparing")
    plain = None
    if table is not plain_table:
        plain = _measure(
            graph, plain_table, float_bytes, held_out, threads, progress, "comparing with the plain way"
        )
        if (worse := measured.worse_than(plain)) is not None:
            plainly = "the largest magnitudes and nearest steps"
            warning = f"{method} ranges with {rounding} rounding gave {worse}"
            if method == "auto":
                warnings.append(f"{warning}: {plainly} are kept")
                table, measured, layers = plain_table, plain, ()
            else:  # asked for by name
                warnings.append(f"{warning}, which {plainly} give")
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
        warnings=tuple(warnings),
    )
    if report is not None:
        from edgecnn.calibration.report import write_report

        write_report(
            report, result, graph, stats, spec, held_out, threads=threads, force=force, progress=progress
        )
    return result


class _Measured(NamedTuple):
    """What INT8 costs with a table: as ONNX Runtime runs it, and on the table's own grid."""

    accuracy: Agreement
    symmetric: Agreement
    lowered: bytes  # the model that ONNX Runtime gets

    def worse_than(self, other: _Measured) -> str | None:
        """In words, on which of the two grids it is worse; None where it is on neither."""
        for grid, one, two in (
            ("as ONNX Runtime runs it", self.accuracy, other.accuracy),
            ("on TensorRT's grid", self.symmetric, other.symmetric),
        ):
            if one.worst_sqnr_db < two.worst_sqnr_db:
                return f"{one.worst_sqnr_db:.1f} dB instead of {two.worst_sqnr_db:.1f} {grid}"
        return None


def _measure(
    graph: ir.Model,
    table: QuantizationTable,
    float_bytes: bytes,
    held_out: FrameSet,
    threads: int | None,
    progress: Progress,
    stage: str,
) -> _Measured:
    graph.metadata_props[QUANTIZATION_KEY] = table.to_json()
    lowered = to_bytes(lower_graph(graph, "int8"))
    symmetric = graph.clone()
    quantize(symmetric.graph, table, set(symmetric.graph))
    total = held_out.count

    def compared(content: bytes, before: int) -> Agreement:
        def both(_: str, done: int, __: int | None) -> None:
            progress(stage, before + done, total and 2 * total)

        return measure_accuracy(float_bytes, content, held_out, threads=threads, progress=both)

    accuracy = compared(lowered, 0)
    return _Measured(accuracy, compared(to_bytes(symmetric), accuracy.images), lowered)


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


def observe_activations(
    model: ir.Model,
    image: ImageSpec,
    frames: Iterable[NDArray[np.uint8]],
    *,
    histograms: bool = True,
    threads: int | None = None,
    total: int | None = None,
    progress: Progress = no_progress,
) -> tuple[dict[str, TensorStats], int, str]:
    """Run frames through the float model and keep the statistics of every tensor that may be quantized.

    Returns:
        Tensor name → statistics, the number of frames, and the SHA-256 of their input tensors.

    Raises:
        DataError: no frames, or an activation that is infinite or NaN.
    """
    visible = model.clone()
    observed = [value for value in activations(visible.graph) if scale_source(value) is value]
    inputs = set(visible.graph.inputs)
    visible.graph.outputs.extend(
        value for value in observed if value not in inputs and not value.is_graph_output()
    )
    input_name = str(visible.graph.inputs[0].name)
    names = [str(value.name) for value in observed if value not in inputs]
    session = create_session(to_bytes(visible), threads=threads)
    # A model of a fixed batch gets the same frame in each row: not every tensor has the batch in front.
    preprocess = Preprocessor(image, batch=fixed_batch(model))
    stats: dict[str, TensorStats] = {}
    digest = hashlib.sha256()
    count = 0
    for frame in frames:
        for row in range(len(preprocess.tensor)):
            preprocess(frame, row)
        digest.update(preprocess.tensor[0])
        arrays = [preprocess.tensor, *session.run(names, {input_name: preprocess.tensor})]
        for name, array in zip([input_name, *names], arrays, strict=True):
            seen = observe(array, histogram=histograms)
            if seen.not_finite:
                raise DataError(
                    f"activation {name} is infinite or NaN on frame {count}",
                    got=f"{seen.not_finite} such values",
                    remedy="Check the preprocessing and the weights: the float model itself overflows",
                )
            stats[name] = merge(stats[name], seen) if name in stats else seen
        count += 1
        progress("calibrating", count, total)
    if not count:
        raise DataError(
            "no frames to calibrate with", expected="a folder of images, a video, a camera or a .npy"
        )
    return stats, count, digest.hexdigest()


def weight_scales(model: ir.Model) -> dict[str, WeightScales]:
    """Per-channel scales amax / 127 for the constant weights of every anchor and ConvTranspose.

    A dead channel, all zero, gets scale 1: TensorRT refuses scales that are not positive.
    """
    scales: dict[str, WeightScales] = {}
    for node in model.graph:
        weight = weight_of(node)
        if weight is None or weight.const_value is None or weight.name in scales:
            continue
        values = np.abs(weight.const_value.numpy().astype(np.float64))
        axis = weight_axis(node)
        amax = values.max(axis=tuple(index for index in range(values.ndim) if index != axis))
        amax = np.where(amax == 0, LEVELS, np.maximum(amax, SMALLEST_AMAX))
        scales[str(weight.name)] = WeightScales(axis=axis, scales=tuple((amax / LEVELS).tolist()))
    return scales


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
