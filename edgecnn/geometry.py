"""Where a point of the network's input lies in the frame, and back.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5, and a box around a whole
frame of width W is [0, W]. Resizing by a factor then maps x to x · factor, without half-pixel terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Geometry"]


@dataclass(frozen=True)
class Geometry:
    """How one frame was placed into the input: `input_xy = frame_xy * scale_xy + offset_xy`.

    Attributes:
        frame_hw: height and width of the frame, in pixels.
        scale_xy: input pixels per frame pixel, along x and y.
        offset_xy: where the frame's top left corner lies in the input, in input pixels; negative for `crop`.
    """

    frame_hw: tuple[int, int]
    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]

    def to_input(self, frame_xy: ArrayLike) -> NDArray[np.float64]:
        """Points (…, 2) as (x, y) in frame pixels → the same in input pixels."""
        return np.asarray(frame_xy, np.float64) * self.scale_xy + self.offset_xy

    def to_frame(self, input_xy: ArrayLike) -> NDArray[np.float64]:
        """Points (…, 2) as (x, y) in input pixels → the same in frame pixels."""
        return (np.asarray(input_xy, np.float64) - self.offset_xy) / self.scale_xy

    def boxes_to_frame(self, input_xyxy: ArrayLike) -> NDArray[np.float32]:
        """Boxes (N, 4) as (x1, y1, x2, y2) in input pixels → the same in frame pixels, cut at its borders."""
        boxes = self.to_frame(np.asarray(input_xyxy, np.float64).reshape(-1, 2, 2))
        height, width = self.frame_hw
        return np.clip(boxes, 0, (width, height)).reshape(-1, 4).astype(np.float32)
