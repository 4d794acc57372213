"""An emulation of TensorRT's Python API on the emulated driver, for tests of what stands on it.

A "plan" is an ONNX model with its optimization profiles; an "engine" runs it by ONNX Runtime, on the memory
that was bound, in the order of the stream that it was given. Only names that the real API has are here, which
tests/backends/test_emulation.py compares with the real `tensorrt_rtx`. Like the real library it answers with
False or None, logs why, and wants a current CUDA context, also where its objects are destroyed.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

MAGIC = b"emulated plan\n"
cuda: Any = ctypes.CDLL("libcuda.so.1")
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
cuda.emu_resolve.restype = ctypes.c_void_p
cuda.emu_resolve.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
cuda.emu_call.argtypes = [ctypes.c_void_p, _CALLBACK, ctypes.c_void_p]
cuda.emu_spoil.argtypes = [ctypes.c_void_p]
cuda.cuMemAlloc_v2.argtypes = [ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t]
cuda.cuMemFree_v2.argtypes = [ctypes.c_uint64]
cuda.cuStreamSynchronize.argtypes = [ctypes.c_void_p]


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class TensorFormat(enum.Enum):
    LINEAR, CHW4 = range(2)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, INT64 = range(7)


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: Severity, msg: str) -> None: ...


class IOutputAllocator: ...


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0


_TYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32), "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(uint8)": (DataType.UINT8, np.uint8), "tensor(int8)": (DataType.INT8, np.int8),
    "tensor(int32)": (DataType.INT32, np.int32), "tensor(int64)": (DataType.INT64, np.int64),
    "tensor(bool)": (DataType.BOOL, np.bool_),
}  # fmt: skip


def make_plan(
    model: bytes, profiles: list[dict[str, list[list[int]]]] | None = None, **options: Any
) -> bytes:
    """What the emulated runtime takes.

    Args:
        model: an ONNX file.
        profiles: for each, input → its smallest, best and largest shape.
        options: `capturable=False` for an engine that no graph can hold; `layout="CHW4"`; `scratch` in bytes;
            `fault=700` for one whose kernel fails with this code when the first input is all 13.
    """
    header = json.dumps({"profiles": profiles or [], **options}).encode()
    return MAGIC + struct.pack("<I", len(header)) + header + model


class _Memory:
    """Device memory of the library's own; freed with a current context, which the driver checks."""

    def __init__(self, size: int) -> None:
        address = ctypes.c_uint64()
        self.code = cuda.cuMemAlloc_v2(ctypes.byref(address), size)
        self.address = address.value

    def __del__(self) -> None:
        if self.code == 0:
            cuda.cuMemFree_v2(self.address)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger
        self.DLA_core = -1
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        plan = bytes(serialized_engine)
        if not plan.startswith(MAGIC):
            _error(self.logger, "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
            return None
        start = len(MAGIC) + 4
        (size,) = struct.unpack("<I", plan[len(MAGIC) : start])
        options = json.loads(plan[start : start + size])
        weights = _Memory(len(plan))
        if weights.code:
            _cuda_error(self.logger, weights.code)
            return None
        return ICudaEngine(self.logger, plan[start + size :], options, weights)


class ICudaEngine:
    def __init__(self, logger: ILogger, model: bytes, options: dict[str, Any], weights: _Memory) -> None:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = 1
        if options.get("exact"):
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        self._logger, self._options, self._weights = logger, options, weights
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        self._values = {value.name: value for value in values}
        self._inputs = [value.name for value in self._session.get_inputs()]

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._options["profiles"]))

    @property
    def device_memory_size_v2(self) -> int:
        return int(self._options.get("scratch", 1 << 16))

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._values)[index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[self._values[name].type][0]

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat[self._options.get("layout", "LINEAR")]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in self._values[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._options["profiles"][profile_index][name]]

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        scratch = _Memory(self.device_memory_size_v2)
        if scratch.code:
            _cuda_error(self._logger, scratch.code)
            return None
        return IExecutionContext(self, scratch)

    def _view(self, name: str, address: int, shape: tuple[int, ...]) -> Any:
        dtype = np.dtype(_TYPES[self._values[name].type][1])
        count = math.prod(shape)
        host = cuda.emu_resolve(address, count * dtype.itemsize)
        if not host:
            return None
        raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(host)
        return np.frombuffer(memoryview(raw).cast("B"), dtype, count).reshape(shape)

    def _write(self, addresses: dict[str, int], values: dict[str, Any]) -> None:
        for name, value in values.items():
            view = self._view(name, addresses[name], value.shape)
            if view is None:
                cuda.emu_fault(700)
            else:
                view[...] = value


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, scratch: _Memory) -> None:
        self._engine, self._scratch = engine, scratch
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._profile = 0
        self._shapes = {name: engine.get_tensor_shape(name) for name in engine._inputs}
        self._kept: deque[Any] = deque(maxlen=4096)  # callbacks that are queued, or that a graph calls again

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._values or memory % 256:
            return self._fail(f"setTensorAddress: {name} at {memory:#x}")
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self._allocators[name] = output_allocator
        return True

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            self._fail("setOptimizationProfileAsync: no such profile")
            raise RuntimeError("Error in set optimization profile async.")  # the binding, not False
        self._profile = profile_index
        self._shapes = {name: self._engine.get_tensor_shape(name) for name in self._engine._inputs}
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        least, _, largest = self._engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(least) or any(
            not low <= side <= high for low, side, high in zip(least, shape, largest, strict=True)
        ):
            return self._fail(f"setInputShape: Static dimension mismatch or out of range: {tuple(shape)}")
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        known: dict[str, int] = {}
        for item in self._engine._session.get_inputs():
            known.update(
                (side, given)
                for side, given in zip(item.shape, self._shapes[item.name], strict=True)
                if isinstance(side, str)
            )
        sides = self._engine._values[name].shape
        return tuple(side if isinstance(side, int) else known.get(side, -1) for side in sides)

    def execute_async_v3(self, stream_handle: int) -> bool:
        names = self._engine._inputs
        if any(-1 in shape for shape in self._shapes.values()):
            return self._fail("enqueueV3: an input shape is not specified")
        if not self._engine._options.get("capturable", True) and cuda.emu_spoil(stream_handle):
            return self._fail(
                "enqueueV3: Error Code 1: Cuda Runtime (operation not permitted when stream is capturing)"
            )
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        outputs = [name for name in self._engine._values if name not in names]
        if any(name not in addresses for name in (*names, *(set(outputs) - self._allocators.keys()))):
            return self._fail("enqueueV3: an address is not set")
        if self._allocators:
            return self._execute_now(stream_handle, names, outputs)

        engine = self._engine  # and not self: the callback would keep what keeps it

        def execute(_: Any) -> None:
            feeds = {name: engine._view(name, addresses[name], shapes[name]) for name in names}
            if any(feed is None for feed in feeds.values()):
                cuda.emu_fault(700)
            elif engine._options.get("fault") and np.all(feeds[names[0]] == 13):
                cuda.emu_fault(engine._options["fault"])
            else:
                values = engine._session.run(outputs, feeds)
                engine._write(addresses, dict(zip(outputs, values, strict=True)))

        return self._enqueue(stream_handle, execute)

    def _execute_now(self, stream: int, names: list[str], outputs: list[str]) -> bool:
        """Where the data decide the size of an output, the real library waits for it too."""
        if code := cuda.emu_spoil(stream) or cuda.cuStreamSynchronize(stream):
            return self._fail_cuda(code)
        engine = self._engine
        feeds = {name: engine._view(name, self._addresses[name], self._shapes[name]) for name in names}
        values = dict(zip(outputs, self._engine._session.run(outputs, feeds), strict=True))
        addresses = dict(self._addresses)
        for name, allocator in self._allocators.items():
            addresses[name] = allocator.reallocate_output_async(name, 0, values[name].nbytes, 256, stream)
            if not addresses[name]:
                return self._fail(f"enqueueV3: no memory for {name}")
            allocator.notify_shape(name, values[name].shape)

        return self._enqueue(stream, lambda _: engine._write(addresses, values))

    def _enqueue(self, stream: int, function: Callable[[Any], None]) -> bool:
        callback = _CALLBACK(function)
        self._kept.append(callback)
        if code := cuda.emu_call(stream, callback, None):
            return self._fail_cuda(code)
        return True

    def _fail(self, text: str) -> bool:
        _error(self._engine._logger, f"IExecutionContext::{text}")
        return False

    def _fail_cuda(self, code: int) -> bool:
        _cuda_error(self._engine._logger, code)
        return False


def _error(logger: ILogger, text: str) -> None:
    logger.log(ILogger.Severity.ERROR, text)


def _cuda_error(logger: ILogger, code: int) -> None:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(code, ctypes.byref(text))
    _error(logger, f"[emulation.cpp::call::1] Error Code 1: Cuda Runtime ({(text.value or b'?').decode()})")


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ITensor:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


class INetworkDefinition:
    def __init__(self) -> None:
        self._model = b""
        self._inputs: list[ITensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger

    def parse(self, model: bytes) -> bool:
        try:
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        except Exception as error:
            _error(self._logger, str(error))
            return False
        self._network._model = model
        self._network._inputs = [
            ITensor(item.name, tuple(side if isinstance(side, int) else -1 for side in item.shape))
            for item in session.get_inputs()
        ]
        return True


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]


class IBuilderConfig:
    def __init__(self) -> None:
        self._profiles: list[dict[str, list[list[int]]]] = []

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        return make_plan(network._model, config._profiles, exact=True)
