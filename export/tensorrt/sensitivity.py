"""Which layers INT8 harms most: each alone is quantized, everything else is FP32, and the error is measured.

    error(layer) = Σ (FP32 output − output with this layer in INT8)² / Σ (FP32 output)²

summed over a few frames, in ONNX Runtime, with Q/DQ where the lowering puts it. Errors of single layers add
up only roughly, so the ranking is a proposal: what is built from it is measured as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.export.tensorrt.lowered import Source
from edgecnn.metadata import QUANTIZATION_KEY
from edgecnn.preprocess import Preprocessor
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable

__all__ = ["rank_layers"]


def rank_layers(
    source: Source, frames: Sequence[NDArray[np.uint8]], *, progress: Progress = no_progress
) -> tuple[str, ...]:
    """The names of the layers that INT8 is for, the most sensitive first.

    Args:
        source: a calibrated model.
        frames: (H, W, 3) uint8 BGR each; a handful is enough to rank.
    """
    from edgecnn.backends.onnxruntime import OnnxRuntimeBackend
    from edgecnn.export.graph import to_bytes
    from edgecnn.export.lowering.tensorrt_int8 import quantize
    from edgecnn.export.lowering.tensorrt_placement import make_plan
    from edgecnn.export.placement import name_of

    table = QuantizationTable.from_json(source.graph.metadata_props[QUANTIZATION_KEY])
    layers = [name_of(node) for node in make_plan(source.graph.graph, table).layers]
    errors = {}
    assert source.spec is not None
    exact = OnnxRuntimeBackend(to_bytes(source.graph))
    try:
        info = exact.inputs[0]
        prepare = Preprocessor(source.spec.image, batch=info.shape[0] or 1)
        tensors = []
        for frame in frames:
            prepare(frame)
            tensors.append(prepare.tensor.copy())
        expected = [exact.run({info.name: tensor}) for tensor in tensors]
    finally:
        exact.close()
    for index, layer in enumerate(layers):
        one = source.graph.clone()
        quantize(one.graph, table, set(one.graph), leave=[name for name in layers if name != layer])
        backend = OnnxRuntimeBackend(to_bytes(one))
        try:
            got = [backend.run({info.name: tensor}) for tensor in tensors]
        finally:
            backend.close()
        errors[layer] = _error(expected, got)
        progress("ranking layers", index + 1, len(layers))
    return tuple(sorted(layers, key=lambda name: -errors[name]))


def _error(expected: Sequence[dict[str, NDArray[Any]]], got: Sequence[dict[str, NDArray[Any]]]) -> float:
    """The largest relative error of any output; what is not finite counts as the worst there is."""
    worst = 0.0
    for name in expected[0]:
        right = np.concatenate([outputs[name].ravel() for outputs in expected]).astype(np.float64)
        found = np.concatenate([outputs[name].ravel() for outputs in got]).astype(np.float64)
        error = float(((right - found) ** 2).sum() / max(float((right**2).sum()), 1e-30))
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst
