"""Weights files: tensors by name, loaded without running anything that is in the file.

A `.pth` file is a pickle, and a pickle may call any function while it is loaded. torch's `weights_only`
loader knows tensors, numbers, strings and containers and refuses the rest, which is all that a checkpoint
needs. One that holds more (a whole module, an optimizer's own class) is refused with the name of what it
would load; `unsafe=True` is the way to say that its author is trusted. `.safetensors` files cannot hold code.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.errors import BackendUnavailableError, ModelFormatError, ModelNotFoundError, UnsafeWeightsError
from edgecnn.export.torch_boundary import essential_line, quiet, require

if TYPE_CHECKING:
    import torch

__all__ = ["apply_weights", "load_checkpoint", "load_weights", "state_dict_of"]

# Where training scripts put the weights. Averaged ones come first: they are those that were evaluated.
_KEYS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema",
    "state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning
_UNTRAINED = ("num_batches_tracked", "n_averaged")  # counters that inference does not read
_MAX_DEPTH = 3

# What people hand over instead of weights, by its first bytes.
_MISTAKEN = (
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the file itself: git lfs pull"),
    (b"<", "a web page", "The download failed: fetch the file again"),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "Only PyTorch weights can be loaded"),
    (b"GGUF", "a GGUF file", "Only PyTorch weights can be loaded"),
)


def load_weights(
    path: str | os.PathLike[str], *, unsafe: bool = False
) -> tuple[dict[str, torch.Tensor], str]:
    """Read a weights file.

    Args:
        path: a file of torch.save, or `.safetensors`.
        unsafe: run the pickled code that the file may hold. Only for files whose author is trusted.

    Returns:
        Tensors by parameter name, on the CPU, and the key of the checkpoint that they stood under (empty
        where they are the whole file).

    Raises:
        ModelNotFoundError: no such file.
        ModelFormatError: not a weights file, truncated, or without tensors.
        UnsafeWeightsError: it needs code to be loaded, and `unsafe` is false.
    """
    return state_dict_of(load_checkpoint(path, unsafe=unsafe), Path(path))


def load_checkpoint(path: str | os.PathLike[str], *, unsafe: bool = False) -> Any:
    """Whatever a file of torch.save holds; arguments and errors as `load_weights`."""
    require("torch")
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise ModelNotFoundError(
            f"weights {file} {what}", expected="a file written by torch.save, or .safetensors"
        )
    start = _first_bytes(file)
    if file.suffix == ".safetensors":
        return _load_safetensors(file)
    for magic, what, remedy in _MISTAKEN:
        if start.lstrip().startswith(magic):
            raise ModelFormatError(f"{file} is not a weights file", got=what, remedy=remedy)
    if not start:
        raise ModelFormatError(f"{file} is not a weights file", got="an empty file")
    if is_torchscript(file):
        raise ModelFormatError(
            f"{file} is a TorchScript program, not a weights file",
            remedy=f"Export it by itself: edgecnn export {file}",
        )
    return _load_pickle(file, start, unsafe=unsafe)


def is_torchscript(path: Path) -> bool:
    """Whether a file was written by torch.jit.save: a zip archive with a program in it."""
    return any(name.endswith("/constants.pkl") for name in archive_names(path))


def archive_names(path: Path) -> list[str]:
    """The names in a zip archive; empty where the file is none, or a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def state_dict_of(checkpoint: Any, path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of a checkpoint, and the key under which they were found. Raises ModelFormatError."""
    import torch

    found = _search(checkpoint, torch, _MAX_DEPTH)
    if found is None:
        got = type(checkpoint).__name__
        if isinstance(checkpoint, Mapping):
            keys = [str(key) for key in checkpoint]
            got = f"keys {_first(keys)}" if keys else "nothing"
        raise ModelFormatError(
            f"{path} holds no weights",
            got=got,
            expected="tensors by parameter name, or those under " + ", ".join(_KEYS[5:8]),
            remedy="Save them with torch.save(module.state_dict(), …)",
        )
    return found


def apply_weights(module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy weights into a module; every one must have its place.

    Raises:
        ModelFormatError: parameters are missing, left over, or of another shape. It says how many, and
            names the first ones.
    """
    wanted = module.state_dict()
    state = _strip_prefixes(state, wanted)
    missing = [name for name in wanted if name not in state and not name.endswith(_UNTRAINED)]
    unexpected = [name for name in state if name not in wanted and not name.endswith(_UNTRAINED)]
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {label} ({_first(names)})"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if problems:
        raise ModelFormatError(
            f"the weights in {path} do not fit the module",
            got=", ".join(problems),
            remedy="Give the factory the arguments of the training, such as --arg num_classes=10",
        )
    module.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted}, strict=False)


def _first_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(64)
    except OSError as error:
        raise ModelFormatError(f"cannot read {file}", got=str(error.strerror)) from error


def _load_pickle(file: Path, start: bytes, *, unsafe: bool) -> Any:
    import torch

    try:
        with quiet():
            return torch.load(file, map_location="cpu", weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        culprits = _forbidden(file, str(error))
        if culprits and not unsafe:
            raise UnsafeWeightsError(
                f"{file} holds pickled code, which loading would run",
                got=", ".join(culprits),
                expected="tensors only",
                remedy="Save module.state_dict() instead, or, if you trust its author, give --unsafe-weights",
            ) from error
        raise _not_weights(file, start, error) from error
    except (AttributeError, ImportError) as error:  # a pickled class that is not here
        raise ModelFormatError(
            f"{file} needs code that is not here",
            got=essential_line(error),
            remedy="Install it, or run where it can be imported",
        ) from error
    except Exception as error:  # damaged archives raise RuntimeError, EOFError, ValueError, KeyError …
        raise _not_weights(file, start, error) from error


def _not_weights(file: Path, start: bytes, error: BaseException) -> ModelFormatError:
    if start.startswith(b"PK"):
        return ModelFormatError(
            f"{file} is damaged or truncated",
            got=f"{file.stat().st_size} bytes",
            remedy="Copy or download it again",
        )
    return ModelFormatError(
        f"{file} is not a weights file",
        got=f"{start[:8]!r} at its start",
        expected="a file written by torch.save",
    )


def _forbidden(file: Path, message: str) -> list[str]:
    """The functions and classes for which torch's safe loader refused a file."""
    import torch

    try:
        with quiet():
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))[:3]
    except Exception:  # an old file that is no zip archive, or one whose pickle cannot be read ahead
        return re.findall(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)", message)[:3]


def _load_safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise BackendUnavailableError(
            "safetensors is not installed", remedy="pip install safetensors"
        ) from error
    try:
        return load_file(file)
    except (SafetensorError, ValueError) as error:
        raise ModelFormatError(
            f"{file} is not a whole .safetensors file", got=essential_line(error)
        ) from error


def _search(value: Any, torch: Any, depth: int) -> tuple[dict[str, Any], str] | None:
    """Tensors by name in a checkpoint: it is them, a module that has them, or a dict that holds them."""
    if isinstance(value, torch.nn.Module):
        return value.state_dict(), ""
    if not isinstance(value, Mapping) or not value or depth == 0:
        return None
    if all(isinstance(key, str) for key in value) and _mostly_tensors(value, torch):
        return {key: entry for key, entry in value.items() if isinstance(entry, torch.Tensor)}, ""
    candidates = [key for key in _KEYS if key in value] or [
        key for key in value if isinstance(value[key], Mapping)
    ]
    for key in candidates:
        found = _search(value[key], torch, depth - 1)
        if found is not None:
            return found[0], ".".join(part for part in (str(key), found[1]) if part)
    return None


def _mostly_tensors(value: Mapping[Any, Any], torch: Any) -> bool:
    """A state dict may carry `_extra_state` beside its tensors; a checkpoint has few tensors of its own."""
    tensors = sum(isinstance(entry, torch.Tensor) for entry in value.values())
    return tensors > 0 and tensors * 2 > len(value)


def _strip_prefixes(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """Remove what wrappers put before every name, unless the module has such names itself."""
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            names = [name for name in state if not name.endswith(_UNTRAINED[1])]
            if (
                names
                and all(name.startswith(prefix) for name in names)
                and not all(n.startswith(prefix) for n in wanted)
            ):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _first(names: Sequence[str], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" … {more} more" if more > 0 else "")
