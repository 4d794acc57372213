"""What can be asked of the compiler, checked before it starts.

An option that the chosen flavour cannot honour is refused, never ignored; precision is no option at all: it
stands in the graph, and every network is strongly typed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from edgecnn.errors import BuildError
from edgecnn.export.tensorrt.flavours import facts_of

__all__ = ["CompileOptions", "HardwareCompatibility", "ShapeRange", "default_workspace", "parse_capability"]

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]

_MIB = 1 << 20
_LEAST_WORKSPACE = 256 * _MIB


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of one input that a plan serves: from `min` to `max`, at its fastest for `opt`.

    Raises:
        BuildError: they differ in rank, hold a number below 1, or are out of order.
    """

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, tuple(getattr(self, item.name)))
        same_rank = len(self.min) == len(self.opt) == len(self.max)
        ordered = same_rank and all(
            type(low) is int and type(mid) is int and type(high) is int and 1 <= low <= mid <= high
            for low, mid, high in zip(self.min, self.opt, self.max, strict=True)
        )
        _check("a range of shapes", f"{self.min} {self.opt} {self.max}", ordered, "1 ≤ min ≤ opt ≤ max")


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """How to compile.

    Attributes:
        workspace_bytes: scratch memory that one layer may use on the device; None for half of the memory
            that is free on this machine now.
        optimization_level: 0 (builds fast) … 5 (runs fast); None for the library's default.
        timing_cache: file that remembers measured kernels between builds; None for one in the user's cache
            folder, named by library version and GPU; False for none.
        batch: min, opt and max of a free first axis of every input; None for 1, 1, 1.
        shapes: input → its range of shapes, for inputs with other free axes; such an input ignores `batch`.
        compute_capabilities: GPUs to compile for, such as `("8.6", "12.0")`; only TensorRT for RTX, where
            none means every GPU from 8.0 on.
        version_compatible: the plan runs on later versions of TensorRT too; slower.
        hardware_compatibility: the plan runs on other GPUs too; slower.
        dla_core: run on this DLA instead of the GPU.
        gpu_fallback: what the DLA cannot do runs on the GPU; otherwise such a layer is an error.

    Raises:
        BuildError: a value is out of range or contradicts another.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: str | os.PathLike[str] | Literal[False] | None = None
    batch: tuple[int, int, int] | None = None
    shapes: Mapping[str, ShapeRange] | None = None
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    dla_core: int | None = None
    gpu_fallback: bool = False

    def __post_init__(self) -> None:
        size = self.workspace_bytes
        _check("workspace_bytes", size, size is None or _whole(size) >= _MIB, "at least 1 MiB (1048576)")
        level = self.optimization_level
        _check("optimization_level", level, level is None or 0 <= _whole(level) <= 5, "0 to 5")
        if self.batch is not None:
            batch = tuple(self.batch)
            _check("batch", batch, len(batch) == 3, "three numbers: min, opt, max")
            low, opt, high = batch
            ShapeRange((low,), (opt,), (high,))
            object.__setattr__(self, "batch", batch)
        listed = isinstance(self.compute_capabilities, (list, tuple))  # a text would pass as its letters
        _check("compute_capabilities", self.compute_capabilities, listed, 'a tuple such as ("8.6", "12.0")')
        names = tuple(map(parse_capability, self.compute_capabilities))
        _check("compute_capabilities", ", ".join(names), len(set(names)) == len(names), "each once")
        object.__setattr__(self, "compute_capabilities", names)
        levels = ("none", "ampere_plus", "same_compute_capability")
        level_known = self.hardware_compatibility in levels
        _check("hardware_compatibility", self.hardware_compatibility, level_known, ", ".join(levels))
        core = self.dla_core
        _check("dla_core", core, core is None or _whole(core) >= 0, "a core's number, from 0")
        needless = self.gpu_fallback and core is None
        _check("gpu_fallback", self.gpu_fallback, not needless, "dla_core with it: there is nothing to fall")

    def refuse_for(self, flavour: str) -> None:
        """Raise BuildError for an option that this flavour cannot honour."""
        for name, reason in facts_of(flavour).refused.items():
            value = getattr(self, name)
            # False for the timing cache asks for nothing; 0 is a DLA
            if not (value is None or value is False or value in ((), "none")):
                raise BuildError(f"{name} cannot be honoured", got=str(value), remedy=reason)

    def to_json(self) -> dict[str, Any]:
        """As the worker reads it: plain values, paths as text."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["shapes"] = {
            name: [list(shapes.min), list(shapes.opt), list(shapes.max)]
            for name, shapes in (self.shapes or {}).items()
        }
        if values["timing_cache"] not in (None, False):
            values["timing_cache"] = str(Path(values["timing_cache"]).absolute())
        return values


def parse_capability(text: str) -> str:
    """`8.6`, `86`, `sm_86` → `8.6`. Raises BuildError on anything else."""
    found = re.fullmatch(r"(?:sm_?)?(\d{1,2})(?:\.(\d)|(?<=\d)(\d))", str(text).strip().lower(), re.ASCII)
    if found is None:
        raise BuildError("a compute capability is wrong", got=repr(text), expected="such as 8.6 or 12.0")
    return f"{int(found[1])}.{found[2] or found[3]}"


def default_workspace(meminfo: str | os.PathLike[str] = "/proc/meminfo") -> int | None:
    """Half of the memory that is free on this machine, in bytes; None where it does not say.

    On a Jetson, CPU and GPU share that memory, and weights, plan and the builder itself need the other half.
    On a PC the GPU has its own, smaller memory, and TensorRT limits itself to that.
    """
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path(meminfo).read_text())
    except OSError:
        return None
    if found is None:
        return None
    return max(_LEAST_WORKSPACE, int(found[1]) * 1024 // 2 // _MIB * _MIB)


def _whole(value: Any) -> int:
    return value if type(value) is int else -1


def _check(name: str, value: Any, correct: bool, expected: str) -> None:
    if not correct:
        raise BuildError(f"{name} is wrong", got=str(value), expected=expected)
