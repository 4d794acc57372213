"""Which layers INT8 harms most: each alone is quantized, everything else is FP32, and the error is measured.

    error(layer) = Σ (FP32 output − output with this layer in INT8)² / Σ (FP32 output)²

over a few frames, with Q/DQ where the lowering puts it (`edgecnn.export.lowering.switched`). Errors of single
layers add up only roughly, so the ranking is a proposal: what is built from it is measured as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    from edgecnn.export.graph import fixed_batch
    from edgecnn.export.lowering.switched import SwitchedNetwork

    assert source.spec is not None
    table = QuantizationTable.from_json(source.graph.metadata_props[QUANTIZATION_KEY])
    network = SwitchedNetwork(source.graph, table)
    prepare = Preprocessor(source.spec.image, batch=fixed_batch(source.graph))
    tensors = []
    for frame in frames:
        for row in range(len(prepare.tensor)):  # of a fixed batch: the same frame in each, as in calibration
            prepare(frame, row)
        tensors.append(prepare.tensor.copy())
    errors = network.errors(tensors, stage="ranking layers", progress=progress)
    return tuple(sorted(errors, key=lambda name: -errors[name]))
