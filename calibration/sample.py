"""Which frames are kept to round weights by, and how different the frames are.

Rounding needs the network's input tensors again and again, and a camera shows no frame twice. So while the
frames stream through calibration, tensors of some of them are kept, evenly spaced: as many as let the
tensors that rounding holds at a time stay within a bound.

How different frames are is asked of the network: the covariance of its outputs over the frames has
eigenvalues λ, and

    (Σ λ)² / Σ λ²

is the number of directions among which the frames spread evenly (the participation ratio). Frames that
differ in nothing that the network sees count as one, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.export.graph import fixed_batch
from edgecnn.preprocess import Preprocessor
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["KeptFrames", "diversity", "signature"]

MEMORY = 480 << 20
"""Bytes of tensors that rounding may hold between two layers."""

MOST = 128
_NUMBERS = 4096  # of the outputs, for each frame


class KeptFrames:
    """Frames as they come; on the way, input tensors of some are kept.

    Args:
        frames: (H, W, 3) uint8 BGR.
        model: the network, whose tensors' sizes decide how many frames are kept.
        image: how a frame becomes its input tensor.
        total: how many frames there will be; None to keep none.

    Attributes:
        tensors: the kept ones, in order.
    """

    def __init__(
        self, frames: Iterable[NDArray[np.uint8]], model: ir.Model, image: ImageSpec, *, total: int | None
    ) -> None:
        self.tensors: list[NDArray[np.float32]] = []
        self._frames = frames
        most = min(MOST, max(8, MEMORY // max(1, _held_bytes(model))))
        count = 0 if total is None else min(total, most)
        self._wanted = {index * (total or 0) // count for index in range(count)}
        self._preprocess = Preprocessor(image, batch=fixed_batch(model))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for index, frame in enumerate(self._frames):
            if index in self._wanted:
                for row in range(len(self._preprocess.tensor)):
                    self._preprocess(frame, row)
                self.tensors.append(self._preprocess.tensor.copy())
            yield frame


def signature(outputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Some numbers of the network's outputs for one frame, evenly spaced; those that are not finite as 0."""
    flat = np.concatenate([output.astype(np.float32).ravel() for output in outputs])
    return np.nan_to_num(flat[:: -(-flat.size // _NUMBERS)], posinf=0.0, neginf=0.0)


def diversity(signatures: Sequence[NDArray[np.float32]]) -> float | None:
    """How many different frames they amount to; see the module's docstring. None where sizes differ."""
    if len({entry.size for entry in signatures}) != 1:
        return None
    values = np.stack(signatures).astype(np.float64)
    values -= values.mean(axis=0)
    products = values @ values.T
    energy = float(np.vdot(products, products))
    # Centring takes one direction away: n frames that differ in everything give n − 1.
    return round(1 + float(np.trace(products)) ** 2 / energy, 2) if energy > 0 else 1.0


def _held_bytes(model: ir.Model) -> int:
    """The most bytes that both streams of `second_order` hold for one frame between two nodes."""
    nodes = list(model.graph)
    last = {value: index for index, node in enumerate(nodes) for value in node.inputs if value is not None}
    held = most = 0
    leaving: dict[int, int] = {}
    for index, values in enumerate([model.graph.inputs, *(node.outputs for node in nodes)], start=-1):
        for value in values:
            end = len(nodes) if value.is_graph_output() else last.get(value, index)
            size = _bytes(value)
            held += size
            leaving[end] = leaving.get(end, 0) + size
        # what the float network holds, and about a quarter of it in 8 bits
        most = max(most, held * 5 // 4)
        held -= leaving.pop(index, 0)
    return most


def _bytes(value: ir.Value) -> int:
    sides = [side if isinstance(side, int) and side > 0 else 1 for side in value.shape or ()]
    return 4 * math.prod(sides)
