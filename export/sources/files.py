"""Model files that hold their own program: `.pt2` of torch.export, and TorchScript.

What loading them runs (torch 2.13, read in its source):

- `torch.export.load` opens pickles with the safe loader and, where that fails, silently with the unsafe
  one; it loads `opaque_obj` constants with plain pickle and AOTInductor's native libraries with dlopen.
  Here, the safe loader is enforced and the other two are refused, unless the caller allows them. What
  remains is the program itself: expressions and guards that torch evaluates as Python, functions named by
  the graph.
- `torch.jit.load` reads its pickles in C++, without Python. The program is compiled by libtorch and may
  call any of its operators.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgecnn.errors import ExportError, ModelFormatError, UnsafeWeightsError
from edgecnn.export.sources import Source
from edgecnn.export.torch_boundary import essential_line, quiet
from edgecnn.export.weights import archive_names, is_torchscript, load_checkpoint
from edgecnn.files import sha256_file

__all__ = ["load"]

_FORCE_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def load(path: Path, *, unsafe: bool) -> Source:
    """Load a file by what it holds, whatever it is called.

    Args:
        path: an existing file.
        unsafe: allow pickled code and native libraries in it.

    Raises:
        ModelFormatError: not a program, truncated, or of another version of torch.
        UnsafeWeightsError: it needs pickled code or native libraries, and `unsafe` is false.
        ExportError: weights alone, or an ONNX file.
    """
    if path.suffix == ".onnx":
        raise ExportError(f"{path} is an ONNX file already", remedy=f"Go on with: edgecnn calibrate {path}")
    names = archive_names(path)
    if is_torchscript(path):
        module: Any = _load_torchscript(path)
        size_hw = None
    elif any("/models/" in f"/{name}" or name == "serialized_exported_program.json" for name in names):
        module = _load_program(path, names, unsafe=unsafe)
        size_hw = _input_size(module)
    else:
        return _load_pickled_module(path, unsafe=unsafe)
    return Source(module=module, name=path.stem, origin=_origin(path), size_hw=size_hw)


def _origin(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": sha256_file(path)}


def _load_torchscript(path: Path) -> Any:
    import torch

    try:
        with quiet():
            read: Any = torch.jit.load  # it has no annotations
            return read(os.fspath(path), map_location="cpu")
    except Exception as error:  # RuntimeError mostly; libtorch promises nothing
        raise ModelFormatError(
            f"torch cannot load the TorchScript file {path}",
            got=essential_line(error),
            remedy="It may need operators of a library that is not imported, or a newer torch",
        ) from error


def _load_program(path: Path, names: list[str], *, unsafe: bool) -> Any:
    import torch

    risky = [name for name in names if _runs_code(name)]
    if risky and not unsafe:
        raise UnsafeWeightsError(
            f"{path} holds more than a program and its weights",
            got=", ".join(risky[:3]),
            expected="no pickled objects and no native libraries",
            remedy="If you trust its author, --unsafe-weights (unsafe_weights=True)",
        )
    try:
        with quiet(), path.open("rb") as file, contextlib.nullcontext() if unsafe else _safe_pickles():
            return torch.export.load(file)
    except Exception as error:  # torch raises whatever its deserializer trips over
        line = essential_line(error)
        if "eights only" in line or "weights_only" in line:
            raise UnsafeWeightsError(
                f"{path} holds pickled code, which loading would run",
                got=line,
                remedy="If you trust its author, --unsafe-weights (unsafe_weights=True)",
            ) from error
        raise ModelFormatError(
            f"torch {torch.__version__} cannot load {path}",
            got=line,
            remedy="Files of torch.export.save are for the version of torch that wrote them: export it again",
        ) from error


def _runs_code(name: str) -> bool:
    folder, _, base = name.rpartition("/")
    in_constants = folder.endswith("data/constants")
    return "data/aotinductor/" in name or (in_constants and base.startswith(("opaque_obj", "custom_obj")))


@contextlib.contextmanager
def _safe_pickles() -> Iterator[None]:
    """torch.load refuses code whatever its caller asks for, as this variable makes it."""
    before = os.environ.get(_FORCE_SAFE)
    os.environ[_FORCE_SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE_SAFE]
        else:
            os.environ[_FORCE_SAFE] = before


def _input_size(program: Any) -> tuple[int, int] | None:
    """Height and width of the program's input, taking the side of 1 or 3 for the channels."""
    from edgecnn.export.reference import Reference

    shape = Reference(program).fixed_sides()
    if shape is None:
        return None
    return (shape[1], shape[2]) if shape[0] in (1, 3) else (shape[0], shape[1])


def _load_pickled_module(path: Path, *, unsafe: bool) -> Source:
    """A file of torch.save: only a whole module can be exported by itself, and that is pickled code."""
    import torch

    made = load_checkpoint(path, unsafe=unsafe)
    if not isinstance(made, torch.nn.Module):
        raise ExportError(
            f"{path} holds weights alone",
            expected="a module, too",
            remedy=f"Name the code that makes it: edgecnn export package.module:factory --weights {path}",
        )
    return Source(module=made, name=path.stem, origin=_origin(path))
