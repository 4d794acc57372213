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

__all__ = ["Errors", "Gain", "errors_on_grids", "outputs_of"]


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

    def gains_by_source(self, other: Errors, sources: Sequence[object]) -> tuple[Gain, Gain]:
        """The same in each source alone, which several frames may come from."""
        numbers = np.array([list(dict.fromkeys(sources)).index(source) for source in sources])
        gains = [
            [
                _gain_db(float(one[numbers == number].sum()), float(two[numbers == number].sum()))
                for number in range(numbers.max() + 1)
            ]
            for one, two in zip(self, other, strict=True)
        ]
        return Gain.of(gains[0]), Gain.of(gains[1])


class Gain(NamedTuple):
    """What something brings, over several sources of frames.

    Attributes:
        mean_db: the mean of the gains in all sources.
        error_db: its standard error; 0 where there is but one source.
    """

    mean_db: float
    error_db: float

    @classmethod
    def of(cls, gains_db: Sequence[float]) -> Gain:
        """The mean and its error."""
        count = len(gains_db)
        deviation = float(np.std(gains_db, ddof=1)) if count > 1 else 0.0
        return cls(float(np.mean(gains_db)), deviation / math.sqrt(count))

    @property
    def is_loss(self) -> bool:
        """Whether it is a loss, by more than its error."""
        return self.mean_db < -self.error_db


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
