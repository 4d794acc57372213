"""The two libraries that one builder serves, and what each of them cannot do.

Both have the same Python API. What differs is what an option does: TensorRT for RTX accepts several of them
without any effect (a DLA, a timing cache), and an option without effect must not look as if it had one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from edgecnn.errors import BackendUnavailableError, BuildError

__all__ = ["FLAVOURS", "Flavour", "FlavourFacts", "calibrates", "child_environment", "facts_of", "require"]

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True, kw_only=True)
class FlavourFacts:
    """One library.

    Attributes:
        title: what NVIDIA calls it.
        target: what `edgecnn build --target` calls it.
        remedy: how to get it.
        refused: option → why this library cannot honour it.
    """

    title: str
    target: str
    remedy: str
    refused: dict[str, str]


_FACTS: dict[str, FlavourFacts] = {
    "tensorrt": FlavourFacts(
        title="TensorRT",
        target="tensorrt",
        remedy="On a Jetson it comes with JetPack (sudo apt install nvidia-jetpack); a virtual environment "
        "sees it only when made with --system-site-packages. On a PC: pip install tensorrt",
        refused={
            "compute_capabilities": "TensorRT builds for the GPU that it runs on; build on the device",
        },
    ),
    "tensorrt_rtx": FlavourFacts(
        title="TensorRT for RTX",
        target="tensorrt-rtx",
        remedy="pip install tensorrt-rtx",
        refused={
            "version_compatible": "TensorRT for RTX ships no lean runtime; build again for another version",
            "hardware_compatibility": "TensorRT for RTX ignores it; its plans run on every GPU from compute "
            "capability 8.0 on, or on those given by compute_capabilities",
            "timing_cache": "TensorRT for RTX measures no kernels while it builds",
            "dla_core": "TensorRT for RTX is for GPUs; build for `tensorrt` on a Jetson that has a DLA",
        },
    ),
}


def facts_of(flavour: str) -> FlavourFacts:
    """What is known of a flavour. Raises BuildError for an unknown one."""
    if flavour not in _FACTS:
        raise BuildError("unknown flavour of TensorRT", got=flavour, expected=" or ".join(FLAVOURS))
    return _FACTS[flavour]


def require(flavour: str) -> FlavourFacts:
    """Raise BackendUnavailableError, early, if the library is not installed here."""
    facts = facts_of(flavour)
    try:
        found = importlib.util.find_spec(flavour)
    except (ImportError, ValueError):  # a module that was taken out of sys.modules, or set to None there
        found = None
    if found is None:
        raise BackendUnavailableError(
            f"{facts.title} is not installed", got=f"no module {flavour}", remedy=facts.remedy
        )
    return facts


def child_environment() -> dict[str, str]:
    """For a child that imports what this process imports, where no file in a folder shadows a module."""
    paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - "" is the current folder
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def calibrates(flavour: str) -> bool:
    """Whether this version takes INT8 as a flag with a calibrator, which a DLA needs: TensorRT before 11.

    It is asked in a process of its own, as everything of TensorRT. Raises BackendUnavailableError.
    """
    facts = require(flavour)
    done = subprocess.run(
        [sys.executable, "-c", _CALIBRATES, flavour],
        capture_output=True, text=True, check=False, cwd="/", env=child_environment(),
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise BackendUnavailableError(f"{facts.title} cannot be used", got=lines[-1], remedy=facts.remedy)
    return done.stdout.strip() == "True"


_CALIBRATES = """
import importlib, sys
trt = importlib.import_module(sys.argv[1])
print(hasattr(trt.BuilderFlag, "INT8") and hasattr(trt, "IInt8EntropyCalibrator2"))
"""
