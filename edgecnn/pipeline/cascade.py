"""A second model that looks closer: at regions of the frame that a first one found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgecnn.camera import Frame
from edgecnn.errors import InputError
from edgecnn.results import Result

if TYPE_CHECKING:
    from edgecnn.tiling import AnyModel

__all__ = ["Cascade", "RegionResults"]


@dataclass(frozen=True, eq=False)
class RegionResults:
    """What a model found in regions of a frame.

    Attributes:
        boxes_xyxy: (N, 4) int64, in pixels of the frame: what was cut out.
        results: one a region.
    """

    boxes_xyxy: NDArray[np.int64]
    results: tuple[Result, ...]

    def to_dict(self) -> dict[str, Any]:
        """`{"boxes_xyxy": [[x1, y1, x2, y2], …], "results": [{…}, …]}`."""
        results = [result.to_dict() for result in self.results]
        return {"boxes_xyxy": self.boxes_xyxy.tolist(), "results": results}


@dataclass(frozen=True, eq=False)
class Cascade:
    """Runs a model on regions that an earlier model's result names.

        models = {"people": detector, "pose": Cascade(pose, of="people", regions=boxes_of_people)}
        with Pipeline(0, models) as pipeline: ...

    Attributes:
        model: looks at the regions, all of a frame in one batch where its batch is free.
        of: the earlier model's name.
        regions: called with that model's result and the frame, in a thread of the pipeline's; gives (N, 4)
            boxes, x1, y1, x2, y2 in pixels of the frame. They are widened to whole pixels and cut at the
            frame's borders; those with nothing left are not looked at.
    """

    model: AnyModel
    of: str
    regions: Callable[[Any, Frame], ArrayLike]

    def run(self, result: Result, frame: Frame, picture: NDArray[np.uint8]) -> RegionResults:
        """Look at regions of a picture. Raises InputError where they are no boxes, else as a model."""
        boxes = whole_boxes(self.regions(result, frame), picture)
        crops = [picture[top:bottom, left:right] for left, top, right, bottom in boxes.tolist()]
        return RegionResults(boxes, tuple(self.model.batch(crops)))

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Draw each region's border, and its result within."""
        import cv2

        regions = cast("RegionResults", result)
        for box, found in zip(regions.boxes_xyxy.tolist(), regions.results, strict=True):
            left, top, right, bottom = box
            self.model.task.draw(image_bgr[top:bottom, left:right], found)
            cv2.rectangle(image_bgr, (left, top), (right - 1, bottom - 1), (255, 255, 255), 1)


def whole_boxes(regions: ArrayLike, image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, 4) boxes of any numbers → those on the image, in whole pixels. Raises InputError."""
    boxes = np.asarray(regions, np.float64)
    if boxes.size == 0:
        return np.zeros((0, 4), np.int64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise InputError("regions are wrong", got=f"{boxes.shape}", expected="(N, 4) finite: x1, y1, x2, y2")
    height, width = image.shape[:2]
    whole = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
    whole = np.clip(whole, 0, [width, height, width, height]).astype(np.int64)
    kept: NDArray[np.int64] = whole[(whole[:, 2] > whole[:, 0]) & (whole[:, 3] > whole[:, 1])]
    return kept
