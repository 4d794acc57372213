"""ONNX Runtime on the CPU: the default on a machine without TensorRT, and the reference for accuracy."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import BackendUnavailableError, ClosedError, InferenceError, ModelFormatError
from edgecnn.interrupts import interrupts_deferred

__all__ = ["OnnxRuntimeBackend", "create_session"]

_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(uint16)": "uint16", "tensor(int16)": "int16",
    "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64", "tensor(bool)": "bool",
}  # fmt: skip


class OnnxRuntimeBackend:
    """A model in an ONNX Runtime session; see `edgecnn.backends.Backend` and `create_session`."""

    name = "onnxruntime"
    concurrency = 1  # one inference keeps all its threads busy

    def __init__(
        self, model: str | os.PathLike[str] | bytes, *, threads: int | None = None, optimized: bool = True
    ) -> None:
        self._session: Any = create_session(model, threads=threads, optimized=optimized)
        self.device = "CPU" if threads is None else f"CPU, {threads} threads"
        self.inputs = tuple(_tensor_info(value) for value in self._session.get_inputs())
        self.outputs = tuple(_tensor_info(value) for value in self._session.get_outputs())
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._output_names = [info.name for info in self.outputs]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Backend.run`."""
        session = self._session
        if session is None:
            raise ClosedError("the model is closed", remedy="Load it again")
        try:
            values = session.run(self._output_names, feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise InferenceError("ONNX Runtime failed", got=_essence(error)) from error
        return dict(zip(self._output_names, values, strict=True))

    def close(self) -> None:
        """Drop the session; one that runs in another thread ends first."""
        self._session = None


def create_session(
    model: str | os.PathLike[str] | bytes,
    *,
    threads: int | None = None,
    optimized: bool = True,
    optimized_path: str | os.PathLike[str] | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Args:
        model: path, or the bytes of a model.
        threads: threads of one inference; ONNX Runtime's own choice (physical cores) where None.
        optimized: let ONNX Runtime fuse and reorder; False computes node by node as written.
        optimized_path: where to write the graph that ONNX Runtime makes of it, for reading back what it runs.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
        ModelFormatError: what it says of the model, in one line.
    """
    try:
        with interrupts_deferred():
            import onnxruntime
    except ImportError as error:
        raise BackendUnavailableError(
            "ONNX Runtime is not installed", got=str(error), remedy="pip install 'edgecnn[cpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures come back as exceptions; nothing else is printed
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized_path is not None:
        options.optimized_model_filepath = os.fspath(optimized_path)
    if needs_precise_int8():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        source = model if isinstance(model, bytes) else os.fspath(model)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above: no common base class
        raise _translate(model, error) from error


def needs_precise_int8() -> bool:
    """Whether this CPU multiplies uint8 by int8 with 16-bit sums that saturate: x86-64 without VNNI.

    Without ONNX Runtime's exact path, INT8 results would then depend on the machine. The path is not taken
    anywhere else: a CPU with VNNI would give the same bits, at a third of the speed.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True  # unknown: rather slow than wrong
    return "avx512_vnni" not in flags and "avx_vnni" not in flags


def _translate(model: str | os.PathLike[str] | bytes, error: Exception) -> ModelFormatError:
    """ONNX Runtime's message → what is wrong, got, expected, remedy."""
    name = "the model" if isinstance(model, bytes) else os.fspath(model)
    text = _essence(error)
    no_model = ("Protobuf parsing failed", "No graph was found in the protobuf", "does not have a graph")
    if any(words in text for words in no_model):
        start, size = (model[:8], len(model)) if isinstance(model, bytes) else _start_and_size(Path(model))
        return ModelFormatError(
            f"{name} is not a whole ONNX file",
            got=f"{size} bytes that start with {start!r}",
            expected="an ONNX model",
            remedy="Copy or export it again",
        )
    remedy = None
    if "opset" in text.lower() or "IR version" in text:
        remedy = "Export it again with --opset 19, or use a newer ONNX Runtime"
    elif "xternal data" in text or "No such file or directory" in text:
        remedy = "Copy the files that hold its weights to the same folder"
    return ModelFormatError(f"ONNX Runtime does not accept {name}", got=text, remedy=remedy)


def _start_and_size(path: Path) -> tuple[bytes, int]:
    with path.open("rb") as file:
        return file.read(8), path.stat().st_size


_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : "  # status
    r"|Load model from .*? failed:"
    r"|Exception during initialization: "
    r"|\S*onnxruntime\S*\.(?:cc|h):\d+ .*?\) (?=[A-Z[])"  # where in its source
    r"|\S+\.(?:cc|h):\d+ \w+ (?=[A-Z])"
)


def _essence(error: Exception) -> str:
    """The first line of ONNX Runtime's message without its status codes and C++ signatures."""
    lines = _NOISE.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")


def _tensor_info(value: Any) -> TensorInfo:
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in value.shape)
    dtype = _DTYPES.get(value.type)
    if dtype is None:
        raise ModelFormatError(f"{value.name} has a type that edgecnn does not handle", got=value.type)
    return TensorInfo(value.name, shape, str(np.dtype(dtype)))
