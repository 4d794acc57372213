"""A TensorRT plan and what is known of it: the sidecar `NAME.engine.json` beside the plan.

The plan stays the plain bytes that TensorRT wrote, so `trtexec --loadEngine` takes it. Everything that a
runtime must know before TensorRT sees those bytes stands in the sidecar: what they were built with and for,
their size and hash, and the model's spec. A plan that does not fit is refused here, in words; TensorRT would
say `Serialization assertion failed`, or crash.
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgecnn.backends import PLAN_SUFFIXES
from edgecnn.camera_input import CameraInput
from edgecnn.errors import ModelFormatError, ModelNotFoundError
from edgecnn.files import sha256_file, write_atomic
from edgecnn.gpu import read_gpu
from edgecnn.spec import ModelSpec

__all__ = [
    "EngineInfo",
    "EngineTensor",
    "Here",
    "check_compatible",
    "describe_here",
    "read_engine_info",
    "sidecar_path",
    "write_engine_info",
]

SIDECAR_VERSION = 1

_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}


@dataclass(frozen=True, kw_only=True)
class EngineTensor:
    """An input or output of a plan.

    Attributes:
        dtype: `float32`, `float16`, `int8`, `uint8` …, as NumPy spells it.
        shape: None for a free side.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What is known of a plan.

    Attributes:
        flavour: the library that built it.
        library: its version, such as `10.3.0`.
        cuda: CUDA version of the driver that it was built with; None where it was built without a GPU.
        gpu: the GPU's name; None where it was built without one.
        compute_capabilities: what it was built for; none for a plan of TensorRT for RTX that runs everywhere
            from 8.0 on.
        system, architecture: of the machine that built it, such as `Linux` and `aarch64`.
        version_compatible, hardware_compatibility, dla_core: as asked; see the build's options.
        profiles: for each profile, input → its smallest, best and largest shape.
        precision: what was asked for: `fp32`, `fp16`, `int8`; None where nobody said.
        kept_fp32: node → why it computes in FP32, of an FP16 or INT8 graph.
        convolutions: type → share of the convolutions' operations that the compiler computes in it.
        plan_bytes, plan_sha256: of the plan.
        source: the model file's name; source_sha256 is of its bytes, graph_sha256 of the lowered graph that
            was compiled, table_sha256 of the quantization table in the source.
        build_s: duration of the compilation, in seconds.
        accuracy: the report of the graph's accuracy, if it was measured.
        spec: the model's.
        camera: the frames' bytes that the plan takes; None where it takes the spec's tensor.
        edgecnn: the version that built it.
    """

    flavour: Literal["tensorrt", "tensorrt_rtx"]
    library: str
    system: str
    architecture: str
    plan_bytes: int
    plan_sha256: str
    graph_sha256: str
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    edgecnn: str
    cuda: str | None = None
    gpu: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    dla_core: int | None = None
    profiles: tuple[Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]], ...] = ()
    precision: str | None = None
    kept_fp32: Mapping[str, str] = field(default_factory=dict)
    convolutions: Mapping[str, float] = field(default_factory=dict)
    source: str | None = None
    source_sha256: str | None = None
    table_sha256: str | None = None
    build_s: float | None = None
    accuracy: Mapping[str, Any] | None = None
    spec: ModelSpec | None = None
    camera: CameraInput | None = None
    version: int = SIDECAR_VERSION

    def to_json(self) -> str:
        """As one JSON object, indented, since people read it."""
        import msgspec

        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, name: str = "the sidecar") -> EngineInfo:
        """Read what `to_json` wrote. Raises ModelFormatError, or SpecError for what is wrong in the spec."""
        import msgspec

        try:
            raw = msgspec.json.decode(text, type=dict[str, Any])
            version = raw.get("version")
            if version != SIDECAR_VERSION:
                raise ModelFormatError(
                    f"{name} has another version",
                    got=str(version),
                    expected=str(SIDECAR_VERSION),
                    remedy="Build the model again, or use the edgecnn that built it",
                )
            spec = raw.pop("spec", None)
            info = msgspec.convert(raw, cls)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ModelFormatError(
                f"{name} is damaged", got=str(error), remedy="Build the model again"
            ) from error
        if spec is None:
            return info
        # by the spec's own reader, which refuses fields that it does not know
        return replace(info, spec=ModelSpec.from_json(msgspec.json.encode(spec)))

    def rebuild_command(self, plan: str | os.PathLike[str]) -> str:
        """The command that builds this plan again, here: as it was asked for, for the GPU that is here."""
        words = ["edgecnn", "build", self.source or "MODEL.onnx", "--target", self.flavour.replace("_", "-")]
        words += ["--precision", self.precision] if self.precision else []
        if self.camera is not None:
            height, width = self.camera.frame_hw
            words += ["--camera", f"{width}x{height}", "--pixel-format", self.camera.pixel_format]
            if self.camera.pixel_format in ("nv12", "yuyv"):
                words += ["--yuv-matrix", self.camera.matrix, *["--full-range"] * self.camera.full_range]
        # what a build takes for free sides when nothing is said
        usual = {tensor.name: tuple(side or 1 for side in tensor.shape) for tensor in self.inputs}
        for name, shapes in (self.profiles[0] if self.profiles else {}).items():
            if any(tuple(shape) != usual.get(name) for shape in shapes):
                ranges = ",".join("x".join(map(str, shape)) for shape in shapes)
                words += ["--shape", f"{name}={ranges}"]
        words += ["--version-compatible"] * self.version_compatible
        if self.hardware_compatibility != "none":
            words += ["--hardware-compatible", self.hardware_compatibility.replace("_", "-")]
        words += ["--dla", str(self.dla_core)] if self.dla_core is not None else []
        return shlex.join([*words, "-o", str(plan), "--force"])


@dataclass(frozen=True, kw_only=True)
class Here:
    """The machine and library that are to run a plan, and the plan file as it is now.

    Attributes:
        flavour, library: as in EngineInfo.
        compute_capability, gpu: of the GPU; None where there is none.
        plan_bytes, plan_sha256: of the file.
    """

    flavour: str
    library: str
    system: str
    architecture: str
    compute_capability: str | None
    gpu: str | None
    plan_bytes: int
    plan_sha256: str


def sidecar_path(plan: str | os.PathLike[str]) -> Path:
    """`model.plan`, `model.engine`, `model.trt` → `model.engine.json`; other names get it appended."""
    path = Path(plan)
    stem = path.stem if path.suffix in PLAN_SUFFIXES else path.name
    return path.with_name(f"{stem}.engine.json")


def write_engine_info(info: EngineInfo, plan: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write the sidecar beside the plan. Raises OutputError and OutputExistsError."""
    return write_atomic(sidecar_path(plan), info.to_json().encode(), force=force)


def read_engine_info(plan: str | os.PathLike[str]) -> EngineInfo:
    """Read the sidecar of a plan; the plan itself is not opened.

    Raises:
        ModelNotFoundError: there is no plan.
        ModelFormatError: there is no sidecar, or it is damaged or of another version.
        SpecError: the spec in it is wrong.
    """
    path = Path(plan)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelNotFoundError(f"engine {path} {what}", expected="a TensorRT plan")
    sidecar = sidecar_path(path)
    try:
        text = sidecar.read_bytes()
    except FileNotFoundError as error:
        raise ModelFormatError(
            f"{path} has no {sidecar.name} beside it",
            expected="the file that `edgecnn build` wrote with the plan",
            remedy="Copy it to the same folder, or build the model again",
        ) from error
    return EngineInfo.from_json(text, name=str(sidecar))


def describe_here(plan: str | os.PathLike[str], *, flavour: str, library: str) -> Here:
    """What `check_compatible` compares: this machine, a library that is loaded here, and a plan file."""
    gpu = read_gpu()
    path = Path(plan)
    return Here(
        flavour=flavour,
        library=library,
        system=platform.system(),
        architecture=platform.machine(),
        compute_capability=gpu.compute_capability if gpu else None,
        gpu=gpu.name if gpu else None,
        plan_bytes=path.stat().st_size,
        plan_sha256=sha256_file(path),
    )


def check_compatible(info: EngineInfo, here: Here, *, plan: str | os.PathLike[str]) -> tuple[str, ...]:
    """Whether a plan may be given to TensorRT here: returns warnings, or raises.

    Nothing is read or asked; `plan` is for the words.

    Raises:
        ModelFormatError: it does not fit; the message names both sides and the command that rebuilds it.
    """
    mismatch = _damage(info, here) or _other_library(info, here) or _other_machine(info, here)
    if mismatch is not None:
        what, got, expected = mismatch
        raise ModelFormatError(
            f"{plan} {what}",
            got=got,
            expected=expected,
            remedy=f"Build it again here: {info.rebuild_command(plan)}",
        )
    if info.gpu and here.gpu and info.gpu != here.gpu and info.hardware_compatibility == "none":
        # the same compute capability, so it runs; kernels were chosen by measuring on the other one
        return (f"{plan} was tuned on {info.gpu} and runs on {here.gpu}: it may be slower than it could be",)
    return ()


_Mismatch = tuple[str, str, str]


def _damage(info: EngineInfo, here: Here) -> _Mismatch | None:
    if here.plan_bytes < info.plan_bytes:
        return "is truncated", f"{here.plan_bytes} bytes", f"{info.plan_bytes} bytes"
    if (here.plan_bytes, here.plan_sha256) != (info.plan_bytes, info.plan_sha256):
        return (
            "is not the plan that its sidecar describes",
            f"{here.plan_bytes} bytes, SHA-256 {here.plan_sha256[:16]}…",
            f"{info.plan_bytes} bytes, SHA-256 {info.plan_sha256[:16]}…",
        )
    return None


def _other_library(info: EngineInfo, here: Here) -> _Mismatch | None:
    built, present = _TITLES[info.flavour], _TITLES.get(here.flavour, here.flavour)
    if info.flavour != here.flavour:
        return "was built by another library", f"{present} here", f"{built} {info.library}"
    if info.library == here.library:
        return None
    if info.version_compatible and _numbers(here.library) >= _numbers(info.library):
        return None
    wanted = f"{info.library} or later" if info.version_compatible else f"exactly {info.library}"
    return f"was built by {built} {info.library}", f"{here.library} here", wanted


def _other_machine(info: EngineInfo, here: Here) -> _Mismatch | None:
    portable = info.flavour == "tensorrt_rtx" and {info.system, here.system} <= {"Linux", "Windows"}
    if info.architecture != here.architecture or (info.system != here.system and not portable):
        return (
            "was built on another kind of machine",
            f"{here.system} on {here.architecture} here",
            f"{info.system} on {info.architecture}",
        )
    if here.compute_capability is None:
        return "needs an NVIDIA GPU", "none here, or no driver for it", _built_for(info)
    fits = (
        _numbers(here.compute_capability) >= (8, 0)
        if _runs_from_ampere_on(info)
        else here.compute_capability in info.compute_capabilities
    )
    if fits:
        return None
    return (
        "was built for another GPU",
        f"{here.gpu or 'a GPU'} with compute capability {here.compute_capability} here",
        _built_for(info),
    )


def _runs_from_ampere_on(info: EngineInfo) -> bool:
    portable = info.flavour == "tensorrt_rtx" and not info.compute_capabilities
    return portable or info.hardware_compatibility == "ampere_plus"


def _built_for(info: EngineInfo) -> str:
    if _runs_from_ampere_on(info):
        return "compute capability 8.0 or later"
    name = f"{info.gpu}, " if info.gpu else ""
    return f"{name}compute capability {' or '.join(info.compute_capabilities)}"


def _numbers(version: str) -> tuple[int, ...]:
    """`10.3.0` → (10, 3, 0); what is no number ends it."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
