"""PyCUDA itself, on the emulated driver: contexts, memory, graphs, errors."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edgecnn.backends.cuda import CudaContext, SharedBuffer
from edgecnn.backends.cuda_driver import Graph
from edgecnn.errors import BackendUnavailableError, ClosedError, DeviceLostError, InferenceError
from tests.emulation.conftest import Emulation


@pytest.fixture
def context(emulation: Emulation) -> Iterator[CudaContext]:
    context = CudaContext()
    yield context
    context.close()


def test_it_is_retained_once_and_released(emulation: Emulation) -> None:
    one, other = CudaContext(), CudaContext()
    assert emulation.state() == {"references": 2}
    one.close()
    one.close()
    assert emulation.state() == {"references": 1}
    assert other.call(lambda: 7) == 7
    other.close()
    with pytest.raises(ClosedError):
        other.call(lambda: 7)


def test_nothing_stays_on_the_threads_stack(context: CudaContext, emulation: Emulation) -> None:
    assert context.call(lambda: emulation["depth"]) == 1
    assert emulation["depth"] == 0
    with pytest.raises(ZeroDivisionError):
        context.call(lambda: 1 // 0)
    assert emulation["depth"] == 0


def test_an_interrupt_at_any_moment_leaves_the_stack_as_it_was(
    context: CudaContext, emulation: Emulation
) -> None:
    """A KeyboardInterrupt where CPython looks for signals: after every call in `call` itself, in turn."""

    class Interruption(BaseException):
        pass

    class Interrupting:
        """The context, whose methods are done and then interrupted."""

        def __init__(self, inner: Any, method: str) -> None:
            self._inner, self._method = inner, method

        def __getattr__(self, name: str) -> Any:
            def call() -> None:
                getattr(self._inner, name)()
                if name == self._method:
                    raise Interruption

            return call

    inner = context._context
    for method in ("push", "pop"):
        context._context = Interrupting(inner, method)
        if method == "push":
            with pytest.raises(Interruption):
                context.call(lambda: None)
            assert emulation["depth"] == 0
    context._context = inner


def test_a_buffer_from_any_thread(context: CudaContext, emulation: Emulation) -> None:
    """Made on one thread, used on a second, freed on a third."""
    made: list[Any] = []
    data = np.arange(100, dtype=np.uint8)

    def make() -> None:
        made.extend((context.stream(), SharedBuffer(context, 100), SharedBuffer(context, 100)))

    def use() -> None:
        stream, source, target = made
        source.host[:] = data
        source.upload(100, stream)
        context.cuda.memcpy_dtod_async(target.address, source.address, 100, stream)
        target.download(100, stream)
        stream.synchronize()
        made.append(target.host.copy())

    def free() -> None:
        for buffer in made[1:3]:
            buffer.free()
            buffer.free()
        made[:3] = []

    for step in (make, use, free):
        thread = threading.Thread(target=context.call, args=(step,))
        thread.start()
        thread.join()
    np.testing.assert_array_equal(made[0], data)
    assert emulation.state() == {"references": 1}


@pytest.mark.parametrize("integrated", [False, True])
def test_an_integrated_gpu_reads_the_same_bytes(emulation: Emulation, integrated: bool) -> None:
    emulation.set(integrated=int(integrated))
    context = CudaContext()
    assert context.shares_memory == integrated

    def use() -> None:
        stream, buffer = context.stream(), SharedBuffer(context, 64)
        buffer.host[:] = 7
        buffer.upload(64, stream)
        context.cuda.memset_d8_async(buffer.address, 9, 32, stream)
        buffer.download(64, stream)
        stream.synchronize()
        assert buffer.host.tolist() == [9] * 32 + [7] * 32
        assert emulation["device"] == (0 if integrated else 1)
        buffer.ensure(10)
        assert len(buffer.host) == 64
        buffer.ensure(1000)
        assert len(buffer.host) == 1000
        assert not buffer.host.any()
        buffer.free()

    before = emulation["copies"]
    context.call(use)
    assert (emulation["copies"] - before == 0) == integrated
    context.close()


def test_a_graph_replays_copies(context: CudaContext, emulation: Emulation) -> None:
    def use() -> None:
        stream, one, other = context.stream(), SharedBuffer(context, 8), SharedBuffer(context, 8)

        def enqueue() -> None:
            one.upload(8, stream)
            context.cuda.memcpy_dtod_async(other.address, one.address, 8, stream)
            other.download(8, stream)

        graph = Graph(context.driver, stream.handle)
        graph.capture(enqueue)
        assert not other.host.any()  # recorded, not run
        for value in (1, 2, 3):
            one.host[:] = value
            graph.launch()
            stream.synchronize()
            assert other.host.tolist() == [value] * 8
        graph.free()
        graph.free()
        one.free()
        other.free()

    context.call(use)
    assert emulation.state() == {"references": 1}


def test_what_cannot_be_captured_says_so_and_leaves_the_stream_usable(
    context: CudaContext, emulation: Emulation
) -> None:
    def use() -> None:
        stream = context.stream()
        graph = Graph(context.driver, stream.handle)
        with pytest.raises(InferenceError, match="operation not permitted when stream is capturing"):
            graph.capture(lambda: context.call(stream.synchronize))
        with pytest.raises(ZeroDivisionError):
            graph.capture(lambda: 1 // 0)
        stream.synchronize()
        graph.free()

    context.call(use)
    emulation.forget()


def test_a_context_can_be_opened_while_another_thread_captures(context: CudaContext) -> None:
    """Waiting for the whole GPU would fail then, and spoil the capture; the emulation says so as a driver."""
    opened: list[CudaContext] = []

    def meanwhile() -> None:
        thread = threading.Thread(target=lambda: opened.append(CudaContext()))
        thread.start()
        thread.join()

    def use() -> None:
        stream = context.stream()
        graph = Graph(context.driver, stream.handle)
        graph.capture(meanwhile)
        graph.free()

    context.call(use)
    opened[0].close()


def test_nothing_is_collected_during_a_capture(context: CudaContext) -> None:
    """Garbage may hold GPU memory, and freeing it then would spoil the capture."""
    seen: list[bool] = []

    def use() -> None:
        stream = context.stream()
        graph = Graph(context.driver, stream.handle)
        graph.capture(lambda: seen.append(gc.isenabled()))
        with pytest.raises(ZeroDivisionError):
            graph.capture(lambda: 1 // 0)
        graph.free()

    context.call(use)
    assert (seen, gc.isenabled()) == ([False], True)


def test_a_driver_without_graphs(context: CudaContext, emulation: Emulation) -> None:
    emulation.set(graphs=0)

    def use() -> None:
        with pytest.raises(
            InferenceError, match="cuStreamBeginCapture_v2 failed: got operation not supported"
        ):
            Graph(context.driver, context.stream().handle).capture(lambda: None)

    context.call(use)


def test_out_of_memory_says_how_much_is_free(context: CudaContext, emulation: Emulation) -> None:
    emulation.set(total=64 << 20)
    kept = context.call(SharedBuffer, context, 40 << 20)
    with pytest.raises(InferenceError, match=r"out of GPU memory, 24 of 64 MiB free.*Close other models"):
        context.call(SharedBuffer, context, 25 << 20)
    assert emulation.state() == {"device": 1, "pinned": 1, "references": 1}  # the half that fitted is freed
    context.call(kept.free)


def test_a_lost_device_can_be_opened_again(emulation: Emulation) -> None:
    context = CudaContext()
    buffers = [context.call(SharedBuffer, context, 100)]
    emulation.set(lost=700)
    with pytest.raises(DeviceLostError, match=r"an illegal memory access .*load it again"):
        context.call(context.cuda.Context.synchronize)
    with pytest.raises(DeviceLostError):
        CudaContext()  # as long as somebody holds the lost context
    context.close()
    buffers[0].free()
    again = CudaContext()
    again.call(SharedBuffer, again, 100).free  # noqa: B018
    again.close()
    emulation.forget()


@pytest.mark.parametrize(
    ("code", "words"),
    [(709, "another library reset the GPU"), (719, "a kernel crashed"), (214, "ECC"), (999, "unknown error")],
)
def test_codes_become_causes(emulation: Emulation, code: int, words: str) -> None:
    context = CudaContext()
    emulation.set(lost=code)
    with pytest.raises(DeviceLostError, match=words):
        context.call(context.cuda.Context.synchronize)
    context.close()


def test_no_device(emulation: Emulation) -> None:
    emulation.set(devices=0)
    with pytest.raises(BackendUnavailableError, match=r"no CUDA device .*CUDA_VISIBLE_DEVICES"):
        CudaContext()
    emulation.set(devices=1)
    with pytest.raises(BackendUnavailableError, match="no device of that number"):
        CudaContext(1)


def test_the_emulation_catches_what_it_is_there_for(
    emulation: Emulation, capfd: pytest.CaptureFixture[str]
) -> None:
    """Freed in the wrong context, PyCUDA's objects leak and complain: here too."""
    context = CudaContext()
    with pytest.raises(context.cuda.LogicError, match="invalid device context"):
        context.cuda.mem_alloc(10)
    allocation = context.call(context.cuda.mem_alloc, 10)
    assert emulation["device"] == 1
    thread = threading.Thread(target=context.close)
    thread.start()
    thread.join()
    assert emulation["orphans"] == 1
    allocation.free()  # dead with its context: silent
    assert capfd.readouterr().err == ""
    emulation.forget()
