"""Which tensors get all 254 steps of TensorRT's grid: see `edgecnn.export.lowering.tensorrt_centring`.

Where it is free, all that it is possible for. Where a reader pads its input and a Pad has to be added,
only the tensors that matter: those which alone, with everything else in float, make at least a
hundredth of the error of the outputs that all quantized activations make together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgecnn.calibration.outputs import outputs_of
from edgecnn.export.lowering.tensorrt_centring import padding
from edgecnn.export.lowering.tensorrt_int8 import quantize_activations
from edgecnn.export.lowering.tensorrt_placement import make_plan
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["centre"]

_FRAMES = 8
_SHARE = 0.01


def centre(
    model: ir.Model,
    table: QuantizationTable,
    inputs: Sequence[NDArray[np.float32]],
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> QuantizationTable:
    """Mark the tensors of a table that are to be centred.

    Args:
        model: the float model.
        table: activations' ranges; the largest magnitudes do.
        inputs: the network's input tensor for some frames; at most 8, evenly spaced, are used.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as tensors are tried.
    """
    everywhere = _centred(table, table.activations)
    plan = make_plan(model.graph, everywhere)
    padded = {
        str(value.name): any(node.op_type == "Conv" and padding(node) for node, _ in plan.readers[value])
        for value in plan.centred
    }
    chosen = {name for name, pads in padded.items() if not pads}
    tried = sorted(padded.keys() - chosen)
    if not tried:
        return _centred(table, chosen)
    frames = [inputs[index] for index in sorted({i * len(inputs) // _FRAMES for i in range(_FRAMES)})]
    reference = outputs_of(model, frames, threads=threads)

    def noise(only: str | None) -> float:
        quantized = model.clone()
        quantize_activations(quantized.graph, table, only=only)
        found = outputs_of(quantized, frames, threads=threads)
        return float(np.square(found - reference).sum())

    total = noise(None)
    for done, name in enumerate(tried, start=1):
        if noise(name) >= _SHARE * total:
            chosen.add(name)
        progress("centring", done, len(tried))
    return _centred(table, chosen)


def _centred(table: QuantizationTable, names: Collection[str]) -> QuantizationTable:
    entries = {
        name: dataclasses.replace(entry, centred=name in names) for name, entry in table.activations.items()
    }
    return dataclasses.replace(table, activations=entries)
