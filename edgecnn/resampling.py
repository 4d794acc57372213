"""A map that a network gives – classes, depth, heat – at the frame's resolution.

The network's input of (h, w) pixels and a map of (rows, columns) show the same picture: a map's cell covers
h / rows × w / columns input pixels. So the centre of a frame's pixel, x + 0.5, lies at

    (geometry.to_input(x + 0.5)) · columns / w

in cells, where cell i covers [i, i + 1). `nearest` takes the cell that it falls into; `linear` mixes the four
cells whose centres are around it, and beyond the outermost centres takes the outermost cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.geometry import Geometry

__all__ = ["cells_of_pixels", "linear", "nearest", "seen"]


def cells_of_pixels(
    geometry: Geometry, input_hw: tuple[int, int], map_hw: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """For x and for y, (factor, shift): cell = frame · factor + shift, both continuous coordinates."""
    pairs = []
    for axis in (0, 1):  # x, y; heights and widths stand in the other order
        cells_per_pixel = map_hw[1 - axis] / input_hw[1 - axis]
        pairs.append((geometry.scale_xy[axis] * cells_per_pixel, geometry.offset_xy[axis] * cells_per_pixel))
    return pairs[0], pairs[1]


def nearest(values: NDArray[Any], geometry: Geometry, input_hw: tuple[int, int]) -> NDArray[Any]:
    """(rows, columns) → (H, W) of the frame, of the same dtype."""
    x, y = cells_of_pixels(geometry, input_hw, (values.shape[0], values.shape[1]))
    rows, columns = (
        np.clip(np.floor((np.arange(side) + 0.5) * factor + shift), 0, cells - 1).astype(np.intp)
        for side, (factor, shift), cells in zip(geometry.frame_hw, (y, x), values.shape, strict=True)
    )
    picked: NDArray[Any] = values.take(columns, axis=1).take(
        rows, axis=0
    )  # rows last: whole lines are copied
    return picked


def linear(
    values: NDArray[np.float32],
    geometry: Geometry,
    input_hw: tuple[int, int],
    *,
    region_xyxy: tuple[int, int, int, int] | None = None,
    first_cell_xy: tuple[int, int] = (0, 0),
    map_hw: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """(rows, columns) float32 → (H, W) float32 of the frame, or of a region of it.

    OpenCV before 5 knows places between cells to 1/32 of a cell.

    Args:
        values: the map, or a part of it.
        geometry: where the frame lies in the input.
        input_hw: the input's height and width, in pixels.
        region_xyxy: whole pixels of the frame; all of it where None.
        first_cell_xy: column and row of the map at which `values` begins.
        map_hw: rows and columns of the whole map where `values` is a part.
    """
    import cv2

    x, y = cells_of_pixels(geometry, input_hw, map_hw or (values.shape[0], values.shape[1]))
    height, width = geometry.frame_hw
    x1, y1, x2, y2 = region_xyxy or (0, 0, width, height)
    # OpenCV's coordinates are of centres: pixel 0 is at 0
    shift_x = (x1 + 0.5) * x[0] + x[1] - 0.5 - first_cell_xy[0]
    shift_y = (y1 + 0.5) * y[0] + y[1] - 0.5 - first_cell_xy[1]
    matrix = np.array([[x[0], 0, shift_x], [0, y[0], shift_y]])
    sampled: Any = cv2.warpAffine(
        np.ascontiguousarray(values),
        matrix,
        (x2 - x1, y2 - y1),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    result: NDArray[np.float32] = sampled
    return result


def seen(geometry: Geometry, input_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the frame whose pixels' centres the input shows; a crop leaves some out."""
    (left, top), (right, bottom) = geometry.to_frame([(0, 0), (input_hw[1], input_hw[0])])
    height, width = geometry.frame_hw
    # half a pixel, because a pixel is seen where its centre is; rounding must not lose one at the border
    first_y, first_x = (max(0, int(np.ceil(edge - 0.5 - 1e-6))) for edge in (top, left))
    last_y, last_x = (int(np.ceil(edge - 0.5 + 1e-6)) for edge in (bottom, right))
    return slice(first_y, min(height, last_y)), slice(first_x, min(width, last_x))
