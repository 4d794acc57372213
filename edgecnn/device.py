"""What machine this is and what state it is in: what a latency means nothing without.

Read from /proc, /sys and /etc only, so it is quick, needs no rights and starts no programs. What a machine
does not say is None, never a guess.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecnn.telemetry import Telemetry, power_mode, read_text

__all__ = ["Device", "DeviceState", "read_device", "read_state", "was_throttled"]


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """What changes while a machine works.

    Attributes:
        frequency_mhz: of the fastest CPU core now.
        temperature_c: of the hottest sensor.
        throttle_count: how often the CPU has slowed down for heat since it started; x86 counts this.
        cooling_level: how far CPU or GPU are slowed down for heat now, 0 for not at all.
    """

    frequency_mhz: float | None
    temperature_c: float | None
    throttle_count: int | None
    cooling_level: int | None


@dataclass(frozen=True, kw_only=True)
class Device:
    """What stays the same while a machine works.

    Attributes:
        board: the board's name, on ARM.
        cpu: model of the CPU.
        architecture: `x86_64`, `aarch64` …
        cores: logical cores that this process may use.
        max_frequency_mhz: of the fastest core.
        governor: how the kernel chooses the frequency: `performance`, `schedutil` …
        power_mode: a Jetson's, as `nvpmodel` names it.
        memory_mb: in 10⁶ bytes.
        l4t: NVIDIA's Linux for Tegra, such as `36.4.3`.
        versions: of the libraries that the runtime uses, None for one that is not installed.
    """

    board: str | None
    cpu: str | None
    architecture: str
    cores: int
    max_frequency_mhz: float | None
    governor: str | None
    power_mode: str | None
    memory_mb: int | None
    os: str | None
    kernel: str
    l4t: str | None
    versions: dict[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def read_device(root: str | os.PathLike[str] = "/") -> Device:
    """Read what machine this is.

    Args:
        root: where /proc, /sys and /etc are; another one describes that tree, for tests.
    """
    base = Path(root)
    cpuinfo = read_text(base / "proc/cpuinfo") or ""
    memory = re.search(r"MemTotal:\s*(\d+) kB", read_text(base / "proc/meminfo") or "")
    os_name = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(base / "etc/os-release") or "", re.MULTILINE)
    return Device(
        board=(read_text(base / "proc/device-tree/model") or "").strip("\0 \n") or None,
        cpu=_cpu_model(cpuinfo),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        max_frequency_mhz=_mhz(_numbers(base, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq")),
        governor=", ".join(
            sorted(set(_texts(base, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")))
        )
        or None,
        power_mode=power_mode(base),
        memory_mb=round(int(memory[1]) * 1024 / 1e6) if memory else None,
        os=os_name[1] if os_name else None,
        kernel=platform.release(),
        l4t=_l4t(read_text(base / "etc/nv_tegra_release") or ""),
        versions=_versions(),
    )


def read_state(root: str | os.PathLike[str] = "/") -> DeviceState:
    """Read the state that the machine is in at this moment. `root` as for `read_device`."""
    reading = Telemetry(root).read()
    return DeviceState(
        frequency_mhz=reading.cpu_mhz,
        temperature_c=reading.temperature_c,
        throttle_count=reading.throttle_count,
        cooling_level=reading.cooling_level,
    )


def was_throttled(before: DeviceState, after: DeviceState) -> bool | None:
    """Whether the machine slowed down for heat between two moments; None where it does not tell."""
    if before.throttle_count is not None and after.throttle_count is not None:
        if after.throttle_count > before.throttle_count:
            return True
    elif after.cooling_level is None:
        return None
    return bool(before.cooling_level or after.cooling_level)


def _cpu_model(cpuinfo: str) -> str | None:
    if named := re.search(r"^(?:model name|Model)\s*: (.+)", cpuinfo, re.MULTILINE):
        return named[1].strip()
    ids = {
        key: re.search(rf"^CPU {key}\s*: (0x[0-9a-f]+)", cpuinfo, re.MULTILINE)
        for key in ("implementer", "part")
    }
    maker, part = ids["implementer"], ids["part"]
    if maker is None or part is None:
        return None
    return _ARM_CORES.get((maker[1], part[1]), f"ARM implementer {maker[1]}, part {part[1]}")


# ARM's /proc/cpuinfo has numbers only; these are the cores of the boards that people use.
_ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x003"): "NVIDIA Denver 2",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}


def _l4t(release: str) -> str | None:
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2]}" if found else None


def _versions() -> dict[str, str | None]:
    from edgecnn import __version__

    return {
        "edgecnn": __version__,
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "onnxruntime": _version("onnxruntime", "onnxruntime-gpu"),
        # JetPack's own OpenCV is no package; it says its version once it is imported
        "opencv": getattr(sys.modules.get("cv2"), "__version__", None)
        or _version(
            "opencv-python",
            "opencv-python-headless",
            "opencv-contrib-python",
            "opencv-contrib-python-headless",
        ),
    }


def _version(*distributions: str) -> str | None:
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _texts(base: Path, pattern: str) -> list[str]:
    return [text for path in base.glob(pattern) if (text := read_text(path))]


def _numbers(base: Path, pattern: str) -> list[int]:
    return [int(text) for text in _texts(base, pattern) if re.fullmatch(r"-?\d+", text)]


def _mhz(khz: list[int]) -> float | None:
    return max(khz) / 1000 if khz else None
