"""The labels of detection, instance segmentation and keypoints: objects of one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.detections import Detections
from edgecnn.errors import BackendUnavailableError, DataError
from edgecnn.results import Result

__all__ = ["Objects", "check_boxes", "mask_tools", "objects_of", "polygon_runs"]

FARTHEST_PX = 1e6
LONGEST_OUTLINE_PX = 1e6
"""Of a polygon: pycocotools takes memory for each pixel of the way around, whatever the frame's size."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Objects:
    """N objects of one frame. Coordinates are continuous, in pixels.

    Attributes:
        boxes_xyxy: (N, 4) float64.
        class_ids: (N,) int64, the model's.
        crowd: (N,) bool: a region with more objects than anybody has counted; finding any there is no error.
        areas_px: (N,) float64: decides which objects are small or large, and how exact keypoints must be.
        runs: COCO's run lengths of each mask, at the frame's size, or None.
        keypoints_xyv: (N, K, 3) float64: x, y, and 0 (not labelled), 1 (hidden) or 2 (visible), or None.
    """

    boxes_xyxy: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas_px: NDArray[np.float64]
    runs: tuple[Mapping[str, Any], ...] | None = None
    keypoints_xyv: NDArray[np.float64] | None = None


def objects_of(result: Result) -> Objects:
    """What a model found, as labels."""
    found = cast("Detections", result)
    boxes = found.boxes_xyxy.astype(np.float64)
    points = found.keypoints_xys
    if points is not None:
        points = points.copy()
        points[..., 2] = np.where(points[..., 2] > 0, 2, 0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Objects(
        boxes_xyxy=boxes,
        class_ids=found.class_ids,
        crowd=np.zeros(len(found), bool),
        areas_px=areas if found.masks is None else found.masks.areas_px().astype(np.float64),
        runs=None if found.masks is None else tuple(found.masks.to_coco()),
        keypoints_xyv=None if points is None else points.astype(np.float64),
    )


def check_boxes(boxes_xyxy: NDArray[np.float64], *, where: str) -> None:
    """Raise DataError for a box with NaN or infinity, turned inside out, or farther away than any frame."""
    sane = np.isfinite(boxes_xyxy).all(axis=1) & (np.abs(boxes_xyxy) <= FARTHEST_PX).all(axis=1)
    sane &= (boxes_xyxy[:, 2:] >= boxes_xyxy[:, :2]).all(axis=1)
    if not sane.all():
        wrong = boxes_xyxy[np.flatnonzero(~sane)[0]].tolist()
        raise DataError(
            f"{where}: a box is none",
            got=f"left, top, right, bottom {wrong}",
            expected="finite numbers, width and height of 0 or more",
        )


def polygon_runs(
    polygons_xy: list[NDArray[np.float64]], frame_hw: tuple[int, int], *, where: str
) -> dict[str, Any]:
    """Polygons (n, 2) in pixels, which together are one mask → its run lengths, drawn as COCO draws them.

    Raises:
        DataError: fewer than three points, coordinates far outside the frame, or an outline so long that it
            can only be meant to fill the memory.
    """
    height, width = frame_hw
    limit = np.array([width, height], np.float64)
    for points in polygons_xy:
        if len(points) < 3 or not np.isfinite(points).all():
            raise DataError(f"{where}: a polygon is none", expected="three points or more, finite numbers")
        if (points < -limit).any() or (points > 2 * limit).any():
            raise DataError(
                f"{where}: a polygon lies far outside its image",
                got=f"x to {points[:, 0].max():g}, y to {points[:, 1].max():g}",
                expected=f"within {width} x {height} pixels",
            )
        steps = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
        if steps > LONGEST_OUTLINE_PX:
            raise DataError(f"{where}: a polygon's outline is too long", got=f"{steps:.3g} pixels")
    tools = mask_tools()
    runs = tools.merge(tools.frPyObjects([points.ravel().tolist() for points in polygons_xy], height, width))
    return {"size": [height, width], "counts": runs["counts"].decode("ascii")}


def mask_tools() -> Any:
    """pycocotools' masks. Raises BackendUnavailableError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise BackendUnavailableError(
            "metrics of boxes, masks and keypoints need pycocotools",
            got=str(error),
            remedy="pip install 'edgecnn[evaluate]'",
        ) from error
    return mask
