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
BACKENDS = ("onnxruntime", "tensorrt", "tensorrt_rtx")


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
        name: the library: `onnxruntime`, `tensorrt` or `tensorrt_rtx`.
        device: where it computes, for people: `CPU`, `CPU, 2 threads` where a number was asked for, `Orin`.
        concurrency: how many calls of `run` at once pay; more are taken, and wait.
        metadata: the model's own key-value pairs (ONNX `metadata_props`, or from a plan's sidecar).
    """

    name: str
    device: str
    concurrency: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Input name → C-contiguous array, to output name → array that belongs to the caller.

        Raises:
            InferenceError: the library failed.
            DeviceLostError: the GPU failed; close this and open the model again.
        """

    def close(self) -> None:
        """Free what the model holds. A second call does nothing."""


def open_backend(
    path: str | os.PathLike[str], *, backend: str = "auto", threads: int | None = None
) -> tuple[Backend, str]:
    """Open a model file with the library that fits it.

    Args:
        path: an ONNX file, or a TensorRT plan with the sidecar that `edgecnn build` wrote beside it.
        backend: `auto`, or the library's name; an explicit choice never falls back to another.
        threads: CPU threads of one inference; the library's own choice where None. Refused for a plan.

    Returns:
        The backend, and why it was chosen.

    Raises:
        ModelNotFoundError, ModelFormatError: no file, none that this backend reads, or a plan that does not
            fit this machine.
        BackendUnavailableError: the library is not installed, none has that name, or a plan finds no GPU.
        InputError: `threads` for a plan.
        InferenceError: not enough GPU memory for a plan.
    """
    file = Path(path)
    if backend not in ("auto", *BACKENDS):
        raise BackendUnavailableError(
            "unknown backend", got=backend, expected="one of " + ", ".join(("auto", *BACKENDS))
        )
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise ModelNotFoundError(f"model {file} {what}", expected="an ONNX file")
    is_plan = file.suffix in PLAN_SUFFIXES
    if not is_plan and file.suffix != ".onnx":
        raise ModelFormatError(
            f"cannot load {file}",
            got=f"a file that ends in {file.suffix or 'nothing'}",
            expected=f".onnx, or {', '.join(PLAN_SUFFIXES)} for a TensorRT plan",
        )
    if backend != "auto" and is_plan == (backend == "onnxruntime"):
        target, plan = backend.replace("_", "-"), file.with_suffix(".engine")
        raise ModelFormatError(
            f"{backend} does not run {file}",
            got="a TensorRT plan" if is_plan else "an ONNX file",
            expected=".onnx" if is_plan else "a plan",
            remedy="Give the ONNX file that it was built from"
            if is_plan
            else f"edgecnn build {file} --target {target} -o {plan}",
        )
    if is_plan:
        return _open_plan(file, backend, threads)
    from edgecnn.backends.onnxruntime import OnnxRuntimeBackend

    reason = "asked for" if backend != "auto" else "the one that runs .onnx files"
    return OnnxRuntimeBackend(file, threads=threads), reason


def _open_plan(file: Path, backend: str, threads: int | None) -> tuple[Backend, str]:
    from edgecnn.backends.tensorrt import TensorRTBackend

    if threads is not None:
        raise InputError("threads cannot be honoured", got=f"a plan, {file}, which runs on the GPU")
    opened = TensorRTBackend(file, flavour=None if backend == "auto" else backend)
    return opened, "asked for" if backend != "auto" else "the one that built the plan"


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
    concurrency = 1

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
