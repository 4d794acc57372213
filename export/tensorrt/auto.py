"""`auto` for TensorRT: FP16 or INT8, whichever is faster and agrees with FP32 as asked.

    lower ─▶ agree? (ONNX Runtime, the given frames) ─▶ compile those that do ─▶ time ─▶ keep the fastest

INT8 that does not agree gets back layer after layer in FP16, the most sensitive first, until it does. FP32
is compiled only if nothing else agrees. Times are measured through the runtime where a GPU is at hand; where
none is, the roofline of a Jetson decides, and everything that is said of it says *estimate*. INT8 that is
not faster than FP16, by an estimate clearly so, is never chosen, and the two compile reports show on which
layers it costs more.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.engine import sidecar_path, write_engine_info
from edgecnn.errors import BuildError, DataError
from edgecnn.export.builder_onnxruntime import DEFAULT_MIN_AGREEMENT, check_min_agreement
from edgecnn.export.tensorrt.build import EngineBuildResult, compile_lowered
from edgecnn.export.tensorrt.changes import layer_changes
from edgecnn.export.tensorrt.flavours import Flavour, require
from edgecnn.export.tensorrt.lowered import Lowered, Source, load_source, measure_lowered
from edgecnn.export.tensorrt.options import CompileOptions
from edgecnn.export.tensorrt.roofline import MODULES, JetsonModule, estimate
from edgecnn.files import atomic_output, check_output
from edgecnn.gpu import read_gpu
from edgecnn.progress import Progress, no_progress

if TYPE_CHECKING:
    from edgecnn.camera_input import CameraInput
    from edgecnn.dataset import FrameSet
    from edgecnn.export.lowering import Precision
    from edgecnn.spec import ModelSpec

__all__ = ["EngineCandidate", "build_fastest"]

_RANKING_FRAMES = 8
_CLEARLY = 0.9
"""Where an estimate decides, INT8 must take less than this share of FP16's time: the roofline does not know
what starting a kernel takes, and INT8 has more of them."""


@dataclass(frozen=True, kw_only=True)
class EngineCandidate:
    """One precision that was looked at.

    Attributes:
        precision: `fp32`, `fp16` or `int8`.
        left_in_fp16: layers that were left out of INT8 so that it agrees.
        accuracy: of the lowered graph against FP32: `images`, `outputs`, the task's metrics; None for FP32.
        latency_ms: measured on this machine's GPU: `p50` …; None where it was not.
        estimate_ms: the roofline of the module that was asked for; None where there is none.
        kernels, activation_bytes, convolutions: of the compile report; None where it was not compiled.
    """

    precision: Precision
    left_in_fp16: tuple[str, ...] = ()
    accuracy: Mapping[str, Any] | None = None
    latency_ms: Mapping[str, float] | None = None
    estimate_ms: float | None = None
    kernels: int | None = None
    activation_bytes: int | None = None
    convolutions: Mapping[str, float] | None = None

    @property
    def agreement(self) -> float | None:
        """The lowest of the task's metrics, such as `top1_agreement`; 1 for FP32; None if it has none."""
        if self.precision == "fp32":
            return 1.0
        values = [value for name, value in (self.accuracy or {}).items() if name.endswith("_agreement")]
        return min(values, default=None)

    @property
    def time_ms(self) -> float | None:
        """What decides: the measured median, else the estimate."""
        return self.latency_ms["p50"] if self.latency_ms else self.estimate_ms

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**vars(self), "left_in_fp16": list(self.left_in_fp16), "agreement": self.agreement}


def build_fastest(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    flavour: Flavour = "tensorrt_rtx",
    options: CompileOptions | None = None,
    module: str | None = None,
    data: FrameSet | None = None,
    min_agreement: float = DEFAULT_MIN_AGREEMENT,
    spec: ModelSpec | None = None,
    camera: CameraInput | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> EngineBuildResult:
    """Build the fastest plan that agrees with FP32 as asked. See `edgecnn.export.build` for the arguments.

    Raises:
        BuildError: no frames to measure the agreement on; no GPU and no module to estimate for, or both; the
            task has no measure of agreement; whatever a build raises.
    """
    options = options or CompileOptions()
    check_min_agreement(min_agreement)
    require(flavour)
    options.refuse_for(flavour)
    check_output(output, force=force, inputs=(model,))
    check_output(sidecar_path(output), force=force, inputs=(model,))
    if options.dla_core is not None:
        raise BuildError("precision auto is for the GPU", got="a DLA", expected="fp16 or int8 with it")
    if data is None:
        raise BuildError(
            "precision auto keeps what agrees with FP32, which must be measured",
            got="no frames",
            remedy="Give frames with --data (in Python, data=), or a precision",
        )
    jetson = _module(module)
    source = load_source(model, spec).observed(data, progress)
    warnings: list[str] = []
    lowered = _agreeing(source, data, min_agreement, warnings, progress)
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as folder:
        results = [
            compile_lowered(
                graph,
                Path(folder, f"{graph.precision}.engine"),
                source=source.path,
                flavour=flavour,
                options=options,
                accuracy=candidate.accuracy,
                camera=camera,
                force=True,
                progress=progress,
            )
            for graph, candidate in lowered
            if _agrees(candidate, min_agreement)
        ]
        times = _measure(results, progress) if jetson is None else {}
        candidates = []
        for _, candidate in lowered:
            result = next((item for item in results if item.precision == candidate.precision), None)
            candidates.append(candidate if result is None else _with_times(candidate, result, times, jetson))
        chosen = _fastest([item for item in candidates if item.time_ms is not None])
        result = next(item for item in results if item.precision == chosen.precision)
        with atomic_output(output, force=force) as temporary:
            temporary.write_bytes(result.path.read_bytes())
        write_engine_info(result.info, output, force=force)
    reports = {item.precision: item.report for item in results}
    both = "fp16" in reports and "int8" in reports
    changes = layer_changes(reports["fp16"], reports["int8"], jetson) if both else ()
    return replace(
        result,
        path=Path(output),
        sidecar=sidecar_path(output),
        warnings=(*warnings, *result.warnings),
        reason=_reason(chosen, candidates, jetson),
        candidates=tuple(candidates),
        slowed=tuple(
            item for item in changes if (item.extra_bytes if item.extra_ms is None else item.extra_ms) > 0
        ),
    )


def _module(name: str | None) -> JetsonModule | None:
    """What to estimate for; None where this machine's GPU is measured instead."""
    names = ", ".join(MODULES)
    if name is not None and name not in MODULES:
        raise BuildError("unknown module", got=name, expected=f"one of {names}")
    gpu = read_gpu()
    if gpu is not None and name is not None:
        raise BuildError(
            "module cannot be honoured", got=f"{gpu.name}, which is measured", remedy="Leave --module out"
        )
    if gpu is None and name is None:
        raise BuildError(
            "there is no GPU here to measure on",
            expected=f"the Jetson to estimate for, one of {names}",
            remedy="Give it with --module (in Python, module=), or build on the device",
        )
    return None if name is None else MODULES[name]


def _agreeing(
    source: Source, data: FrameSet, min_agreement: float, warnings: list[str], progress: Progress
) -> list[tuple[Lowered, EngineCandidate]]:
    """What could be compiled, with its accuracy; at least one of them agrees as asked."""

    def look(precision: Precision, leave: Sequence[str] = ()) -> tuple[Lowered, EngineCandidate]:
        graph = source.lower(precision, leave=leave)
        accuracy = measure_lowered(graph, data, progress)
        return graph, EngineCandidate(precision=precision, left_in_fp16=tuple(leave), accuracy=accuracy)

    found = []
    try:
        found.append(look("fp16"))
    except DataError as error:  # FP16 overflows on these frames, which calibration did not foresee
        warnings.append(f"FP16 was not considered: {error}")
    if found and found[0][1].agreement is None:
        raise BuildError(
            "precision auto keeps what agrees with FP32",
            got="a task that has no measure of agreement",
            remedy="Give a precision",
        )
    if source.calibrated:
        found.append(_agreeing_int8(source, data, look, min_agreement, warnings, progress))
    else:
        warnings.append("INT8 was not considered: the model is not calibrated")
    if not any(_agrees(candidate, min_agreement) for _, candidate in found):
        found.append((source.lower("fp32"), EngineCandidate(precision="fp32")))
    return found


def _agreeing_int8(
    source: Source, data: FrameSet, look: Any, min_agreement: float, warnings: list[str], progress: Progress
) -> tuple[Lowered, EngineCandidate]:
    """INT8 with as few layers in FP16 as it takes to agree: 0, 1, 2, 4 … up to half of them."""
    from edgecnn.export.tensorrt.sensitivity import rank_layers

    best: tuple[Lowered, EngineCandidate] = look("int8")
    if _agrees(best[1], min_agreement):
        return best
    ranked = rank_layers(source, list(itertools.islice(data, _RANKING_FRAMES)), progress=progress)
    count = 1
    while count <= len(ranked) // 2:
        mixed: tuple[Lowered, EngineCandidate] = look("int8", ranked[:count])
        if _agrees(mixed[1], min_agreement):
            return mixed
        best = max(best, mixed, key=lambda item: item[1].agreement or 0.0)
        count *= 2
    warnings.append("INT8 does not agree as asked, not even with half of its layers in FP16")
    return best


def _agrees(candidate: EngineCandidate, min_agreement: float) -> bool:
    return candidate.agreement is not None and candidate.agreement >= min_agreement


def _measure(results: Sequence[EngineBuildResult], progress: Progress) -> dict[str, dict[str, float]]:
    """Precision → latency of one inference through the runtime, the plans taking turns."""
    from edgecnn.export.measure import time_models
    from edgecnn.model import Model, load

    with contextlib.ExitStack() as stack:
        opened: dict[str, Model] = {item.precision: stack.enter_context(load(item.path)) for item in results}
        return time_models(opened, rounds=200, warm_up=20, progress=progress)


def _with_times(
    candidate: EngineCandidate,
    result: EngineBuildResult,
    times: Mapping[str, Mapping[str, float]],
    jetson: JetsonModule | None,
) -> EngineCandidate:
    return replace(
        candidate,
        latency_ms=times.get(candidate.precision),
        estimate_ms=None if jetson is None else round(estimate(result.report, jetson).latency_ms, 4),
        kernels=result.report.kernels,
        activation_bytes=result.report.activation_bytes,
        convolutions=dict(result.report.convolutions),
    )


def _fastest(candidates: Sequence[EngineCandidate]) -> EngineCandidate:
    """The fastest; INT8 only if it is faster than FP16, and by an estimate only if clearly so."""

    def time(item: EngineCandidate) -> float:
        handicap = 1.0 if item.precision != "int8" or item.latency_ms else 1 / _CLEARLY
        return handicap * (item.time_ms or 0.0)

    return min(candidates, key=time)  # the first of several, and FP16 comes before INT8


def _reason(
    chosen: EngineCandidate, candidates: Sequence[EngineCandidate], jetson: JetsonModule | None
) -> str:
    how = "measured here" if jetson is None else f"by the estimate for {jetson.name}, which is no measurement"
    notes = []
    for item in candidates:
        note: str = item.precision
        if item.left_in_fp16:
            note += f" with {len(item.left_in_fp16)} layers in FP16"
        note += f" {item.time_ms:.3f} ms" if item.time_ms is not None else " not compiled"
        if item.accuracy is not None and item.agreement is not None:
            note += f", agreement {item.agreement:.3f} on {item.accuracy['images']} frames"
        notes.append(note)
    return f"{chosen.precision} is the fastest that agrees as asked, {how} ({'; '.join(notes)})"
