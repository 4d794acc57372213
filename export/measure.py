"""What a lowered graph really does: its operators in ONNX Runtime, its latency, its accuracy."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgecnn.backends.onnxruntime import OnnxRuntimeBackend, create_session
from edgecnn.compare import Agreement, compare
from edgecnn.dataset import FrameSet
from edgecnn.export.fp16_reference import as_fp16_computes
from edgecnn.export.graph import to_bytes
from edgecnn.interrupts import interrupts_deferred
from edgecnn.metadata import SPEC_KEY
from edgecnn.model import Model
from edgecnn.progress import Progress, no_progress
from edgecnn.spec import ModelSpec
from edgecnn.timing import percentiles_ms

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "Compiled",
    "check_spec",
    "compiled",
    "compiled_operators",
    "measure_accuracy",
    "measure_latency",
    "time_models",
]

_Name = TypeVar("_Name", bound=str)

_ROUNDS_AT_LEAST = 10


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What ONNX Runtime runs on this machine.

    Attributes:
        operators: operator → count, the most frequent first.
        convolutions: precision → how many convolutions are computed in it. An FP16 graph runs in FP32 where
            the CPU has no FP16 kernels, and what has no integer kernel runs in FP32 in an INT8 graph too.
    """

    operators: Mapping[str, int]
    convolutions: Mapping[str, int]


def compiled(content: bytes) -> Compiled:
    """Read back what ONNX Runtime makes of a model, given as the bytes of its file."""
    with interrupts_deferred():
        import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        create_session(content, optimized_path=path)
        graph = onnx.load(path, load_external_data=False).graph
    operators = Counter(node.op_type for node in graph.node)
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    precisions = Counter(
        # the kernel's type is its weights': casts that ONNX Runtime adds around it are folded into them
        "int8"
        if node.op_type in ("QLinearConv", "ConvInteger")
        else "fp16"
        if weights.get(node.input[1]) == onnx.TensorProto.FLOAT16
        else "fp32"
        for node in graph.node
        if "Conv" in node.op_type and "Transpose" not in node.op_type
    )
    return Compiled(operators=dict(operators.most_common()), convolutions=dict(sorted(precisions.items())))


def compiled_operators(content: bytes) -> Mapping[str, int]:
    """The operators alone; see `compiled`."""
    return compiled(content).operators


def check_spec(model: ir.Model, spec: ModelSpec | None, *, name: str) -> ModelSpec:
    """The spec that the model will be used with, its own where None, written into its metadata.

    Args:
        model: changed in place.
        spec: used instead of the model's own.
        name: what to call the model in messages.

    Raises:
        SpecError: there is none, or it does not fit the graph.
        ModelFormatError: ONNX Runtime does not accept the graph.
    """
    with Model(OnnxRuntimeBackend(to_bytes(model)), spec, name=name) as opened:
        model.metadata_props[SPEC_KEY] = opened.spec.to_json()
        return opened.spec


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
    with contextlib.ExitStack() as stack:
        opened = {
            name: stack.enter_context(Model(OnnxRuntimeBackend(content, threads=threads)))
            for name, content in models.items()
        }
        return time_models(opened, rounds=rounds, warm_up=warm_up, limit_s=limit_s, progress=progress)


def time_models(
    models: Mapping[_Name, Model],
    *,
    rounds: int = 50,
    warm_up: int = 5,
    limit_s: float = 20.0,
    progress: Progress = no_progress,
) -> dict[_Name, dict[str, float]]:
    """As `measure_latency`, for models that are open, on whatever backend: tensors in, tensors out."""
    samples: dict[_Name, list[float]] = {name: [] for name in models}
    random = np.random.default_rng(0)
    end = perf_counter() + limit_s
    for turn in range(warm_up + rounds):
        if turn >= warm_up + _ROUNDS_AT_LEAST and perf_counter() > end:
            break
        for name, model in models.items():
            shape = (model.input.shape[0] or 1, *(side or 1 for side in model.input.shape[1:]))
            values = random.standard_normal(shape, np.float32)
            if model.input.dtype != "float32":  # a camera's bytes
                values = random.integers(0, 256, shape).astype(model.input.dtype)
            start = perf_counter()
            model.backend.run({model.input.name: values})
            if turn >= warm_up:
                samples[name].append((perf_counter() - start) * 1e3)
        progress("measuring", turn + 1, warm_up + rounds)
    return {name: percentiles_ms(values) for name, values in samples.items()}


def measure_accuracy(
    reference: bytes,
    other: bytes,
    frames: FrameSet,
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Agreement:
    """Compare two models, given as the bytes of their ONNX files, on the same frames in ONNX Runtime.

    FP16 in the second one counts as FP16 hardware computes it; see `edgecnn.export.fp16_reference`.
    """
    with (
        Model(OnnxRuntimeBackend(reference, threads=threads), name="the FP32 model") as first,
        Model(
            OnnxRuntimeBackend(as_fp16_computes(other), threads=threads), name="the lowered model"
        ) as second,
    ):
        return compare(first, second, frames, total=frames.count, progress=progress)
