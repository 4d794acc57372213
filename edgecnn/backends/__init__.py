"""Backends: tensors in, tensors out. One Protocol, and one place where the choice is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BackendUnavailableError, InputError, ModelFormatError, ModelNotFoundError

__all__ = ["Backend", "FunctionBackend", "TensorInfo", "check_feeds", "open_backend"]

PLAN_SUFFIXES = (".engine", ".plan", ".trt")
BACKENDS = ("onnxruntime",)


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a model.

    Attributes:
        name: its name in the graph.
        shape: its sides; None where a side is free (a dynamic batch).
        dtype: NumPy name of its element type, such as `float32`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Backend(Protocol):
    """What the runtime needs of an inference library. `run` is safe from any thread.

    Attributes:
        name: the library: `onnxruntime`.
        device: where it computes, for people: `CPU`, or `CPU, 2 threads` where a number was asked for.
        metadata: the model's own key-value pairs (ONNX `metadata_props`).
    """

    name: str
    device: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Input name → C-contiguous array, to output name → array that belongs to the caller.

        Raises:
            InferenceError: the library failed.
        """

    def close(self) -> None:
        """Free what the model holds. A second call does nothing."""


def open_backend(
    path: str | os.PathLike[str], *, backend: str = "auto", threads: int | None = None
) -> tuple[Backend, str]:
    """Open a model file with the library that fits it.

    Args:
        path: an ONNX file.
        backend: `auto`, or the library's name; an explicit choice never falls back to another.
        threads: CPU threads of one inference; the library's own choice where None.

    Returns:
        The backend, and why it was chosen.

    Raises:
        ModelNotFoundError, ModelFormatError: no file, or none that a backend reads.
        BackendUnavailableError: the library is not installed, there is none of that name, or the file is a
            TensorRT plan.
    """
    file = Path(path)
    if backend not in ("auto", *BACKENDS):
        raise BackendUnavailableError(
            "unknown backend", got=backend, expected="one of " + ", ".join(("auto", *BACKENDS))
        )
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise ModelNotFoundError(f"model {file} {what}", expected="an ONNX file")
    if file.suffix in PLAN_SUFFIXES:
        raise BackendUnavailableError(
            f"cannot run {file}",
            got="a TensorRT plan, which this version builds and does not run",
            expected=".onnx",
            remedy=f"trtexec --loadEngine={file} runs it; `edgecnn inspect {file}` says what it is",
        )
    if file.suffix != ".onnx":
        raise ModelFormatError(
            f"cannot load {file}", got=f"a file that ends in {file.suffix or 'nothing'}", expected=".onnx"
        )
    from edgecnn.backends.onnxruntime import OnnxRuntimeBackend

    reason = "asked for" if backend != "auto" else "the one that runs .onnx files"
    return OnnxRuntimeBackend(file, threads=threads), reason


def check_feeds(inputs: tuple[TensorInfo, ...], feeds: Mapping[str, NDArray[Any]]) -> None:
    """Compare tensors with what a model takes, before a library fails in its own words. Raises InputError."""
    expected_names = {info.name for info in inputs}
    if set(feeds) != expected_names:
        raise InputError(
            "wrong inputs", got=", ".join(sorted(feeds)) or "none", expected=", ".join(sorted(expected_names))
        )
    for info in inputs:
        array = feeds[info.name]
        fits = len(array.shape) == len(info.shape) and all(
            side in (None, given) for side, given in zip(info.shape, array.shape, strict=True)
        )
        if not fits or array.dtype != np.dtype(info.dtype):
            sides = ", ".join("N" if side is None else str(side) for side in info.shape)
            raise InputError(
                f"wrong input {info.name}",
                got=f"{array.dtype} {tuple(array.shape)}",
                expected=f"{info.dtype} ({sides})",
            )


class FunctionBackend:
    """A backend around a Python function: for tests of what stands on a backend, and for one's own networks.

    Args:
        function: feeds → outputs, as `Backend.run`.
        inputs, outputs, metadata: what it says of itself.
    """

    name = "function"
    device = "Python"

    def __init__(
        self,
        function: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]],
        *,
        inputs: tuple[TensorInfo, ...],
        outputs: tuple[TensorInfo, ...],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.function = function
        self.inputs = inputs
        self.outputs = outputs
        self.metadata: Mapping[str, str] = dict(metadata or {})

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Call the function."""
        return self.function(feeds)

    def close(self) -> None:
        """Nothing to free."""
