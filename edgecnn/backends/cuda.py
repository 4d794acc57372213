"""CUDA through PyCUDA: the device's primary context, for any thread, and memory that CPU and GPU both see.

The primary context is the one that every CUDA library of a process shares. It is retained, and pushed and
popped around each use. `pycuda.autoinit` makes another context, on the thread that imports it, which is why
threaded programs see `invalid device context`. Importing this module imports nothing of PyCUDA.

PyCUDA as it is (read in the source of 2026.1), and what follows from it:

- Its objects are freed in the context in which they were made; with another one current, or none, freeing is
  a warning on stderr and a leak. So everything is freed inside `CudaContext.call`.
- A context that is left on a thread's stack aborts the process when the thread ends. So pushes and pops are
  paired although Ctrl-C may fall between any two calls.
- Its `Context.detach` releases the primary context but leaves it on the thread's stack in the driver; and a
  primary context that is not detached is destroyed wrongly. So it is detached, on a thread that then ends.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.cuda_driver import Driver
from edgecnn.errors import BackendUnavailableError, ClosedError
from edgecnn.interrupts import interrupts_deferred

__all__ = ["CudaContext", "SharedBuffer", "import_pycuda"]

_Value = TypeVar("_Value")

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, which other libraries use


def import_pycuda() -> Any:
    """`pycuda.driver`. Raises BackendUnavailableError: it is not installed, or there is no driver for it."""
    try:
        with interrupts_deferred():
            import pycuda.driver
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            "PyCUDA is not installed",
            got=str(error),
            remedy="pip install 'edgecnn[jetson]' on a Jetson, 'edgecnn[rtx]' on a PC; it compiles with the "
            "CUDA toolkit, nvcc in PATH",
        ) from error
    except ImportError as error:
        if "libcuda" in str(error):
            raise BackendUnavailableError(
                "no NVIDIA driver", got=str(error), remedy="`edgecnn doctor` says what this machine has"
            ) from error
        raise BackendUnavailableError(
            "PyCUDA cannot be imported",
            got=str(error),
            remedy="Compile it again against the CUDA that the driver serves: "
            "pip install --force-reinstall --no-cache-dir --no-binary pycuda pycuda",
        ) from error
    return pycuda.driver


class CudaContext:
    """The primary context of a device. `call` may be used from any thread; `close` frees it.

    Args:
        index: the device, among those that CUDA_VISIBLE_DEVICES leaves.

    Attributes:
        cuda: the module `pycuda.driver`; driver: the same library by ctypes.
        shares_memory: whether the GPU reads the CPU's memory in place (an integrated GPU, as on a Jetson).

    Raises:
        BackendUnavailableError: no PyCUDA, no driver, no such device.
        DeviceLostError: the process has lost the device before, and something still holds its context.
    """

    def __init__(self, index: int = 0) -> None:
        self.cuda = cuda = import_pycuda()
        self.driver = Driver()
        self._index = index
        self._context: Any = None
        try:
            cuda.init()
            device = cuda.Device(index)
            attribute = cuda.device_attribute
            self.shares_memory = bool(
                device.get_attribute(attribute.INTEGRATED)
                and device.get_attribute(attribute.CAN_MAP_HOST_MEMORY)
            )
            self._context = device.retain_primary_context()
            # A context that was lost before fails here. Waiting for it would, too, but not while any thread
            # captures a graph: that call fails then, and spoils the capture, in whatever mode.
            self.call(self.memory_bytes)
        except cuda.Error as error:
            raise self._translate("the GPU cannot be opened", error) from error
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[..., _Value], *arguments: Any) -> _Value:
        """Call a function with the context current on this thread. PyCUDA's errors become edgecnn's.

        CPython looks for signals after calls and at jumps back, so between the blocks below none arrives.
        """
        context = self._context
        if context is None:
            raise ClosedError("the GPU is closed")
        try:
            context.push()
        except self.cuda.Error as error:
            raise self._translate("the GPU cannot be used", error) from error
        except BaseException:  # Ctrl-C, after the push was done
            context.pop()
            raise
        try:
            return function(*arguments)
        except self.cuda.Error as error:
            raise self._translate("CUDA failed", error) from error
        finally:
            context.pop()

    def stream(self) -> Any:
        """A PyCUDA stream that runs beside all others. Wants the context current."""
        return self.cuda.Stream(_NON_BLOCKING)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory of the device. Wants the context current."""
        free, total = self.cuda.mem_get_info()
        return int(free), int(total)

    def close(self) -> None:
        """Release the context; with the last one that uses it, the driver frees all that is in it.

        A second call does nothing. PyCUDA's objects that were not freed before are dead afterwards, and make
        no noise when they go.
        """
        context, self._context = self._context, None
        if context is None:
            return

        def release() -> None:
            try:
                context.push()
            except self.cuda.Error:  # a lost context; detaching it here only marks PyCUDA's object
                context.detach()
                self.driver.release_primary(self._index)
            else:
                context.detach()

        _on_a_thread_that_ends(release)

    def _translate(self, what: str, error: Exception) -> Exception:
        """PyCUDA's error → ours; free memory is asked for while the context is still current."""
        said = str(error)
        code = self.driver.code_of(said)
        try:
            memory = self.memory_bytes() if isinstance(error, self.cuda.MemoryError) else None
        except self.cuda.Error:
            memory = None
        return self.driver.error(what, code, said, memory)


def _on_a_thread_that_ends(function: Callable[[], None]) -> None:
    """Call a function on a thread of its own and wait for it.

    Not by `threading`, whose locks the collector's caller may hold: this can run where garbage is collected.
    """
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            function()
        finally:
            done.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:  # the interpreter ends and starts no thread; this one's stack ends with it
        function()
    else:
        done.acquire()


class SharedBuffer:
    """Memory that both sides see: page-locked on the CPU, and on the GPU its copy or the same bytes.

    On an integrated GPU the page-locked memory is mapped and `upload` and `download` do nothing. All methods
    want the context current, and nothing may be running that uses the buffer when it grows or is freed.

    Args:
        capacity: bytes.

    Attributes:
        host: (capacity,) uint8, page-locked.
        address: on the device.
    """

    host: NDArray[np.uint8]
    address: int

    def __init__(self, context: CudaContext, capacity: int) -> None:
        self._cuda = context.cuda
        self._mapped = context.shares_memory
        self._device: Any = None
        self._pages: Any = None
        self._allocate(capacity)

    def ensure(self, capacity: int) -> None:
        """Make it this large or larger. What it held is lost where it grows."""
        if capacity > len(self.host):
            self.free()
            self._allocate(capacity)

    def upload(self, count: int, stream: Any) -> None:
        """Give the first `count` bytes to the GPU, in the stream's order."""
        if not self._mapped:
            self._cuda.memcpy_htod_async(self.address, self.host[:count], stream)

    def download(self, count: int, stream: Any) -> None:
        """Get the first `count` bytes from the GPU; they are there after the stream was waited for."""
        if not self._mapped:
            self._cuda.memcpy_dtoh_async(self.host[:count], self.address, stream)

    def free(self) -> None:
        """Free both sides. A second call does nothing."""
        if self._device is not None:
            self._device.free()
            self._device = None
        if self._pages is not None:
            self._pages.free()
            self._pages = None
        self.host, self.address = np.empty(0, np.uint8), 0

    def _allocate(self, capacity: int) -> None:
        flags = self._cuda.host_alloc_flags.DEVICEMAP if self._mapped else 0
        capacity = max(1, capacity)  # CUDA refuses nothing at all, and TensorRT wants an address
        self.host = self._cuda.pagelocked_empty(capacity, np.uint8, mem_flags=flags)
        self._pages = self.host.base
        if self._mapped:
            self.address = int(self._pages.get_device_pointer())
        else:
            try:
                self._device = self._cuda.mem_alloc(capacity)
            except BaseException:
                self.free()
                raise
            self.address = int(self._device)
        self.host[:] = 0  # what is run before the first frame must not meet NaN
