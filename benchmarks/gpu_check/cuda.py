"""What CUDA and PyCUDA must do for edgecnn, without TensorRT: contexts, memory, streams, graphs, ends.

Each check is a function that returns what it found, in words, or raises. `Skipped` says why one cannot run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from edgecnn.backends.cuda import CudaContext, SharedBuffer
from edgecnn.backends.cuda_driver import Graph
from edgecnn.errors import DeviceLostError, EdgeCNNError, InferenceError

__all__ = ["CUDA_CHECKS", "Skipped"]

# Kernels in PTX, which every driver compiles for its GPU: y[i] += value; and one that writes to address 16.
PTX = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry add(.param .u64 p, .param .u32 n, .param .f32 value)
{
  .reg .pred %out; .reg .b32 %r<6>; .reg .b64 %a<4>; .reg .f32 %f<3>;
  ld.param.u64 %a1, [p]; ld.param.u32 %r1, [n]; ld.param.f32 %f1, [value];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %out, %r5, %r1;
  @%out ret;
  cvta.to.global.u64 %a1, %a1;
  mul.wide.u32 %a2, %r5, 4; add.s64 %a3, %a1, %a2;
  ld.global.f32 %f2, [%a3]; add.f32 %f2, %f2, %f1; st.global.f32 [%a3], %f2;
  ret;
}
.visible .entry stray()
{
  .reg .b64 %a; .reg .b32 %r;
  mov.u64 %a, 16; mov.u32 %r, 1; st.global.u32 [%a], %r;
  ret;
}
\0"""


class Skipped(Exception):
    """A check that cannot run here; the message says why."""


def contexts() -> str:
    """Eight threads push and pop the primary context, and each leaves its stack empty."""
    context = CudaContext()
    left: list[Any] = []

    def use() -> None:
        for _ in range(500):
            context.call(context.cuda.Context.synchronize)
        left.append(context.cuda.Context.get_current())

    _threads(8, use)
    context.close()
    _expect(left == [None] * 8, f"contexts left on stacks: {left}")
    return "8 threads × 500 pushes"


def copies() -> str:
    """Random bytes go to the GPU and come back; how fast, page-locked."""
    size = 64 << 20
    context = CudaContext()

    def use() -> str:
        stream, source, target = context.stream(), SharedBuffer(context, size), SharedBuffer(context, size)
        source.host[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        start = perf_counter()
        source.upload(size, stream)
        stream.synchronize()
        up_s = perf_counter() - start
        context.cuda.memcpy_dtod_async(target.address, source.address, size, stream)
        stream.synchronize()
        start = perf_counter()
        target.download(size, stream)
        stream.synchronize()
        down_s = perf_counter() - start
        same = bool((source.host == target.host).all())
        source.free()
        target.free()
        _expect(same, "the bytes that came back are others")
        if context.shares_memory:
            return "64 MiB, in place: CPU and GPU share it"
        return f"up {size / up_s / 1e9:.1f} GB/s, down {size / down_s / 1e9:.1f} GB/s"

    return _in_context(context, use)


def mapped() -> str:
    """Page-locked memory that the GPU writes in place; what an integrated GPU uses."""
    context = CudaContext()

    def use() -> str:
        stream = context.stream()
        pages = context.cuda.pagelocked_zeros(
            1 << 20, np.uint8, mem_flags=context.cuda.host_alloc_flags.DEVICEMAP
        )
        address = int(pages.base.get_device_pointer())
        context.cuda.memset_d8_async(address, 7, 1 << 19, stream)
        stream.synchronize()
        seen = int(pages.sum())
        pages.base.free()
        _expect(seen == 7 << 19, "the CPU does not see what the GPU wrote")
        return "the CPU sees what the GPU wrote"

    return _in_context(context, use)


def order() -> str:
    """A stream waits for another one's event."""
    context = CudaContext()

    def use() -> str:
        one, other, event = context.stream(), context.stream(), context.cuda.Event()
        size = 8 << 20
        source, target = SharedBuffer(context, size), SharedBuffer(context, size)
        for value in range(1, 21):
            context.cuda.memset_d8_async(source.address, value, size, one)
            event.record(one)
            other.wait_for_event(event)
            context.cuda.memcpy_dtod_async(target.address, source.address, size, other)
            target.download(size, other)
            other.synchronize()
            _expect(bool((target.host == value).all()), f"turn {value}: the second stream did not wait")
        source.free()
        target.free()
        return "20 turns of 8 MiB"

    return _in_context(context, use)


def graphs() -> str:
    """Upload, copy and download in one CUDA graph, replayed; against the same three calls."""
    context = CudaContext()

    def use() -> str:
        stream, one, other = context.stream(), SharedBuffer(context, 4096), SharedBuffer(context, 4096)

        def enqueue() -> None:
            one.upload(4096, stream)
            context.cuda.memcpy_dtod_async(other.address, one.address, 4096, stream)
            other.download(4096, stream)

        graph = Graph(context.driver, stream.handle)
        graph.capture(enqueue)
        timed = []
        for launch in (enqueue, graph.launch):
            start = perf_counter()
            for value in range(1000):
                one.host[:] = value % 251
                launch()
                stream.synchronize()
                _expect(int(other.host[77]) == value % 251, f"replay {value} gave {other.host[77]}")
            timed.append(1e3 * (perf_counter() - start))
        graph.free()
        one.free()
        other.free()
        return f"1000 replays, {timed[1]:.1f} µs each; {timed[0]:.1f} µs without a graph"

    return _in_context(context, use)


def kernels() -> str:
    """A kernel from PTX, alone and in a graph."""
    context = CudaContext()

    def use() -> str:
        add = _module(context).get_function("add")
        stream, buffer, count = context.stream(), SharedBuffer(context, 4 * 4096), 4096

        def launch() -> None:
            arguments = (np.uint64(buffer.address), np.uint32(count), np.float32(0.5))
            add(*arguments, grid=(16, 1), block=(256, 1, 1), stream=stream)

        launch()
        graph = Graph(context.driver, stream.handle)
        graph.capture(launch)
        for _ in range(99):
            graph.launch()
        buffer.download(4 * count, stream)
        stream.synchronize()
        right = bool((buffer.host.view(np.float32) == 50).all())
        graph.free()
        buffer.free()
        _expect(right, "the sum is wrong")
        return "one launch and 99 replays"

    return _in_context(context, use)


def leaks() -> str:
    """Memory is there again after 20 contexts with streams, graphs and 48 MiB each."""
    holder = CudaContext()  # so that the driver's own memory stays
    before = holder.call(holder.memory_bytes)[0]
    for _ in range(20):
        context = CudaContext()

        def use(context: CudaContext = context) -> None:
            stream, buffer = context.stream(), SharedBuffer(context, 48 << 20)
            graph = Graph(context.driver, stream.handle)
            graph.capture(lambda: context.cuda.memset_d8_async(buffer.address, 0, 1 << 20, stream))
            graph.launch()
            stream.synchronize()
            graph.free()
            buffer.free()

        context.call(use)
        context.close()
    lost = before - holder.call(holder.memory_bytes)[0]
    holder.close()
    _expect(lost < 16 << 20, f"{lost >> 20} MiB are gone")
    return f"{lost >> 20} MiB of 960 gone"


def out_of_memory() -> str:
    """More than there is: an error in words, and everything works afterwards."""
    context = CudaContext()

    def use() -> str:
        total = context.memory_bytes()[1]
        try:
            context.call(context.cuda.mem_alloc, 2 * total)
        except InferenceError as error:
            message = str(error)
        else:
            raise AssertionError(f"{2 * total} bytes were given")
        buffer = SharedBuffer(context, 1 << 20)
        buffer.free()
        _expect("out of GPU memory" in message, message)
        return message

    return _in_context(context, use)


def lost_device() -> str:
    """A kernel that writes where it must not, in a process of its own: what is said, and opening again."""
    return _child("lose")


def ends() -> str:
    """A process that closes nothing ends with 0 and prints nothing."""
    return _child("leave")


def fork() -> str:
    """A forked process is told that CUDA does not work there, and ends silently."""
    return _child("fork")


CUDA_CHECKS: dict[str, Callable[[], str]] = {
    "contexts, threads": contexts,
    "copies": copies,
    "mapped memory": mapped,
    "streams, events": order,
    "graph": graphs,
    "kernel, graph of it": kernels,
    "leaks": leaks,
    "out of memory": out_of_memory,
    "device lost": lost_device,
    "end of a process": ends,
    "fork": fork,
}


def _child(what: str) -> str:
    """Run one of `_CHILDREN` in a process; it must end with 0 and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check.cuda", what],
        capture_output=True, text=True, timeout=120, env=os.environ,
    )  # fmt: skip
    if done.returncode == 3:
        raise Skipped(done.stdout.strip())
    _expect(done.returncode == 0 and not done.stderr, f"exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def _lose() -> str:
    context = CudaContext()

    def stray() -> None:
        _KEPT.append(_module(context).get_function("stray"))  # unloading it would fail, and PyCUDA say so
        _KEPT[0](grid=(1, 1), block=(1, 1, 1))
        context.cuda.Context.synchronize()

    try:
        context.call(stray)
    except DeviceLostError as error:
        said = error.got
    else:
        raise AssertionError("nothing was said")
    context.close()
    try:
        CudaContext().close()
    except EdgeCNNError as error:
        return f"{said}; opening it again in the same process does not work: {error.got}"
    return f"{said}; opening it again in the same process works"


def _leave() -> str:
    from edgecnn.backends.lifetime import watch

    class Holder:
        def __init__(self) -> None:
            self.context = CudaContext()
            self.kept = self.context.call(
                lambda: (self.context.stream(), SharedBuffer(self.context, 1 << 20))
            )

        def finish(self, timeout_s: float | None) -> None:
            self.context.call(self.free)
            self.context.close()

        def free(self) -> None:
            self.kept[1].free()
            self.kept = ()  # type: ignore[assignment]

        def forsake(self) -> None: ...

    _KEPT.append(Holder())
    watch(_KEPT[0])
    return "exit code 0, nothing on stderr"


def _fork() -> str:
    CudaContext().close()
    reader, writer = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 and later: the driver has threads
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            CudaContext()
            os.write(writer, b"it opened")
        except EdgeCNNError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    os.waitpid(child, 0)
    _expect("spawn" in said, said)
    return said


_CHILDREN = {"lose": _lose, "leave": _leave, "fork": _fork}
_KEPT: list[Any] = []


def _module(context: CudaContext) -> Any:
    try:
        return context.cuda.module_from_buffer(PTX)
    except context.cuda.Error as error:
        if "not supported" in str(error):
            raise Skipped(f"no kernels here: {error}") from error
        raise


def _in_context(context: CudaContext, function: Callable[[], str]) -> str:
    try:
        return context.call(function)
    finally:
        context.close()


def _threads(count: int, function: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


if __name__ == "__main__":
    try:
        print(_CHILDREN[sys.argv[1]]())
    except Skipped as skipped:
        print(skipped)
        sys.exit(3)
