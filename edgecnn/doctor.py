"""What this machine has of what edgecnn can use, what it lacks, and how to get it.

Heavy packages are looked up, not imported: importing torch to say that it is there would take seconds.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["Finding", "examine", "is_jetson"]

State = Literal["ok", "missing", "warning"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        name: what.
        state: `ok`; `missing`; `warning` for something that is there and will make trouble.
        found: version or fact; what is wrong where it is not `ok`.
        needed_for: what it serves.
        remedy: the command that gets it, where there is one.
    """

    name: str
    state: State
    found: str
    needed_for: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything, in the order in which it matters."""
    return [_python(), *_opencv(), _onnxruntime(), *_export_packages(), *_nvidia(), _memory(), _disk(), _cameras()]


def is_jetson() -> bool:
    """Whether this is an NVIDIA Jetson, by the file that its Linux carries."""
    return Path("/etc/nv_tegra_release").exists()


def _python() -> Finding:
    version = platform.python_version()
    found = f"{version} on {platform.system()} {platform.machine()}"
    return Finding(name="Python", state="ok", found=found, needed_for="everything")


def _opencv() -> Iterator[Finding]:
    purpose = "images, videos and cameras"
    try:
        import cv2
    except ImportError as error:
        remedy = (
            "Use JetPack's own: python3 -m venv --system-site-packages .venv"
            if is_jetson()
            else "pip install 'edgecnn[cpu]'"
        )
        found = str(error) if importlib.util.find_spec("cv2") else "not installed"
        yield Finding(name="OpenCV", state="missing", found=found, needed_for=purpose, remedy=remedy)
        return
    from edgecnn.camera.opencv import quiet

    with quiet():
        has = {name: bool(cv2.videoio_registry.hasBackend(getattr(cv2, f"CAP_{name}"))) for name in ("FFMPEG", "GSTREAMER", "V4L2")}
    yield Finding(name="OpenCV", state="ok", found=f"{cv2.__version__} from {_home(cv2.__file__)}", needed_for=purpose)
    yield _feature("OpenCV with FFmpeg", has["FFMPEG"], "video files", "pip install opencv-python")
    gstreamer_remedy = (
        "Remove pip's OpenCV, which hides JetPack's: pip uninstall opencv-python opencv-python-headless; then a venv with --system-site-packages"
        if is_jetson()
        else "apt install python3-opencv, and a venv with --system-site-packages"
    )
    yield _feature("OpenCV with GStreamer", has["GSTREAMER"], "CSI cameras, hardware decoding", gstreamer_remedy)
    yield _feature("OpenCV with V4L2", has["V4L2"], "USB cameras", "")
    several = sorted(
        name for name in ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless") if _version(name)
    )
    if len(several) > 1:
        yield Finding(
            name="OpenCV packages", state="warning", found=" and ".join(several) + " overwrite each other's files", needed_for=purpose,
            remedy=f"pip uninstall {' '.join(several)}, then install one of them",
        )  # fmt: skip


def _onnxruntime() -> Finding:
    version = _version("onnxruntime") or _version("onnxruntime-gpu")
    if version is None:
        return Finding(
            name="ONNX Runtime", state="missing", found="not installed", needed_for="running models on the CPU", remedy="pip install 'edgecnn[cpu]'"
        )
    from edgecnn.backends.onnxruntime import needs_precise_int8

    if needs_precise_int8():
        return Finding(
            name="ONNX Runtime", state="warning", found=f"{version}; this CPU has no VNNI", needed_for="running models on the CPU",
            remedy="INT8 is computed exactly here, but more slowly; `edgecnn build --precision auto` measures whether it pays",
        )  # fmt: skip
    return Finding(name="ONNX Runtime", state="ok", found=version, needed_for="running models on the CPU")


def _export_packages() -> Iterator[Finding]:
    for package, purpose in (
        ("torch", "export"),
        ("onnx", "export, calibrate, build"),
        ("onnxscript", "export"),
        ("onnx-ir", "export, calibrate, build"),
        ("timm", "sources such as timm:resnet18"),
        ("torchvision", "sources such as torchvision:resnet18"),
    ):
        version = _version(package)
        extra = "'edgecnn[export]'" if package not in ("timm", "torchvision") else package
        yield Finding(
            name=package, state="ok" if version else "missing", found=version or "not installed", needed_for=purpose,
            remedy="" if version else f"pip install {extra}",
        )  # fmt: skip


def _nvidia() -> Iterator[Finding]:
    driver = _first_line("/proc/driver/nvidia/version") or _first_line("/etc/nv_tegra_release")
    yield Finding(
        name="NVIDIA driver", state="ok" if driver else "missing", found=driver or "none loaded", needed_for="TensorRT engines",
        remedy="" if driver else "Only on a machine with an NVIDIA GPU",
    )  # fmt: skip
    for module, package, remedy in (
        ("tensorrt", "tensorrt", "It comes with JetPack: python3 -m venv --system-site-packages .venv" if is_jetson() else "pip install tensorrt"),
        ("tensorrt_rtx", "tensorrt-rtx", "pip install 'edgecnn[rtx]'"),
        ("pycuda", "pycuda", "pip install 'edgecnn[jetson]'"),
    ):
        there = importlib.util.find_spec(module) is not None
        found = (_version(package) or "installed") if there else "not installed"
        if not there and module == "tensorrt" and is_jetson() and sys.prefix != sys.base_prefix:
            found = "not visible in this virtual environment"
        yield Finding(
            name=module, state="ok" if there else "missing", found=found, needed_for="TensorRT engines, in a later version of edgecnn",
            remedy="" if there else remedy,
        )  # fmt: skip


def _memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    available = _available_gib()
    state: State = "warning" if available < 1 else "ok"
    return Finding(
        name="memory", state=state, found=f"{available:.1f} of {total:.1f} GiB available", needed_for="building and calibrating",
        remedy="Close other programs, or build on a larger machine" if state == "warning" else "",
    )  # fmt: skip


def _available_gib() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return kib / 2**20


def _disk() -> Finding:
    usage = shutil.disk_usage(".")
    state: State = "warning" if usage.free < 2**30 else "ok"
    return Finding(
        name="disk", state=state, found=f"{usage.free / 2**30:.1f} GiB free here", needed_for="models and videos",
        remedy="Free some space" if state == "warning" else "",
    )  # fmt: skip


def _cameras() -> Finding:
    devices = sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))
    locked = [device for device in devices if not os.access(device, os.R_OK | os.W_OK)]
    if locked:
        return Finding(
            name="cameras", state="warning", found=f"no permission for {', '.join(locked)}", needed_for="--source 0",
            remedy="sudo usermod -aG video $USER, then log in again",
        )  # fmt: skip
    found = ", ".join(devices) if devices else "no /dev/video*"
    return Finding(name="cameras", state="ok" if devices else "missing", found=found, needed_for="--source 0")


def _feature(name: str, there: bool, purpose: str, remedy: str) -> Finding:
    found = "yes" if there else "this build has none"
    return Finding(
        name=name, state="ok" if there else "missing", found=found, needed_for=purpose, remedy="" if there else remedy
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(path: str) -> str | None:
    try:
        return (Path(path).read_text().splitlines() or [""])[0].strip() or None
    except OSError:
        return None


def _home(file: str) -> str:
    """Which installation a module is from: what tells pip's OpenCV from the system's."""
    return "this environment" if file.startswith(sys.prefix) else "the system"
