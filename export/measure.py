"""What a lowered graph really does: its operators after ONNX Runtime's optimizations, its latency, its accuracy."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np

from edgecnn.backends.onnxruntime import OnnxRuntimeBackend, create_session
from edgecnn.compare import Agreement, compare
from edgecnn.dataset import FrameSet
from edgecnn.model import Model
from edgecnn.progress import Progress, no_progress
from edgecnn.timing import percentiles_ms

__all__ = ["compiled_operators", "convolutions", "measure_accuracy", "measure_latency"]

_Name = TypeVar("_Name", bound=str)


def compiled_operators(content: bytes) -> dict[str, int]:
    """What ONNX Runtime runs after its optimizations: operator → count, the most frequent first."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        create_session(content, optimized_path=path)
        counts = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    return dict(counts.most_common())


def convolutions(operators: Mapping[str, int], precision: str) -> dict[str, int]:
    """Convolutions by the precision they run in, from the operators that are run.

    What is not an integer kernel runs in the graph's float type: FP32, in an INT8 graph too.
    """
    integer = sum(count for name, count in operators.items() if name in ("QLinearConv", "ConvInteger"))
    total = sum(count for name, count in operators.items() if "Conv" in name and "Transpose" not in name)
    floating = "fp16" if precision == "fp16" else "fp32"
    return {name: count for name, count in (("int8", integer), (floating, total - integer)) if count}


def measure_latency(
    models: Mapping[_Name, bytes],
    *,
    threads: int | None = None,
    rounds: int = 50,
    warm_up: int = 5,
    limit_s: float = 20.0,
    progress: Progress = no_progress,
) -> dict[_Name, dict[str, float]]:
    """Latency of one inference of each, in milliseconds: `p50`, `p90`, `p99`, `mean`.

    The models take turns, so that a machine that is busy meanwhile slows all of them alike. Slow models get
    fewer rounds, at least ten, to stay near `limit_s` seconds.
    """
    sessions = {name: create_session(content, threads=threads) for name, content in models.items()}
    samples: dict[_Name, list[float]] = {name: [] for name in sessions}
    random = np.random.default_rng(0)
    end = perf_counter() + limit_s
    for turn in range(warm_up + rounds):
        if turn >= warm_up + 10 and perf_counter() > end:
            break
        for name, session in sessions.items():
            info = session.get_inputs()[0]
            shape = [side if isinstance(side, int) else 1 for side in info.shape]
            values = random.standard_normal(shape, np.float32)
            start = perf_counter()
            session.run(None, {info.name: values})
            if turn >= warm_up:
                samples[name].append((perf_counter() - start) * 1e3)
        progress("measuring", turn + 1, warm_up + rounds)
    return {name: percentiles_ms(values) for name, values in samples.items()}


def measure_accuracy(
    reference: bytes, other: bytes, frames: FrameSet, *, threads: int | None = None, progress: Progress = no_progress
) -> Agreement:
    """Compare two models, given as the bytes of their ONNX files, on the same frames in ONNX Runtime."""
    with (
        Model(OnnxRuntimeBackend(reference, threads=threads), name="the FP32 model") as first,
        Model(OnnxRuntimeBackend(other, threads=threads), name="the lowered model") as second,
    ):
        return compare(first, second, frames, total=frames.count, progress=progress)
