"""`auto`: of each tensor's candidate ranges, the one that disturbs least what the layers behind it compute.

The error that counts is not that of the tensor but that of the layers that read it: with x the columns that
such a layer with weights W reads in the float network, and q(x) the same through the candidate's grid,

    Σ (W · q(x) − W · x)²

over some frames and all layers that read the tensor. An error in a channel that no weight takes up costs
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgecnn.calibration.grams import layer_of
from edgecnn.calibration.observers import TensorStats
from edgecnn.calibration.ranges import METHODS, choose_range
from edgecnn.calibration.stream import Stream
from edgecnn.export.placement import is_anchor, scale_source
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import LEVELS, ActivationRange

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["select_ranges"]

_POSITIONS = 32  # of each feature map: many frames tell more of outliers than many places of a few


def select_ranges(
    model: ir.Model,
    stats: Mapping[str, TensorStats],
    inputs: Sequence[NDArray[np.float32]],
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, ActivationRange]:
    """The range of each tensor; `percentile` for one that no layer reads, which TensorRT does not quantize.

    Args:
        model: the float model.
        stats: of its tensors, with histograms.
        inputs: the network's input tensor for some frames.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as layers are done.
    """
    candidates = {
        name: {entry.amax: entry for entry in (choose_range(seen, method) for method in METHODS)}
        for name, seen in stats.items()
    }
    errors: dict[str, dict[float, float]] = {
        name: dict.fromkeys(ranges, 0.0) for name, ranges in candidates.items()
    }
    read: set[str] = set()
    stream = Stream(model, inputs, threads=threads)
    layers = [node for node in model.graph if is_anchor(node)]
    for done, node in enumerate(layers):
        progress("choosing ranges", done + 1, len(layers))
        layer, value, weight = layer_of(node), node.inputs[0], node.inputs[1]
        source = None if value is None else str(scale_source(value).name)
        if layer is None or source not in candidates or weight is None or weight.const_value is None:
            continue
        read.add(source)
        if len(candidates[source]) == 1:
            continue
        stream.advance(str(node.outputs[0].name), {})
        matrix = layer.matrix(weight.const_value.numpy()).astype(np.float32)
        assert value is not None
        for index in range(len(inputs)):
            columns = layer.columns(stream.tensor(index, str(value.name)), index, _POSITIONS)
            for amax in candidates[source]:
                scale = np.float32(amax / LEVELS)
                difference = np.clip(np.rint(columns / scale), -LEVELS, LEVELS) * scale - columns
                moved = matrix @ difference
                errors[source][amax] += float(np.vdot(moved, moved))
    return {
        name: ranges[min(ranges, key=lambda amax, name=name: (errors[name][amax], -amax))]  # type: ignore[misc]
        if name in read
        else choose_range(stats[name], "percentile")
        for name, ranges in candidates.items()
    }
