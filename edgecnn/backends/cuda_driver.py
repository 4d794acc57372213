"""NVIDIA's driver by ctypes, for what PyCUDA lacks: codes of errors, and CUDA graphs on a stream's handle.

Signatures are those of the driver API of CUDA 11.4 and later (`cuda.h`). The library is the one that PyCUDA
has loaded already; nothing here makes a context.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Callable, Iterator
from typing import Any

from edgecnn.errors import BackendUnavailableError, DeviceLostError, InferenceError

__all__ = ["Driver", "Graph"]

_OUT_OF_MEMORY = 2

# Codes after which the driver answers every call in the context with the same error. Its header says that the
# process must be started again; whether a context that is made anew works depends on the driver.
_LOST = {
    201: "no valid context: another library reset the GPU",
    214: "an uncorrectable memory error (ECC)",
    700: "an illegal memory access",
    702: "a kernel took too long and was ended",
    709: "the context is destroyed: another library reset the GPU",
    710: "an assertion in a kernel",
    714: "a hardware stack error",
    715: "an illegal instruction",
    716: "a misaligned address",
    717: "an invalid address space",
    718: "an invalid program counter",
    719: "a kernel crashed",
    999: "an unknown error",
}

# Code → what it means here and what helps, where no GPU can be had at all.
_UNAVAILABLE = {
    3: (
        "the driver cannot be initialized",
        "A process forked from one that used CUDA cannot use it: start it with multiprocessing's spawn",
    ),
    35: ("the driver is too old for the CUDA libraries here", "Update the driver, or JetPack"),
    34: ("libcuda.so.1 is the toolkit's stub", "Take the folder of stubs out of LD_LIBRARY_PATH"),
    46: ("the GPU is busy", "Another program holds it alone (exclusive compute mode): end that program"),
    100: ("no CUDA device", "Check nvidia-smi and CUDA_VISIBLE_DEVICES; in a container, --runtime nvidia"),
    101: ("no device of that number", "Check CUDA_VISIBLE_DEVICES"),
    803: ("the driver's parts have different versions", "Restart the machine after an update of the driver"),
    804: ("the driver is too old for the CUDA libraries here", "Update the driver, or JetPack"),
}

_KNOWN = (_OUT_OF_MEMORY, *_LOST, *_UNAVAILABLE)

# Other threads cannot spoil a capture then, but by waiting for the whole context, which fails.
_CAPTURE_THREAD_LOCAL = 1
_POINTER = ctypes.c_void_p


class Driver:
    """The driver's library. Raises BackendUnavailableError where there is none."""

    def __init__(self, library: str = "libcuda.so.1") -> None:
        try:
            self._library: Any = ctypes.CDLL(library)
            self._text = self._library.cuGetErrorString
        except (OSError, AttributeError) as error:
            raise BackendUnavailableError(
                "no NVIDIA driver", got=str(error), remedy="`edgecnn doctor` says what this machine has"
            ) from error
        self._text.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]

    def text(self, code: int) -> str:
        """What the driver says of a code; empty for one that it does not know."""
        text = ctypes.c_char_p()
        self._text(code, ctypes.byref(text))
        return (text.value or b"").decode(errors="replace")

    def code_of(self, message: str) -> int | None:
        """The code behind PyCUDA's message, `cuMemAlloc failed: out of memory`: it keeps only the text."""
        _, _, said = message.partition(" failed: ")
        return next((code for code in _KNOWN if (text := self.text(code)) and said.startswith(text)), None)

    def code_in(self, log: str) -> int | None:
        """The code in TensorRT's messages.

        `(cudaError 35: …)`, `CUDA initialization failure with error: 35`, `Cuda Runtime (out of memory)`.
        """
        for number in re.findall(r"(?:cudaError|CUDA initialization failure with error:?) (\d+)", log):
            if int(number) in _KNOWN:
                return int(number)
        if "OutOfMemory" in log:
            return _OUT_OF_MEMORY
        return next((code for code in _KNOWN if (text := self.text(code)) and f"({text})" in log), None)

    def error(
        self, what: str, code: int | None, said: str, memory: tuple[int, int] | None = None
    ) -> Exception:
        """The exception for a code: cause and remedy.

        Args:
            what: what could not be done.
            code: None where it is not one of those above.
            said: the driver's or PyCUDA's own words.
            memory: free and total bytes, if known.
        """
        if code in _UNAVAILABLE:
            meaning, remedy = _UNAVAILABLE[code]
            return BackendUnavailableError(what, got=f"{meaning} ({said})", remedy=remedy)
        if code in _LOST:
            return DeviceLostError(
                what,
                got=f"{_LOST[code]} ({said})",
                remedy="Close every model on this GPU and load it again; if that fails too, start the "
                "process again",
            )
        if code == _OUT_OF_MEMORY:
            free = f", {memory[0] >> 20} of {memory[1] >> 20} MiB free" if memory else ""
            return InferenceError(
                what,
                got=f"out of GPU memory{free}",
                remedy="Close other models and programs, or build with a smaller batch or a lower precision",
            )
        return InferenceError(what, got=said)

    def release_primary(self, device: int) -> None:
        """Give back one retained reference to the primary context; an error is no news where this is used."""
        self._library.cuDevicePrimaryCtxRelease_v2(device)

    def function(self, name: str, *types: Any) -> Any:
        """A function that raises what `error` makes of its code; AttributeError where it is missing."""
        function = getattr(self._library, name)
        function.argtypes = types
        function.restype = ctypes.c_int

        def call(*arguments: Any) -> None:
            code = function(*arguments)
            if code:
                raise self.error(f"{name} failed", code, self.text(code))

        return call


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """What the collector finds may free GPU memory, which spoils a capture on the same thread."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Graph:
    """What one stream was given between `begin` and `end`, launched again with one call.

    All methods want the context current. Raises InferenceError where something cannot be captured, and
    AttributeError with a driver that has no graphs.

    Args:
        stream: the handle of a stream that is not the default one.
    """

    def __init__(self, driver: Driver, stream: int) -> None:
        self._stream = stream
        self._executable = _POINTER()
        self._begin = driver.function("cuStreamBeginCapture_v2", _POINTER, ctypes.c_int)
        self._end = driver.function("cuStreamEndCapture", _POINTER, ctypes.POINTER(_POINTER))
        self._instantiate = driver.function(
            "cuGraphInstantiateWithFlags", ctypes.POINTER(_POINTER), _POINTER, ctypes.c_ulonglong
        )
        self._launch = driver.function("cuGraphLaunch", _POINTER, _POINTER)
        self._destroy_graph = driver.function("cuGraphDestroy", _POINTER)
        self._destroy = driver.function("cuGraphExecDestroy", _POINTER)

    def capture(self, enqueue: Callable[[], object]) -> None:
        """Record what `enqueue()` gives to the stream, without running it. Whatever it raises is raised."""
        with _no_collection():
            graph = self._record(enqueue)
        try:
            self._instantiate(ctypes.byref(self._executable), graph, 0)
        finally:
            self._destroy_graph(graph)

    def _record(self, enqueue: Callable[[], object]) -> ctypes.c_void_p:
        graph = _POINTER()
        self._begin(self._stream, _CAPTURE_THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            # the stream must leave the capture; that this fails too is known already
            with contextlib.suppress(InferenceError):
                self._end(self._stream, ctypes.byref(graph))
                self._destroy_graph(graph)
            raise
        self._end(self._stream, ctypes.byref(graph))
        return graph

    def launch(self) -> None:
        """Give the recorded work to the stream."""
        self._launch(self._executable, self._stream)

    def free(self) -> None:
        """Destroy it; nothing of it may be running. A second call does nothing."""
        executable, self._executable = self._executable, _POINTER()
        if executable:
            self._destroy(executable)
