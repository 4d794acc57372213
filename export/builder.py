"""`build`: one function for every target. What each target does with the lowered graph stands behind it.

onnxruntime               builder_onnxruntime   → an ONNX file
tensorrt, tensorrt-rtx    tensorrt.build, .auto → a plan and its sidecar
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, get_args, overload

from edgecnn.errors import BuildError
from edgecnn.export.builder_onnxruntime import DEFAULT_MIN_AGREEMENT, BuildResult, build_onnxruntime
from edgecnn.progress import Progress, no_progress

if TYPE_CHECKING:
    from edgecnn.camera_input import CameraInput
    from edgecnn.dataset import FrameSet
    from edgecnn.export.lowering import Precision
    from edgecnn.export.tensorrt import CompileOptions, EngineBuildResult
    from edgecnn.spec import ModelSpec

__all__ = ["BUILD_TARGETS", "BuildTarget", "EngineTarget", "build"]

EngineTarget = Literal["tensorrt", "tensorrt-rtx"]
BuildTarget = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
BUILD_TARGETS: tuple[BuildTarget, ...] = get_args(BuildTarget)


@overload
def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: Precision | Literal["auto"] = ...,
    target: Literal["onnxruntime"] = ...,
    data: FrameSet | None = ...,
    min_agreement: float = ...,
    spec: ModelSpec | None = ...,
    threads: int | None = ...,
    camera: CameraInput | None = ...,
    force: bool = ...,
    progress: Progress = ...,
) -> BuildResult: ...


@overload
def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: Precision | Literal["auto"] = ...,
    target: EngineTarget,
    options: CompileOptions | None = ...,
    module: str | None = ...,
    data: FrameSet | None = ...,
    min_agreement: float = ...,
    spec: ModelSpec | None = ...,
    camera: CameraInput | None = ...,
    force: bool = ...,
    progress: Progress = ...,
) -> EngineBuildResult: ...


@overload
def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: Precision | Literal["auto"] = ...,
    target: BuildTarget,
    options: CompileOptions | None = ...,
    module: str | None = ...,
    data: FrameSet | None = ...,
    min_agreement: float = ...,
    spec: ModelSpec | None = ...,
    threads: int | None = ...,
    camera: CameraInput | None = ...,
    force: bool = ...,
    progress: Progress = ...,
) -> BuildResult | EngineBuildResult: ...


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: Precision | Literal["auto"] = "auto",
    target: BuildTarget = "onnxruntime",
    options: CompileOptions | None = None,
    module: str | None = None,
    data: FrameSet | None = None,
    min_agreement: float = DEFAULT_MIN_AGREEMENT,
    spec: ModelSpec | None = None,
    threads: int | None = None,
    camera: CameraInput | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> BuildResult | EngineBuildResult:
    """Build a model for a target.

    Args:
        model: an exported or calibrated ONNX file.
        output: where the built model is written: an ONNX file, or a plan with its sidecar beside it.
        precision: `fp32`, `fp16`, `int8`; or `auto`: the fastest that agrees with FP32 as asked.
        target: what will run it: `onnxruntime`, `tensorrt`, `tensorrt-rtx`.
        options: how TensorRT is to compile; only for its targets.
        module: with `auto` for TensorRT's targets where there is no GPU to measure on: the Jetson to estimate
            for, of `edgecnn.export.tensorrt.MODULES`.
        data: frames to measure the accuracy of this very build on. For ONNX Runtime, INT8's is otherwise the
            one that calibration measured; `auto` for TensorRT's targets needs them.
        min_agreement: with `auto`, how often the result must be FP32's, in [0, 1].
        spec: for a foreign file that has none.
        threads: CPU threads to measure ONNX Runtime with; only for that target.
        camera: the frames' bytes that the built graph is to take; its preprocessing is then in the graph.
            Accuracy and latency are those of the graph behind it.
        force: overwrite `output`.

    Raises:
        BuildError: INT8 without calibration, a model that is lowered or quantized already, one that cannot be
            lowered to `precision`, an option that the target cannot honour; the compiler refused or crashed.
        BackendUnavailableError: the target's library, or the packages of `edgecnn[export]`, are missing.
        DataError: `data` holds no frame that can be read, or an output is infinite or NaN.
        ModelFormatError, ModelNotFoundError, SpecError, OutputError, OutputExistsError.
    """
    if target == "onnxruntime":
        _refuse("onnxruntime", "tensorrt or tensorrt-rtx", options=options, module=module)
        return build_onnxruntime(
            model,
            output,
            precision=precision,
            data=data,
            min_agreement=min_agreement,
            spec=spec,
            threads=threads,
            camera=camera,
            force=force,
            progress=progress,
        )
    if target not in BUILD_TARGETS:
        raise BuildError("unknown target", got=target, expected="one of " + ", ".join(BUILD_TARGETS))
    _refuse(target, "onnxruntime", threads=threads)
    from edgecnn.export.tensorrt import build_engine
    from edgecnn.export.tensorrt.auto import build_fastest

    flavour: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt" if target == "tensorrt" else "tensorrt_rtx"
    if precision == "auto":
        return build_fastest(
            model,
            output,
            flavour=flavour,
            options=options,
            module=module,
            data=data,
            min_agreement=min_agreement,
            spec=spec,
            camera=camera,
            force=force,
            progress=progress,
        )
    _refuse(f"precision {precision}", "auto", module=module)
    return build_engine(
        model,
        output,
        precision=precision,
        flavour=flavour,
        options=options,
        spec=spec,
        data=data,
        camera=camera,
        force=force,
        progress=progress,
    )


def _refuse(what: str, expected: str, **options: object) -> None:
    """What cannot be honoured is refused."""
    for name, value in options.items():
        if value is not None:
            raise BuildError(f"{name} cannot be honoured", got=what, expected=expected)
