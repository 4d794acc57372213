"""Where a module comes from: a factory in Python code, a file, or a collection of architectures.

    package.module:factory     called with the given arguments; or an nn.Module that is there already
    model.pt2                  written by torch.export.save
    model.pt, .torchscript     written by torch.jit.save
    timm:NAME, torchvision:NAME

A source is a program, and exporting it runs it. That is plain for Python code. It also holds for the files:
a `.pt2` names the functions that it calls and may carry native code or pickles, and TorchScript is compiled
and run by libtorch. `files` refuses the pickles and the native code unless they are allowed, which stops
accidents and the simplest attacks, no more. Export files of people you trust. Weights files, in contrast,
are data and are loaded as data (`edgecnn.export.weights`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.errors import ExportError, ModelNotFoundError
from edgecnn.export.torch_boundary import require
from edgecnn.export.weights import apply_weights, load_weights
from edgecnn.files import sha256_file
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Source", "load_source"]

_FORMS = "package.module:factory, a .pt2 or TorchScript file, timm:NAME or torchvision:NAME"
_FILE_SUFFIXES = (".pt2", ".pt", ".pth", ".ts", ".torchscript", ".ckpt", ".bin", ".safetensors", ".onnx")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A loaded PyTorch model and what is known of it.

    Attributes:
        module: `nn.Module`, `ExportedProgram` or TorchScript module.
        name: what to call the model.
        origin: where it comes from, as JSON; goes into the exported file, so no path of this machine.
        spec: how it is used, where the source knows; None otherwise.
        size_hw: height and width of its input where the file fixes them.
        notes: what the user should know, in words.
    """

    module: torch.nn.Module | torch.export.ExportedProgram
    name: str
    origin: Mapping[str, Any] = field(default_factory=dict)
    spec: ModelSpec | None = None
    size_hw: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def load_source(
    text: str,
    *,
    arguments: Sequence[str] = (),
    weights: str | os.PathLike[str] | None = None,
    unsafe_weights: bool = False,
) -> Source:
    """Load the PyTorch model that a SOURCE names.

    Args:
        text: one of the forms in the module's docstring.
        arguments: for a factory: `VALUE` or `KEY=VALUE`, each a Python literal, or text where it is none.
        weights: a weights file to load into the module.
        unsafe_weights: run code that a weights file, or the pickles in a `.pt2`, may hold.

    Raises:
        ExportError: unknown form, module or factory; a factory that fails or returns something else.
        ModelNotFoundError, ModelFormatError, UnsafeWeightsError: as `load_weights`, of either file.
        BackendUnavailableError: torch, timm or torchvision is missing.
    """
    if weights is not None and not Path(weights).is_file():
        load_weights(weights)  # raises; better now than after minutes of importing
    require("torch")
    source = _open(text, arguments, unsafe_weights)
    origin = {
        **source.origin,
        **({"arguments": [_without_folders(a) for a in arguments]} if arguments else {}),
    }
    notes = source.notes
    if weights is not None:
        origin["weights"], more = _apply(source, Path(weights), unsafe=unsafe_weights)
        notes = (*(note for note in notes if "random weights" not in note), *more)
    from edgecnn.export.torchvision_detection import as_network

    return as_network(replace(source, origin=origin, notes=notes))


def _open(text: str, arguments: Sequence[str], unsafe: bool) -> Source:
    from edgecnn.export.sources import factory, files, zoo

    collection, colon, name = text.partition(":")
    if colon and collection in zoo.COLLECTIONS:
        return zoo.load(collection, name, factory.parse_arguments(arguments))
    path = Path(text)
    if path.is_file() or path.suffix.lower() in _FILE_SUFFIXES:
        if not path.is_file():
            raise ModelNotFoundError(
                f"{path} {'is a folder' if path.is_dir() else 'does not exist'}", expected=_FORMS
            )
        if arguments:
            raise ExportError("--arg is for factories", got=f"a file, {path}")
        return files.load(path, unsafe=unsafe)
    if colon:
        return factory.load(text, factory.parse_arguments(arguments))
    close = difflib.get_close_matches(text, zoo.COLLECTIONS, n=1)
    raise ExportError(
        f"cannot tell what {text} is",
        expected=_FORMS,
        remedy=f"Perhaps {close[0]}:NAME" if close else f"Perhaps {text}:NAME, or torchvision:{text}",
    )


def _without_folders(argument: str) -> str:
    """An argument may be a path, and the exported file is to say nothing about this machine."""
    key, equals, value = argument.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if value.startswith((os.sep, "~")) else argument


def _apply(source: Source, path: Path, *, unsafe: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    import torch

    if not isinstance(source.module, torch.nn.Module) or isinstance(source.module, torch.jit.ScriptModule):
        raise ExportError(
            "--weights is for modules made by Python code",
            got=f"{source.name}, a file that holds its weights already",
            remedy="Leave out --weights",
        )
    state, key = load_weights(path, unsafe=unsafe)
    apply_weights(source.module, state, path)
    averaged = any(part in key for part in ("ema",))
    notes = (f"{path.name} holds averaged weights ({key}); they were used",) if averaged else ()
    return {"file": path.name, "sha256": sha256_file(path)}, notes
