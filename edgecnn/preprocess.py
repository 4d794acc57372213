"""From a camera's frame to the network's input tensor, as the model's ImageSpec says.

A Preprocessor owns the input tensor and fills it in place. For each frame size it compiles a plan once:
which region of the frame is read, which buffers lie between, which part of the tensor is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import InputError
from edgecnn.geometry import Geometry
from edgecnn.spec import ImageSpec

__all__ = ["Preprocessor", "check_frame"]


def check_frame(frame: Any) -> None:
    """Refuse what is no frame: (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, uint8. Raises InputError."""
    expected = "uint8 (H, W, 3) BGR, (H, W, 4) BGRA or (H, W) grey"
    if not isinstance(frame, np.ndarray):
        raise InputError("not a frame", got=type(frame).__name__, expected=f"a NumPy array, {expected}")
    shaped = frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (1, 3, 4))
    if frame.dtype != np.uint8 or not shaped or frame.size == 0:
        raise InputError("not a frame", got=f"{frame.dtype} {frame.shape}", expected=expected)


class Preprocessor:
    """Fills one input tensor from frames. Not safe from two threads at once: each takes its own.

    Args:
        spec: what the network expects.
        batch: frames in the tensor.

    Attributes:
        tensor: (batch, C, H, W) or (batch, H, W, C) float32, C-contiguous; always the same memory.
    """

    def __init__(self, spec: ImageSpec, *, batch: int = 1) -> None:
        self.spec = spec
        self.tensor: NDArray[np.float32] = np.zeros((batch, *spec.shape), np.float32)

    def __call__(self, frame: NDArray[np.uint8], index: int = 0) -> Geometry:
        """Write a frame to `tensor[index]`.

        Args:
            frame: (H, W, 3) BGR, (H, W, 4) BGRA, or (H, W) grey, uint8; need not be contiguous.

        Returns:
            Where the frame lies in the input.

        Raises:
            InputError: not such a frame.
        """
        check_frame(frame)
        raise RuntimeError("being written")
