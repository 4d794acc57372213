"""Engines on the GPU: built, run by edgecnn's backend, compared with ONNX Runtime, and timed."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_check.networks import NETWORKS, make_network
from edgecnn.backends.onnxruntime import create_session
from edgecnn.backends.tensorrt import TensorRTBackend
from edgecnn.backends.tensorrt_library import Messages, make_logger

__all__ = ["check_flavour"]

Report = Callable[[str, str, str, dict[str, Any]], None]
"""name, state, words, figures."""

# Against the same graph in ONNX Runtime. FP32 may be computed in TF32 (10 bits of mantissa), FP16 sums in
# another order, and INT8 rounds ties elsewhere, which moves single values by one step of the grid.
LEAST_SQNR_DB = {"fp32": 45, "fp16": 35, "int8": 15, "as given": 15}


def check_flavour(trt: Any, models: Sequence[Path], report: Report, *, seconds: float) -> None:
    """Every sample network in every precision, the given models, and a dynamic batch, on one library."""
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            for precision in ("fp32", "fp16", "int8"):
                content = make_network(name, precision)
                _check(trt, f"{name} {precision}", content, precision, Path(folder), report, seconds)
        for path in models:
            _check(trt, path.name, path.read_bytes(), "as given", Path(folder), report, seconds)
        dynamic = make_network("residual", "fp16", batch="N")
        title = "residual fp16, batch 1 to 8"
        _check(trt, title, dynamic, "fp16", Path(folder), report, seconds, batches=(1, 8, 3))


def _check(
    trt: Any,
    name: str,
    content: bytes,
    precision: str,
    folder: Path,
    report: Report,
    seconds: float,
    *,
    batches: Sequence[int] = (1,),
) -> None:
    title = f"{trt.__name__}: {name}"
    try:
        state, words, figures = _check_engine(
            trt, content, precision, folder / "model.engine", batches, seconds
        )
    except Exception as error:  # whatever it is belongs into the table, and the next one is tried
        report(title, "failed", f"{type(error).__name__}: {error}", {})
    else:
        report(title, state, words, figures)


def _check_engine(
    trt: Any, content: bytes, precision: str, plan: Path, batches: Sequence[int], seconds: float
) -> tuple[str, str, dict[str, Any]]:
    """Build, run, compare; time each rate for so many seconds. Returns state, words and figures."""
    start = perf_counter()
    plan.write_bytes(_build(trt, content))
    build_s = perf_counter() - start
    start = perf_counter()
    backend = TensorRTBackend(plan, flavour=trt.__name__)
    load_s = perf_counter() - start
    try:
        reference = create_session(content, optimized=False)
        random = np.random.default_rng(2)
        sqnr = min(
            _sqnr_db(reference.run(None, feeds), backend.run(feeds))
            for feeds in (_feeds(backend, random, batch) for batch in batches for _ in range(3))
        )
        feeds = _feeds(backend, random, batches[0])
        expected = backend.run(feeds)
        repeats = _threads(backend, feeds, expected)
        one = _rate(backend, feeds, 1, seconds)
        several = _rate(backend, feeds, backend.concurrency, seconds)
        bare = _bare_rate(backend, seconds)
        leak = _leak(plan, trt)
    finally:
        backend.close()
    figures = {
        "build_s": round(build_s, 2), "load_s": round(load_s, 2), "sqnr_db": round(sqnr, 1),
        "graph": backend.graph, "runs_per_s": round(one), "runs_per_s_concurrent": round(several),
        "bare_runs_per_s": round(bare), "of_bare": round(several / bare, 2), "leak_mib": leak >> 20,
    }  # fmt: skip
    words = (
        f"{sqnr:.0f} dB, {one:.0f}/s alone, {several:.0f}/s by {backend.concurrency}, bare {bare:.0f}/s, "
        f"graph {backend.graph}"
    )
    good = sqnr >= LEAST_SQNR_DB[precision] and repeats and leak < 64 << 20
    if not repeats:
        words += "; threads got other results"
    if leak >= 64 << 20:
        words += f"; {leak >> 20} MiB gone"
    return ("ok" if good else "failed"), words, figures


def _build(trt: Any, content: bytes) -> bytes:
    """A plan by the library's own builder; free batches are built for 1 to 8."""
    messages = Messages()
    logger = make_logger(trt, messages)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        raise RuntimeError(f"the parser refuses it: {messages.take()}")
    config = builder.create_builder_config()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    free = [item for item in inputs if min(item.shape) < 0]
    if free:
        profile = builder.create_optimization_profile()
        for item in free:
            profile.set_shape(item.name, *(tuple(n if s < 0 else s for s in item.shape) for n in (1, 4, 8)))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError(f"the compiler refuses it: {messages.take()}")
    return bytes(plan)


def _feeds(backend: TensorRTBackend, random: np.random.Generator, batch: int) -> dict[str, NDArray[Any]]:
    feeds = {}
    for info in backend.inputs:
        shape = tuple(batch if side is None else side for side in info.shape)
        values = random.random(shape, np.float32)
        feeds[info.name] = (values * 255 if info.dtype == "uint8" else values).astype(info.dtype)
    return feeds


def _sqnr_db(expected: Sequence[NDArray[Any]], found: dict[str, NDArray[Any]]) -> float:
    """The least over the outputs of 10 · log10(Σ expected² / Σ (expected - found)²)."""
    worst = np.inf
    for one, other in zip(expected, found.values(), strict=True):
        reference = one.astype(np.float64)
        noise = float(((reference - other.astype(np.float64)) ** 2).sum())
        signal = float((reference**2).sum())
        worst = min(worst, 200.0 if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise)))
    return worst


def _threads(
    backend: TensorRTBackend, feeds: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]
) -> bool:
    """Whether 8 threads get, 20 times each, what one thread got."""
    same: list[bool] = []

    def ask() -> None:
        for _ in range(20):
            found = backend.run(feeds)
            same.append(all(np.array_equal(found[name], expected[name]) for name in expected))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(same) == 160 and all(same)


def _rate(backend: TensorRTBackend, feeds: dict[str, NDArray[Any]], threads: int, seconds: float) -> float:
    """Runs per second of so many threads."""
    counts = [0] * threads
    end = perf_counter() + seconds

    def ask(index: int) -> None:
        while perf_counter() < end:
            backend.run(feeds)
            counts[index] += 1

    workers = [threading.Thread(target=ask, args=(index,)) for index in range(threads)]
    start = perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (perf_counter() - start)


def _bare_rate(backend: TensorRTBackend, seconds: float) -> float:
    """Runs per second of nothing but enqueue on the first worker's stream: what the GPU can do."""
    worker = backend._workers[0]
    with worker.lock:

        def loop() -> float:
            enqueue = worker._enqueue if worker._graph is None else worker._graph.launch
            enqueue()
            worker._stream.synchronize()
            start, count = perf_counter(), 0
            while perf_counter() - start < seconds:
                for _ in range(20):
                    enqueue()
                worker._stream.synchronize()
                count += 20
            return count / (perf_counter() - start)

        return backend._cuda.call(loop)


def _leak(plan: Path, trt: Any) -> int:
    """Bytes of GPU memory that are gone after the engine was opened and closed ten times."""
    holder = TensorRTBackend(plan, flavour=trt.__name__, workers=1)
    TensorRTBackend(plan, flavour=trt.__name__).close()
    before = holder._cuda.call(holder._cuda.memory_bytes)[0]
    for _ in range(10):
        TensorRTBackend(plan, flavour=trt.__name__).close()
    after = holder._cuda.call(holder._cuda.memory_bytes)[0]
    holder.close()
    return max(0, before - after)
