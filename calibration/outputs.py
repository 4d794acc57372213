"""What a network computes in float and on each of the two grids, and the error between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.metadata import QUANTIZATION_KEY
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Errors", "errors_on_grids", "outputs_of"]


class Errors(NamedTuple):
    """The squared error of all outputs in each frame, (frames,).

    Attributes:
        symmetric: on TensorRT's grid.
        onnxruntime: as ONNX Runtime runs it.
    """

    symmetric: NDArray[np.float64]
    onnxruntime: NDArray[np.float64]

    @property
    def totals(self) -> tuple[float, float]:
        """Over all frames."""
        return float(self.symmetric.sum()), float(self.onnxruntime.sum())

    def gains_db(self, other: Errors) -> tuple[float, float]:
        """By how much the SQNR over all frames is higher than with `other`'s; 0 where that says nothing."""
        first, second = (_gain_db(*pair) for pair in zip(self.totals, other.totals, strict=True))
        return first, second

    def usual_gains_db(self, other: Errors) -> tuple[float, float]:
        """The same in the usual frame, the median of all: a few with large errors do not decide."""
        first, second = (
            float(np.median([_gain_db(*pair) for pair in zip(one, two, strict=True)]))
            for one, two in zip(self, other, strict=True)
        )
        return first, second


def _gain_db(one: float, two: float) -> float:
    return 10 * math.log10(two / one) if 0 < one < math.inf and 0 < two < math.inf else 0.0


def outputs_of(
    model: ir.Model, inputs: Iterable[NDArray[np.float32]], *, threads: int | None = None
) -> NDArray[np.float64]:
    """All outputs side by side, (inputs, numbers); nothing is fused on the way."""
    session = create_session(to_bytes(model), threads=threads, optimized=False)
    name = session.get_inputs()[0].name
    rows = [[np.asarray(one, np.float64).ravel() for one in session.run(None, {name: x})] for x in inputs]
    return np.stack([np.concatenate(row) for row in rows])


def errors_on_grids(
    model: ir.Model,
    table: QuantizationTable,
    inputs: Sequence[NDArray[np.float32]],
    reference: NDArray[np.float64],
    *,
    threads: int | None = None,
) -> Errors:
    """What INT8 with a table costs.

    Args:
        model: the float model.
        table: for it.
        inputs: the network's input tensor for some frames.
        reference: the float model's `outputs_of` them.
        threads: CPU threads; ONNX Runtime's own choice where None.
    """
    symmetric, other = model.clone(), model.clone()
    quantize(symmetric.graph, table, set(symmetric.graph))
    other.metadata_props[QUANTIZATION_KEY] = table.to_json()
    found = [
        np.square(outputs_of(one, inputs, threads=threads) - reference).sum(axis=1)
        for one in (symmetric, lower_graph(other, "int8"))
    ]
    return Errors(*found)
