"""The flow of `edgecnn build` for TensorRT: load, lower, compile, read back, describe.

    model.onnx ─ load_graph ─ lower_graph ─▶ bytes ─ compile_onnx ─▶ plan, report ─▶ sidecar

The plan replaces an older one first and then the sidecar does. Whoever looks in between finds a plan whose
hash is not the sidecar's, which the runtime refuses in words.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from platform import machine, system
from typing import TYPE_CHECKING, Any

from edgecnn import __version__
from edgecnn.engine import EngineInfo, sidecar_path, write_engine_info
from edgecnn.errors import BuildError
from edgecnn.export.camera_front import with_camera
from edgecnn.export.tensorrt.compiler import CompileResult, compile_onnx
from edgecnn.export.tensorrt.flavours import Flavour, calibrates, require
from edgecnn.export.tensorrt.lowered import Lowered, load_source, measure_lowered
from edgecnn.export.tensorrt.options import CompileOptions
from edgecnn.export.tensorrt.report import CompileReport
from edgecnn.export.tensorrt.roofline import MODULES, estimate
from edgecnn.files import check_output, sha256_file
from edgecnn.progress import Progress, no_progress
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    from edgecnn.camera_input import CameraInput
    from edgecnn.dataset import FrameSet
    from edgecnn.export.lowering import Precision
    from edgecnn.export.tensorrt.auto import EngineCandidate
    from edgecnn.export.tensorrt.changes import LayerChange

__all__ = ["EngineBuildResult", "build_engine", "compile_lowered", "estimates", "inspect_engine"]

_PRECISIONS = ("fp32", "fp16", "int8")
_DONE = 0.98
"""Below this share of the convolutions' operations in the type that was asked for, a build warns."""


@dataclass(frozen=True, kw_only=True)
class EngineBuildResult:
    """What a build wrote.

    Attributes:
        path: the plan; sidecar: what describes it.
        precision: what was asked for; the report says what was found.
        info: the sidecar's content.
        report: layer by layer, what was compiled.
        warnings: what was asked for and not done, and what TensorRT warned of.
        reason: why this precision.
        candidates: with `auto`, everything that was looked at.
        left_to_gpu: layers that the DLA which was asked for cannot do.
        slowed: with `auto`, the layers on which INT8 costs more than FP16, the worst first.
    """

    path: Path
    sidecar: Path
    precision: Precision
    info: EngineInfo
    report: CompileReport
    warnings: tuple[str, ...]
    reason: str = "asked for"
    candidates: tuple[EngineCandidate, ...] = ()
    slowed: tuple[LayerChange, ...] = ()
    left_to_gpu: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, without the layers."""
        return {
            "path": str(self.path),
            "sidecar": str(self.sidecar),
            "precision": self.precision,
            "reason": self.reason,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "left_to_gpu": list(self.left_to_gpu),
            "slowed": [change.to_dict() for change in self.slowed],
            "flavour": self.info.flavour,
            "library": self.info.library,
            "gpu": self.info.gpu,
            "compute_capabilities": list(self.info.compute_capabilities),
            "plan_bytes": self.info.plan_bytes,
            "build_s": self.info.build_s,
            "accuracy": self.info.accuracy,
            "kept_fp32": dict(self.info.kept_fp32),
            **self.report.totals(),
            "estimates": estimates(self.report),
            "warnings": list(self.warnings),
        }


def build_engine(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: Precision,
    flavour: Flavour = "tensorrt_rtx",
    options: CompileOptions | None = None,
    spec: ModelSpec | None = None,
    data: FrameSet | None = None,
    camera: CameraInput | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> EngineBuildResult:
    """Build an exported or calibrated model into a plan with its sidecar.

    A model that `edgecnn lower --target tensorrt` wrote is compiled as it is, if it has this precision.

    Args:
        model: an ONNX file.
        output: where the plan is written; the sidecar goes beside it.
        precision: `fp32`, `fp16` or `int8`.
        spec: for a foreign file that has none.
        data: frames to measure the accuracy of the lowered graph on, in ONNX Runtime.
        camera: the frames' bytes that the plan is to take; its preprocessing is then in the plan.
        force: overwrite `output` and its sidecar.

    Raises:
        BuildError: as `lower_graph` and `compile_onnx`.
        BackendUnavailableError, DataError, ModelFormatError, ModelNotFoundError, SpecError, OutputError,
        OutputExistsError.
    """
    options = options or CompileOptions()
    _check_precision(precision)
    require(flavour)
    options.refuse_for(flavour)
    check_output(output, force=force, inputs=(model,))
    check_output(sidecar_path(output), force=force, inputs=(model,))
    source = load_source(model, spec)
    for_dla = options.dla_core is not None and calibrates(flavour)
    if precision == "fp16" and not for_dla:
        source = source.observed(data, progress)
    lowered = source.for_dla(precision) if for_dla else source.lower(precision)
    accuracy = measure_lowered(lowered, data, progress)
    return compile_lowered(
        lowered,
        output,
        source=Path(model),
        flavour=flavour,
        options=options,
        accuracy=accuracy,
        camera=camera,
        force=force,
        progress=progress,
    )


def compile_lowered(
    lowered: Lowered,
    output: str | os.PathLike[str],
    *,
    source: Path,
    flavour: Flavour,
    options: CompileOptions,
    accuracy: Mapping[str, Any] | None,
    camera: CameraInput | None,
    force: bool,
    progress: Progress,
) -> EngineBuildResult:
    """Compile a lowered graph, and write plan and sidecar."""
    precision = lowered.precision
    content = lowered.content if camera is None else with_camera(lowered.content, camera)
    result = compile_onnx(
        content,
        output,
        options,
        progress,
        flavour=flavour,
        precision=None if lowered.flags else precision,
        flags=lowered.flags,
        scales=lowered.scales,
        half=lowered.half,
        force=force,
    )
    info = _describe(result, options, lowered, accuracy, source, camera)
    return EngineBuildResult(
        path=result.path,
        sidecar=write_engine_info(info, output, force=force),
        precision=precision,
        info=info,
        report=result.report,
        warnings=(*lowered.warnings, *_shortfall(result, lowered), *result.warnings),
        left_to_gpu=result.left_to_gpu,
    )


def inspect_engine(
    model: str | os.PathLike[str],
    *,
    precision: Precision | None = None,
    flavour: Flavour = "tensorrt_rtx",
    options: CompileOptions | None = None,
    spec: ModelSpec | None = None,
    progress: Progress = no_progress,
) -> CompileResult:
    """Compile a model, read back what became of it, and keep no plan.

    Args:
        precision: to lower to; None for the graph as it is, which may come from any tool.

    Raises:
        As `build_engine`.
    """
    require(flavour)
    if precision is None:
        content: bytes | Path = Path(model)
    else:
        _check_precision(precision)
        content = load_source(model, spec).lower(precision).content
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as folder:
        plan = Path(folder, "model.plan")
        return compile_onnx(content, plan, options, progress, flavour=flavour, precision=precision)


def estimates(report: CompileReport) -> dict[str, Any]:
    """Module → its roofline as a JSON object; estimates, all of them."""
    return {name: estimate(report, module).to_dict() for name, module in MODULES.items()}


def _check_precision(precision: str) -> None:
    if precision not in _PRECISIONS:
        raise BuildError("unknown precision", got=precision, expected="one of " + ", ".join(_PRECISIONS))


def _describe(
    result: CompileResult,
    options: CompileOptions,
    lowered: Lowered,
    accuracy: Mapping[str, Any] | None,
    source: Path,
    camera: CameraInput | None,
) -> EngineInfo:
    return EngineInfo(
        flavour=result.flavour,
        library=result.library,
        system=system(),
        architecture=machine(),
        plan_bytes=result.plan_bytes,
        plan_sha256=result.plan_sha256,
        graph_sha256=result.graph_sha256,
        inputs=result.inputs,
        outputs=result.outputs,
        edgecnn=__version__,
        cuda=result.cuda,
        gpu=result.gpu,
        compute_capabilities=result.compute_capabilities,
        version_compatible=options.version_compatible,
        hardware_compatibility=options.hardware_compatibility,
        dla_core=options.dla_core,
        profiles=tuple(
            {name: (shapes.min, shapes.opt, shapes.max) for name, shapes in profile.items()}
            for profile in result.profiles
        ),
        precision=lowered.precision,
        kept_fp32=lowered.kept_fp32,
        convolutions=result.report.convolutions,
        source=source.name,
        source_sha256=sha256_file(source),
        table_sha256=lowered.table_sha256,
        build_s=round(result.build_s, 3),
        accuracy=accuracy,
        spec=lowered.spec,
        camera=camera,
    )


def _shortfall(result: CompileResult, lowered: Lowered) -> tuple[str, ...]:
    """Precision asked against precision found, and a DLA against the GPU, in a sentence where they differ."""
    if result.left_to_gpu:
        names = ", ".join(result.left_to_gpu)
        return (f"{len(result.left_to_gpu)} layers run on the GPU, the DLA cannot do them: {names}",)
    if lowered.flags:  # the compiler chose, and lists what runs on a DLA as one layer
        return ()
    report, precision = result.report, lowered.precision
    share = report.convolutions.get(precision, 0.0)
    if not report.convolutions or share >= _DONE:
        return ()
    found = ", ".join(f"{part:.1%} in {name}" for name, part in report.convolutions.items())
    return (f"{precision} was asked for; of the convolutions' operations the compiler does {found}",)
