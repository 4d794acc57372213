"""Which frames are kept to round weights by, and how different the frames are.

Rounding needs the network's input tensors again and again, and a camera shows no frame twice. So while the
frames stream through calibration, tensors of some of them are kept, evenly spaced: as many as let the
tensors that rounding holds at a time stay within a bound.

How different the frames are is asked of thumbnails of 16 × 16 pixels, each with its mean taken off and
scaled to length 1. With c the correlation of two of them, n frames amount to

    1 / mean of c² over all pairs, a frame with itself included

different ones: n where none resembles another, 1 where all are the same picture, whatever its brightness. Two
unlike photos have something in common too, so that the number grows ever more slowly with n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgecnn.export.graph import fixed_batch
from edgecnn.preprocess import Preprocessor
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["KeptFrames", "diversity", "thumbnail"]

MEMORY = 480 << 20
"""Bytes of tensors that rounding may hold between two layers."""

MOST = 128
_SIDE = 16


class KeptFrames:
    """Frames as they come; on the way, input tensors of some are kept.

    Args:
        frames: (H, W, 3) uint8 BGR.
        model: the network, whose tensors' sizes decide how many frames are kept.
        image: how a frame becomes its input tensor.
        total: how many frames there will be; None to keep none.

    Attributes:
        tensors: the kept ones, in order.
        thumbnails: of all frames.
    """

    def __init__(
        self, frames: Iterable[NDArray[np.uint8]], model: ir.Model, image: ImageSpec, *, total: int | None
    ) -> None:
        self.tensors: list[NDArray[np.float32]] = []
        self.thumbnails: list[NDArray[np.float32]] = []
        self._frames = frames
        most = min(MOST, max(8, MEMORY // max(1, _held_bytes(model))))
        count = 0 if total is None else min(total, most)
        self._wanted = {index * (total or 0) // count for index in range(count)}
        self._preprocess = Preprocessor(image, batch=fixed_batch(model))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for index, frame in enumerate(self._frames):
            self.thumbnails.append(thumbnail(frame))
            if index in self._wanted:
                for row in range(len(self._preprocess.tensor)):
                    self._preprocess(frame, row)
                self.tensors.append(self._preprocess.tensor.copy())
            yield frame


def thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) uint8 → 768 numbers of mean 0, and one that is 1 for a frame of one colour; of length 1."""
    import cv2

    small = cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean(axis=(0, 1))
    length = float(np.linalg.norm(small))
    if length == 0:
        return np.append(small.ravel(), np.float32(1))
    return np.append((small / length).ravel(), np.float32(0))


def diversity(thumbnails: Sequence[NDArray[np.float32]]) -> float:
    """How many different frames they amount to; see the module's docstring. At least one is needed."""
    values = np.stack(thumbnails).astype(np.float64)
    correlations = values @ values.T
    return round(1 / float(np.square(correlations).mean()), 2)


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
