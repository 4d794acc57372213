"""One execution of a TensorRT engine at a time: execution context, stream, buffers, perhaps a CUDA graph.

Everything here wants the CUDA context current, and the worker's lock held. The names of TensorRT's API are
those that TensorRT 10.3 to 11 and TensorRT for RTX share.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.backends.cuda import CudaContext, SharedBuffer
from edgecnn.backends.cuda_driver import Graph
from edgecnn.errors import DeviceLostError, EdgeCNNError, InputError, ModelFormatError

__all__ = ["Profile", "Worker", "read_profiles", "read_tensors"]

Profile = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Input → its smallest and largest shape."""

Failure = Callable[[str], Exception]
"""What TensorRT logged, as an exception: it answers with False or None."""

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def read_tensors(trt: Any, engine: Any) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The inputs and outputs of an engine.

    Raises:
        ModelFormatError: one is of a type, format or place that NumPy's arrays cannot serve.
    """
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype, layout = engine.get_tensor_dtype(name).name, engine.get_tensor_format(name).name
        on_cpu = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        if dtype not in _DTYPES or layout != "LINEAR" or on_cpu:
            raise ModelFormatError(
                f"the engine's tensor {name} is of a kind that edgecnn does not handle",
                got=f"{dtype}, {layout}" + (", a shape that stays on the CPU" if on_cpu else ""),
                expected="LINEAR and one of " + ", ".join(_DTYPES),
                remedy="Build the engine without its own input and output formats",
            )
        shape = tuple(None if side < 0 else int(side) for side in engine.get_tensor_shape(name))
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(TensorInfo(name, shape, _DTYPES[dtype]))
    return tuple(inputs), tuple(outputs)


def read_profiles(engine: Any, inputs: Sequence[TensorInfo]) -> tuple[Profile, ...]:
    """The ranges of shapes that an engine was built for; at least one."""
    profiles = []
    for index in range(max(1, engine.num_optimization_profiles)):
        ranges = {}
        for info in inputs:
            fixed = tuple(side for side in info.shape if side is not None)
            least, largest = fixed, fixed
            if len(fixed) < len(info.shape):
                shapes = engine.get_tensor_profile_shape(info.name, index)
                least, largest = tuple(map(int, shapes[0])), tuple(map(int, shapes[2]))
            ranges[info.name] = (least, largest)
        profiles.append(ranges)
    return tuple(profiles)


@dataclass(eq=False)
class _Slot:
    """One input or output of one worker."""

    name: str
    dtype: np.dtype[Any]
    buffer: SharedBuffer
    fixed: bool
    shape: tuple[int, ...] = ()
    nbytes: int = 0

    def set_shape(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.nbytes = math.prod(shape) * self.dtype.itemsize

    @property
    def array(self) -> NDArray[Any]:
        """What the CPU sees of it, in the present shape."""
        return self.buffer.host[: self.nbytes].view(self.dtype).reshape(self.shape)


class Worker:
    """Runs an engine; many of one engine run beside each other and share its weights.

    Args:
        cuda: whose context is current.
        trt: the library; engine: of it.
        inputs, outputs, profiles: the engine's.
        failed: makes an exception of what TensorRT logged last.

    Attributes:
        lock: to be held while the worker is used.
        graph: `on`, or `off: ` and why. With a graph, uploads, inference and downloads are one call.

    Raises:
        InferenceError: no memory for it.
    """

    def __init__(
        self,
        cuda: CudaContext,
        trt: Any,
        engine: Any,
        *,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        profiles: Sequence[Profile],
        failed: Failure,
    ) -> None:
        self.lock = threading.Lock()
        self._cuda = cuda
        self._profiles = profiles
        self._failed = failed
        self._in_flight = False
        self._shapes_set = False  # whether TensorRT knows the slots' shapes
        self._graph: Graph | None = None
        self._inputs: list[_Slot] = []
        self._outputs: list[_Slot] = []
        self._allocators: dict[str, Any] = {}
        self._stream: Any = None
        self._context: Any = None
        try:
            self._stream = cuda.stream()
            self._context = engine.create_execution_context()
            if self._context is None:
                raise failed("no execution context")
            self._profile = 0
            for info in inputs:
                largest = max((profile[info.name][1] for profile in profiles), key=math.prod)
                self._inputs.append(self._slot(info, largest))
            self._set_shapes([profiles[0][info.name][1] for info in inputs])
            for info in outputs:
                self._add_output(trt, info)
            fixed = not self._allocators and all(None not in info.shape for info in inputs)
            self.graph = self._prepare() if fixed else "off: shapes are not fixed"
        except BaseException:
            self.free()
            raise

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Input name → array that fits a profile, to output name → array that is the caller's.

        Raises:
            InputError: a shape that the engine was not built for.
            InferenceError, DeviceLostError: TensorRT or CUDA failed.
        """
        if self._in_flight:  # the call before this was interrupted; TensorRT wants its buffers left alone
            self._finish()
        if self._graph is None:
            self._set_shapes([feeds[slot.name].shape for slot in self._inputs])
        for slot in self._inputs:
            np.copyto(slot.array, feeds[slot.name])
        self._in_flight = True
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()
        self._finish()
        # Copied, since the next call writes here. Handing out page-locked memory itself would take an
        # allocation of it a call (said to cost more than such copies; not measured).
        return {slot.name: slot.array.copy() for slot in self._outputs}

    def free(self) -> None:
        """Wait for what runs and free everything. A second call does nothing."""
        if self._stream is not None and self._in_flight:
            self._stream.synchronize()
        if self._graph is not None:
            self._graph.free()
            self._graph = None
        self.free_context()
        for slot in (*self._inputs, *self._outputs):
            slot.buffer.free()
        self._inputs, self._outputs = [], []
        self._stream = None

    def free_context(self) -> None:
        """Let go of what is TensorRT's, and wait for nothing: all that a lost device lets one do."""
        self._context = None  # before the memory that it points to
        self._allocators.clear()
        self._graph = None
        self._in_flight = False

    def _slot(self, info: TensorInfo, shape: tuple[int, ...]) -> _Slot:
        dtype = np.dtype(info.dtype)
        size = math.prod(shape) * dtype.itemsize
        slot = _Slot(info.name, dtype, SharedBuffer(self._cuda, size), fixed=None not in info.shape)
        slot.set_shape(shape)
        self._bind(slot)
        return slot

    def _bind(self, slot: _Slot) -> None:
        if not self._context.set_tensor_address(slot.name, slot.buffer.address):
            raise self._failed(f"TensorRT does not take the memory of {slot.name}")

    def _add_output(self, trt: Any, info: TensorInfo) -> None:
        """Memory for the largest output of any profile; where the data decide, memory as it is asked for."""
        shapes = []
        for index in reversed(range(len(self._profiles))):  # so that the first one is set in the end
            self._use_profile(index)
            self._set_shapes([self._profiles[index][slot.name][1] for slot in self._inputs])
            shapes.append(tuple(map(int, self._context.get_tensor_shape(info.name))))
        if min(min(shape, default=0) for shape in shapes) >= 0:
            self._outputs.append(self._slot(info, max(shapes, key=math.prod)))
            return
        slot = _Slot(info.name, np.dtype(info.dtype), SharedBuffer(self._cuda, 1), fixed=False)
        self._outputs.append(slot)
        allocator = self._allocators[info.name] = _allocator(trt, slot)
        if not self._context.set_output_allocator(info.name, allocator):
            raise self._failed(f"TensorRT does not take an allocator for {info.name}")

    def _set_shapes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Tell TensorRT the inputs' shapes where they are others than before."""
        if all(slot.shape == shape for slot, shape in zip(self._inputs, shapes, strict=True)):
            if self._shapes_set:
                return
        elif not self._fits(self._profile, shapes):
            index = next((i for i in range(len(self._profiles)) if self._fits(i, shapes)), None)
            if index is None:
                raise self._out_of_range(shapes)
            self._use_profile(index)
        for slot, shape in zip(self._inputs, shapes, strict=True):
            slot.set_shape(shape)
            if not slot.fixed and not self._context.set_input_shape(slot.name, shape):
                raise self._failed(f"TensorRT does not take the shape {shape} for {slot.name}")
        self._shapes_set = True

    def _fits(self, index: int, shapes: Sequence[tuple[int, ...]]) -> bool:
        ranges = [self._profiles[index][slot.name] for slot in self._inputs]
        return all(
            len(shape) == len(least)
            and all(low <= side <= high for low, side, high in zip(least, shape, largest, strict=True))
            for shape, (least, largest) in zip(shapes, ranges, strict=True)
        )

    def _out_of_range(self, shapes: Sequence[tuple[int, ...]]) -> InputError:
        built = " or ".join(
            ", ".join(f"{name} {least} to {largest}" for name, (least, largest) in profile.items())
            for profile in self._profiles
        )
        got = ", ".join(f"{slot.name} {shape}" for slot, shape in zip(self._inputs, shapes, strict=True))
        return InputError("a shape that the engine was not built for", got=got, expected=built)

    def _use_profile(self, index: int) -> None:
        if index == self._profile:
            return
        try:  # the one call whose binding does not answer with False
            self._context.set_optimization_profile_async(index, self._stream.handle)
        except RuntimeError as error:
            raise self._failed(f"TensorRT does not take profile {index}") from error
        self._stream.synchronize()
        self._profile = index
        self._shapes_set = False  # TensorRT forgets them; of addresses its documentation says nothing
        for slot in (*self._inputs, *self._outputs):
            if slot.name not in self._allocators:
                self._bind(slot)

    def _enqueue(self) -> None:
        """Give upload, inference and download to the stream. Shapes of outputs are known when it returns."""
        for slot in self._inputs:
            slot.buffer.upload(slot.nbytes, self._stream)
        for slot in self._outputs:
            if slot.name not in self._allocators:
                slot.set_shape(tuple(map(int, self._context.get_tensor_shape(slot.name))))
                if slot.nbytes > len(slot.buffer.host):  # a network whose output shrinks with its input
                    slot.buffer.ensure(slot.nbytes)
                    self._bind(slot)
        if not self._context.execute_async_v3(self._stream.handle):
            for allocator in self._allocators.values():
                if allocator.error is not None:
                    raise allocator.take_error()
            raise self._failed("TensorRT failed")
        for slot in self._outputs:
            slot.buffer.download(slot.nbytes, self._stream)

    def _finish(self) -> None:
        self._stream.synchronize()
        self._in_flight = False

    def _prepare(self) -> str:
        """Run once, as TensorRT wants it before a capture, then record; says whether there is a graph."""
        self._in_flight = True
        self._enqueue()
        self._finish()
        graph: Graph | None = None
        try:
            graph = Graph(self._cuda.driver, self._stream.handle)
            graph.capture(self._enqueue)
        except AttributeError as error:
            return f"off: the driver has no {error.name or 'graphs'}"
        except DeviceLostError:
            raise
        except (EdgeCNNError, self._cuda.cuda.Error) as error:  # PyCUDA's, of a copy in a spoiled capture
            self._stream.synchronize()  # raises where more is wrong than that
            return f"off: {getattr(error, 'got', None) or error}"
        self._graph = graph
        return "on"


def _allocator(trt: Any, slot: _Slot) -> Any:
    """Gives memory for an output whose size only the data decide; grows, never shrinks."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # the base is known when this runs
        error: Exception | None = None

        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def take_error(self) -> Exception | None:
            error, self.error = self.error, None
            return error

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            try:  # an exception would be printed by TensorRT, and lost
                slot.buffer.ensure(size)
            except Exception as error:
                self.error = error
                return 0
            return slot.buffer.address

        def reallocate_output_async(
            self, name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Any) -> None:
            slot.set_shape(tuple(map(int, shape)))

    return Allocator()
