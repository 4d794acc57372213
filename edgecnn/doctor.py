"""What this machine has of what edgecnn can use, what it lacks, and how to get it.

OpenCV and ONNX Runtime are imported, since one that is installed may still not load. Heavier packages are
looked up only: importing torch to say that it is there would take seconds.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgecnn.device import Device, read_device
from edgecnn.errors import EdgeCNNError
from edgecnn.gpu import Gpu, read_gpu
from edgecnn.interrupts import interrupts_deferred

__all__ = ["Finding", "examine"]

State = Literal["ok", "missing", "warning"]

GB = 10**9
LOW_GB = 1  # less memory or disk than this is worth a warning

# The package index's OpenCV has no GStreamer, and hides JetPack's, which has. So on a Jetson no remedy may
# bring it along, as the extras edgecnn[cpu] and edgecnn[export] do.
_JETPACK = "JetPack's own: python3 -m venv --system-site-packages .venv"
_NOT_PIPS = "pip uninstall opencv-python opencv-python-headless"
_OPENCV_PACKAGES = (
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        name: what.
        state: `ok`; `missing`; `warning` for something that is there and will make trouble.
        found: version or fact; what is wrong where it is not `ok`.
        needed_for: what it serves.
        remedy: what to do about it, a command where there is one; empty where it is `ok`.
    """

    name: str
    state: State
    found: str
    needed_for: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def examine(root: str | os.PathLike[str] = "/") -> list[Finding]:
    """Look at everything, in the order in which it matters.

    Args:
        root: where /proc, /etc and /dev are; another one describes that tree, for tests.
    """
    base = Path(root)
    device = read_device(base)
    return [
        _machine(device),
        *_opencv(jetson=device.l4t is not None),
        _onnxruntime(jetson=device.l4t is not None),
        *_export_packages(jetson=device.l4t is not None),
        *_nvidia(base, device),
        _memory(base, device),
        _disk(),
        _cameras(base),
    ]


def _machine(device: Device) -> Finding:
    parts = (
        f"Python {platform.python_version()} on {platform.system()} {device.architecture}",
        device.board or device.cpu,
        f"Jetson Linux {device.l4t}" if device.l4t else None,
    )
    found = ", ".join(part for part in parts if part)
    return Finding(name="machine", state="ok", found=found, needed_for="everything")


def _opencv(*, jetson: bool) -> Iterator[Finding]:
    purpose = "images, videos and cameras"
    try:
        with interrupts_deferred():
            import cv2
    except ImportError as error:
        if importlib.util.find_spec("cv2") is None:
            found, remedy = "not installed", _JETPACK if jetson else "pip install 'edgecnn[cpu]'"
        else:  # there, and a library that it needs is not: mostly libGL
            found, remedy = (
                str(error),
                "pip install opencv-python-headless in its place, or apt install libgl1",
            )
        yield _lacking("OpenCV", found, purpose, remedy)
        return
    from edgecnn.camera.opencv import quiet

    home = "this environment" if Path(cv2.__file__).is_relative_to(sys.prefix) else "the system"
    yield Finding(name="OpenCV", state="ok", found=f"{cv2.__version__} from {home}", needed_for=purpose)
    for kind, serves, remedy in (
        ("FFMPEG", "video files", "pip install opencv-python"),
        (
            "GSTREAMER",
            "CSI cameras, hardware decoding",
            "apt install python3-opencv, and a venv that sees it",
        ),
        ("V4L2", "USB cameras", "pip install opencv-python"),
    ):
        with quiet():
            there = bool(cv2.videoio_registry.hasBackend(getattr(cv2, f"CAP_{kind}")))
        name = f"OpenCV with {kind}"
        if there:
            yield Finding(name=name, state="ok", found="yes", needed_for=serves)
        else:
            yield _lacking(
                name, "this build has none", serves, f"{_JETPACK}; {_NOT_PIPS}" if jetson else remedy
            )
    several = [name for name in _OPENCV_PACKAGES if _version(name)]
    if len(several) > 1:
        yield Finding(
            name="OpenCV packages",
            state="warning",
            found=" and ".join(several) + " overwrite each other's files",
            needed_for=purpose,
            remedy=f"pip uninstall {' '.join(several)}, then install one of them",
        )


def _onnxruntime(*, jetson: bool) -> Finding:
    name, purpose = "ONNX Runtime", "running models on the CPU"
    try:
        with interrupts_deferred():
            import onnxruntime
    except ImportError as error:
        found = "not installed" if importlib.util.find_spec("onnxruntime") is None else str(error)
        remedy = "pip install onnxruntime" if jetson else "pip install 'edgecnn[cpu]'"
        return _lacking(name, found, purpose, remedy)
    from edgecnn.backends.onnxruntime import needs_precise_int8

    version = str(onnxruntime.__version__)
    if needs_precise_int8():
        return Finding(
            name=name,
            state="warning",
            found=f"{version}; this CPU has no VNNI",
            needed_for=purpose,
            remedy="INT8 is exact here, but slower: `edgecnn build --precision auto` measures if it pays",
        )
    return Finding(name=name, state="ok", found=version, needed_for=purpose)


def _export_packages(*, jetson: bool) -> Iterator[Finding]:
    for package, purpose in (
        ("torch", "export"),
        ("onnx", "export, calibrate, build"),
        ("onnxscript", "export"),
        ("onnx-ir", "export, calibrate, build"),
        ("timm", "sources such as timm:resnet18"),
        ("torchvision", "sources such as torchvision:resnet18"),
    ):
        version = _version(package)
        if version:
            yield Finding(name=package, state="ok", found=version, needed_for=purpose)
        else:
            alone = jetson or package in ("timm", "torchvision")
            remedy = f"pip install {package}" if alone else "pip install 'edgecnn[export]'"
            yield _lacking(package, "not installed", purpose, remedy)


def _nvidia(base: Path, device: Device) -> Iterator[Finding]:
    purpose = "TensorRT engines"
    jetson = device.l4t is not None
    driver = _first_line(base / "proc/driver/nvidia/version") or (
        f"of Jetson Linux {device.l4t}" if jetson else None
    )
    if driver:
        yield Finding(name="NVIDIA driver", state="ok", found=driver, needed_for=purpose)
    else:
        remedy = "On a machine with an NVIDIA GPU, install its driver"
        yield _lacking("NVIDIA driver", "none loaded", purpose, remedy)
    gpu = read_gpu()
    if gpu is not None:
        found = f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_bytes / GB:.1f} GB"
        yield Finding(name="GPU", state="ok", found=f"{found}, CUDA {gpu.cuda}", needed_for=purpose)
    elif driver:
        remedy = "See nvidia-smi and CUDA_VISIBLE_DEVICES; a container needs --runtime nvidia or --gpus all"
        yield _lacking("GPU", "the driver shows none here", purpose, remedy)
    for module, package, remedy in (
        ("tensorrt", "tensorrt", f"It comes with JetPack: {_JETPACK}" if jetson else "pip install tensorrt"),
        ("tensorrt_rtx", "tensorrt-rtx", "pip install 'edgecnn[rtx]'"),
    ):
        if importlib.util.find_spec(module) is not None:
            yield Finding(name=module, state="ok", found=_version(package) or "installed", needed_for=purpose)
        else:
            hidden = module == "tensorrt" and jetson and sys.prefix != sys.base_prefix
            found = "not visible in this virtual environment" if hidden else "not installed"
            yield _lacking(module, found, purpose, remedy)
    yield _pycuda(gpu, jetson=jetson)


def _pycuda(gpu: Gpu | None, *, jetson: bool) -> Finding:
    """Whether PyCUDA is there, and, where there is a GPU, whether it opens it."""
    name, purpose = "pycuda", "running TensorRT engines"
    if importlib.util.find_spec("pycuda") is None:
        remedy = "pip install 'edgecnn[jetson]'" if jetson else "pip install 'edgecnn[rtx]'"
        return _lacking(name, "not installed", purpose, f"{remedy}, with nvcc in PATH: it is compiled")
    version = _version("pycuda") or "installed"
    if gpu is None:
        return Finding(name=name, state="ok", found=f"{version}, no GPU to try it on", needed_for=purpose)
    from edgecnn.backends.cuda import CudaContext

    try:
        CudaContext().close()
    except EdgeCNNError as error:
        found = f"{version}; {error.what}: {error.got}"
        return Finding(
            name=name, state="warning", found=found, needed_for=purpose, remedy=error.remedy or "Restart"
        )
    return Finding(name=name, state="ok", found=f"{version}, opens the GPU", needed_for=purpose)


def _memory(base: Path, device: Device) -> Finding:
    available = re.search(r"MemAvailable:\s*(\d+) kB", _text(base / "proc/meminfo"))
    available_gb = int(available[1]) * 1024 / GB if available else None
    total = "an unknown amount" if device.memory_mb is None else f"{device.memory_mb / 1e3:.1f} GB"
    found = f"{total}, " + ("free: unknown" if available_gb is None else f"{available_gb:.1f} GB free")
    purpose = "building and calibrating"
    if available_gb is not None and available_gb < LOW_GB:
        remedy = "Close other programs, or build on a larger machine"
        return Finding(name="memory", state="warning", found=found, needed_for=purpose, remedy=remedy)
    return Finding(name="memory", state="ok", found=found, needed_for=purpose)


def _disk() -> Finding:
    free_gb = shutil.disk_usage(".").free / GB
    found, purpose = f"{free_gb:.1f} GB free in this folder", "models and videos"
    if free_gb < LOW_GB:
        return Finding(
            name="disk", state="warning", found=found, needed_for=purpose, remedy="Free some space"
        )
    return Finding(name="disk", state="ok", found=found, needed_for=purpose)


def _cameras(base: Path) -> Finding:
    purpose = "--source 0, 1, …"
    devices = sorted(base.glob("dev/video[0-9]*"), key=lambda path: (len(path.name), path.name))
    if not devices:
        remedy = "Plug one in; into a container it comes with docker run --device /dev/video0"
        return _lacking("cameras", "no /dev/video*", purpose, remedy)
    names = [f"/dev/{path.name}" for path in devices]
    locked = [
        name for name, path in zip(names, devices, strict=True) if not os.access(path, os.R_OK | os.W_OK)
    ]
    if locked:
        return Finding(
            name="cameras",
            state="warning",
            found=f"no permission for {', '.join(locked)}",
            needed_for=purpose,
            remedy="sudo usermod -aG video $USER, then log in again",
        )
    return Finding(name="cameras", state="ok", found=", ".join(names), needed_for=purpose)


def _lacking(name: str, found: str, needed_for: str, remedy: str) -> Finding:
    return Finding(name=name, state="missing", found=found, needed_for=needed_for, remedy=remedy)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _first_line(path: Path) -> str | None:
    return (_text(path).splitlines() or [""])[0].strip() or None
