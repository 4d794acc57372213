"""The options for the targets `tensorrt` and `tensorrt-rtx`, which `build` and `inspect` share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgecnn.export.tensorrt import CompileOptions

__all__ = ["ENGINE_TARGETS", "EngineOptions", "engine_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

ENGINE_TARGETS = ("tensorrt", "tensorrt-rtx")
"""Targets that these options are for."""

_NAMES = {"compute_capabilities": "compute_capability", "shapes": "shape"}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class _Bytes(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """`512M`, `2G`, or bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        found = re.fullmatch(r"(\d{1,15})([kmg]?)i?b?", str(value).strip().lower(), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is no size; expected bytes, such as 512M or 2G")
        return int(found[1]) * _UNITS[found[2]]


class _Batch(click.ParamType):  # type: ignore[type-arg]  # as above
    """`MIN,BEST,MAX`, or one number for all three."""

    name = "MIN,BEST,MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        numbers = [int(part) for part in str(value).split(",") if re.fullmatch(r"\s*\d{1,6}\s*", part)]
        if len(numbers) not in (1, 3) or len(numbers) != str(value).count(",") + 1:
            self.fail(f"{value!r} is no range of batches; expected MIN,BEST,MAX, such as 1,4,8")
        low, best, high = numbers * 3 if len(numbers) == 1 else numbers
        return low, best, high


class _Shapes(click.ParamType):  # type: ignore[type-arg]  # as above
    """`INPUT=1x3x224x224,…`: the smallest, best and largest shape, or one for all three."""

    name = "INPUT=MIN,BEST,MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[str, tuple[tuple[int, ...], ...]]:
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).rpartition("=")
        parts = text.lower().split(",")
        if not name or len(parts) not in (1, 3) or not all(re.fullmatch(r"\d+(x\d+)*", p) for p in parts):
            self.fail(f"{value!r} is no range of shapes; expected such as image=1x3x224x224,2x3x224x224,…")
        shapes = tuple(tuple(map(int, part.split("x"))) for part in parts)
        return name, shapes * 3 if len(shapes) == 1 else shapes


_OPTIONS = (
    click.option(
        "--compute-capability", "compute_capabilities", multiple=True, metavar="CC",
        help="TensorRT for RTX: a GPU to build for, such as 8.6; several times for several. Default: all "
        "from 8.0 on.",
    ),
    click.option(
        "--batch", type=_Batch(), help="TensorRT: smallest, best and largest batch; it must be free."
    ),
    click.option(
        "--shape", "shapes", type=_Shapes(), multiple=True,
        help="TensorRT: the same for whole shapes, such as image=1x3x224x224,1x3x480x640,1x3x720x1280.",
    ),
    click.option(
        "--workspace", type=_Bytes(),
        help="TensorRT: scratch memory of a layer, such as 512M. Default: half of the free memory.",
    ),
    click.option(
        "--optimization-level", type=click.IntRange(0, 5), help="TensorRT: 0 builds fast, 5 runs fast."
    ),
    click.option(
        "--timing-cache", type=click.Path(dir_okay=False, path_type=Path),
        help="TensorRT: where measured kernels are kept. Default: in the user's cache folder.",
    ),
    click.option("--no-timing-cache", is_flag=True, help="TensorRT: measure every kernel again."),
    click.option(
        "--version-compatible", is_flag=True, help="TensorRT: the engine runs on later versions too; slower."
    ),
    click.option(
        "--hardware-compatible", type=click.Choice(["ampere-plus", "same-compute-capability"]),
        help="TensorRT: the engine runs on other GPUs too; slower.",
    ),
    click.option("--dla", type=click.IntRange(min=0), metavar="CORE", help="TensorRT: run on this DLA."),
    click.option(
        "--gpu-fallback/--no-gpu-fallback", default=False,
        help="With --dla: what it cannot do runs on the GPU, or is an error (the default).",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What the user said of the compilation; None, empty or False where nothing was said."""

    compute_capabilities: tuple[str, ...]
    batch: tuple[int, int, int] | None
    shapes: tuple[tuple[str, Any], ...]
    workspace: int | None
    optimization_level: int | None
    timing_cache: Path | None
    no_timing_cache: bool
    version_compatible: bool
    hardware_compatible: str | None
    dla: int | None
    gpu_fallback: bool

    def resolve(self) -> CompileOptions:
        """As the library takes them. Raises BuildError."""
        from edgecnn.export.tensorrt import CompileOptions, ShapeRange

        if self.no_timing_cache and self.timing_cache is not None:
            raise click.UsageError("--timing-cache and --no-timing-cache contradict each other")
        compatibility: Any = (self.hardware_compatible or "none").replace("-", "_")
        capabilities = [part for given in self.compute_capabilities for part in given.split(",")]
        return CompileOptions(
            workspace_bytes=self.workspace,
            optimization_level=self.optimization_level,
            timing_cache=False if self.no_timing_cache else self.timing_cache,
            batch=self.batch,
            shapes={name: ShapeRange(*ranges) for name, ranges in self.shapes} or None,
            compute_capabilities=tuple(capabilities),
            version_compatible=self.version_compatible,
            hardware_compatibility=compatibility,
            dla_core=self.dla,
            gpu_fallback=self.gpu_fallback,
        )

    def refuse_for(self, target: str | None) -> None:
        """Raise UsageError for anything said although the target is another one."""
        given = [
            "--" + _NAMES.get(name, name).replace("_", "-")
            for name, value in vars(self).items()
            if value is not None and value is not False and value != ()
        ]
        if given and target not in ENGINE_TARGETS:
            targets = " or ".join(ENGINE_TARGETS)
            raise click.UsageError(f"{', '.join(given)}: only with --target {targets}")


def engine_options(function: _Function) -> _Function:
    """Adds the options above; the command gets them as one parameter `engine_options: EngineOptions`."""
    names = tuple(EngineOptions.__dataclass_fields__)

    @functools.wraps(function)
    def wrapper(**options: Any) -> Any:
        said = {name: options.pop(name) for name in names}
        return function(engine_options=EngineOptions(**said), **options)

    decorated: Any = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: _Function = decorated
    return result
