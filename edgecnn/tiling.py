"""Frames that are larger than the network's view: in tiles that overlap, or in a region of interest.

    tiled = TiledModel(model, tile_hw=(640, 640), overlap=0.2)
    result = tiled(frame_bgr)            # as model(frame_bgr), for small objects in a large frame
    narrow = RegionModel(model, (400, 200, 1200, 800))

Both are called as a Model is, with results in pixels of the whole frame, and a `Pipeline` takes them as it
takes a Model. They may be put into one another: a region in tiles is `RegionModel(TiledModel(model), …)`.

Tiles cover the frame, spread evenly, so the overlap may be larger than asked for. A thing at the border of a
tile is seen whole by its neighbour where it is smaller than the overlap. The same thing then is found twice,
and a part of it perhaps again: of two boxes of one class from different tiles, where intersection / smaller
area (`ios`) or intersection / union (`iou`) is above the limit, the surer stays (greedy, as NMS; `ios` is
SAHI's name for it, Akyon et al. 2022). Class maps are put together so that each pixel is of the tile in which
it lies farthest from the border.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import Backend
from edgecnn.detections import Detections
from edgecnn.errors import InputError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.masks import Masks
from edgecnn.model import Model
from edgecnn.preprocess import check_frame
from edgecnn.results import UNSEEN, Result, Segmentation
from edgecnn.spec import ModelSpec
from edgecnn.tasks import Task
from edgecnn.tasks._formats import Selection
from edgecnn.values import check

__all__ = ["AnyModel", "RegionModel", "TiledModel", "merge_detections", "merge_maps", "tile_places"]

Measure = Literal["ios", "iou"]
TILES_AT_ONCE = 8  # in a batch, where it is free: more only takes memory
MERGED = ("detection", "instance_segmentation", "keypoints", "segmentation")


class _FrameSlot:
    """Frames for one call, as they are: what becomes of each is known when they are looked at."""

    def __init__(self) -> None:
        self._frames: dict[int, NDArray[np.uint8]] = {}

    def fill(self, index: int, frame: NDArray[np.uint8]) -> Geometry:
        """See `InputSlot.fill`."""
        check_frame(frame)
        self._frames[index] = frame
        return Geometry((frame.shape[0], frame.shape[1]), (1.0, 1.0), (0.0, 0.0))

    def take(self, count: int) -> list[NDArray[np.uint8]]:
        """The first `count` frames, which are let go."""
        return [self._frames.pop(index) for index in range(count)]


class _Parts:
    """Called as a Model; looks at parts of each frame. Safe from any thread, as the model is.

    In a pipeline, its frames are prepared, inferred and decoded in one stage, that of inference.
    """

    batch_size = 1  # frames, of which each may be many tiles
    camera = None

    def __init__(self, model: AnyModel) -> None:
        if model.camera is not None:
            raise SpecError(
                f"the model {model.name} takes whole frames of its camera",
                got=f"{model.camera.pixel_format} bytes, of which no part can be cut",
                remedy="Build it without --camera",
            )
        if model.spec.task not in MERGED:
            raise SpecError(
                f"results of {model.spec.task} cannot be put together from parts of a frame",
                expected="one of " + ", ".join(MERGED),
            )
        self.model = model
        self.spec: ModelSpec = model.spec
        self.task: Task = model.task
        self.backend: Backend = model.backend
        self.name: str = model.name
        self.precision: str = model.precision

    def __call__(self, frame_bgr: NDArray[np.uint8]) -> Result:
        """As calling the model."""
        return self._run(frame_bgr)

    def batch(self, frames_bgr: Sequence[NDArray[np.uint8]]) -> list[Result]:
        """One result a frame, in order."""
        return [self._run(frame) for frame in frames_bgr]

    def with_head(self, head: Mapping[str, Any]) -> Any:
        """As that of a Model: looks at the same parts."""
        other = copy.copy(self)
        other.model = self.model.with_head(head)
        other.spec, other.task = other.model.spec, other.model.task
        return other

    def input_slots(self, count: int, rows: int) -> list[_FrameSlot]:
        """As those of a Model."""
        return [_FrameSlot() for _ in range(count)]

    def run_slot(self, slot: _FrameSlot, count: int) -> list[Result]:
        """The results of the first `count` frames of a slot."""
        return self.batch(slot.take(count))

    def decode(self, results: list[Result], geometries: Sequence[Geometry]) -> list[Result]:
        """What `run_slot` gave: there is nothing left to do."""
        return results

    def close(self) -> None:
        """Close the model."""
        self.model.close()

    def __enter__(self) -> Any:
        self.model.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, frame_bgr: NDArray[np.uint8]) -> Result:
        raise NotImplementedError


class TiledModel(_Parts):
    """A model that looks at a frame in tiles.

    Args:
        model: does detection, keypoints, instance or semantic segmentation.
        tile_hw: height and width of a tile, in pixels of the frame; the network's input where None, so that
            nothing is scaled. A frame that is smaller is one tile.
        overlap: of neighbouring tiles, as a part of their size; as large as the largest thing, at best.
        whole: look at the whole frame, too, for what is larger than a tile; not for class maps.
        measure, limit: when two boxes are the same thing.

    Raises:
        SpecError: another task, whose results cannot be put together.
        InputError: an overlap outside of 0 … 0.9.
    """

    def __init__(
        self,
        model: AnyModel,
        *,
        tile_hw: tuple[int, int] | None = None,
        overlap: float = 0.2,
        whole: bool = False,
        measure: Measure = "ios",
        limit: float = 0.5,
    ) -> None:
        super().__init__(model)
        if not 0 <= overlap <= 0.9:
            raise InputError("overlap is wrong", got=str(overlap), expected="0 to 0.9")
        self.tile_hw = tile_hw or model.spec.image.size_hw
        check("tile_hw", self.tile_hw, min(self.tile_hw) >= 1, "two whole numbers, 1 or more")
        check("measure", measure, measure in ("ios", "iou"), "ios or iou")
        self.overlap, self.whole, self.measure, self.limit = overlap, whole, measure, limit

    def _run(self, frame_bgr: NDArray[np.uint8]) -> Result:
        check_frame(frame_bgr)
        frame_hw = (frame_bgr.shape[0], frame_bgr.shape[1])
        places = tile_places(frame_hw, self.tile_hw, self.overlap)
        tiles = [frame_bgr[y1:y2, x1:x2] for x1, y1, x2, y2 in places]
        if self.whole and len(tiles) > 1 and self.spec.task != "segmentation":
            tiles.append(frame_bgr)
            places.append((0, 0, frame_hw[1], frame_hw[0]))
        found: list[Any] = []
        for first in range(0, len(tiles), TILES_AT_ONCE):
            found += self.model.batch(tiles[first : first + TILES_AT_ONCE])
        if self.spec.task == "segmentation":
            return merge_maps(found, places, frame_hw)
        parts = [moved(part, place[:2], frame_hw) for part, place in zip(found, places, strict=True)]
        head = self.spec.head
        agnostic = bool(head.get("class_agnostic", Selection.class_agnostic))
        merged = merge_detections(parts, measure=self.measure, limit=self.limit, class_agnostic=agnostic)
        return merged[: int(head.get("max_detections", Selection.max_detections))]


class RegionModel(_Parts):
    """A model that looks at a part of each frame.

    Args:
        model: does detection, keypoints, instance or semantic segmentation.
        region_xyxy: left, top, right, bottom in whole pixels of the frame; what lies outside is cut off.

    Raises:
        SpecError: another task.
        InputError: a region without pixels; when a frame comes, one outside of the frame.
    """

    def __init__(self, model: AnyModel, region_xyxy: tuple[int, int, int, int]) -> None:
        super().__init__(model)
        x1, y1, x2, y2 = region_xyxy
        if not (0 <= x1 < x2 and 0 <= y1 < y2):
            raise InputError(
                "region is wrong", got=str(region_xyxy), expected="left < right, top < bottom, from 0"
            )
        self.region_xyxy = region_xyxy

    def _run(self, frame_bgr: NDArray[np.uint8]) -> Result:
        check_frame(frame_bgr)
        frame_hw = (frame_bgr.shape[0], frame_bgr.shape[1])
        x1, y1, x2, y2 = self.region_xyxy
        part = frame_bgr[y1:y2, x1:x2]
        if not part.size:
            raise InputError(
                "the region lies outside of the frame",
                got=str(self.region_xyxy),
                expected=f"a part of {frame_hw[1]}x{frame_hw[0]}",
            )
        found: Any = self.model(part)
        if self.spec.task == "segmentation":
            return merge_maps([found], [(x1, y1, x1 + part.shape[1], y1 + part.shape[0])], frame_hw)
        return moved(found, (x1, y1), frame_hw)


AnyModel = Model | TiledModel | RegionModel
"""What finds things in a frame, however it looks at it."""


def tile_places(
    frame_hw: tuple[int, int], tile_hw: tuple[int, int], overlap: float
) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom of the tiles of a frame, row by row. They cover it, and lie inside."""
    rows, columns = (_starts(side, tile, overlap) for side, tile in zip(frame_hw, tile_hw, strict=True))
    height, width = (min(side, tile) for side, tile in zip(frame_hw, tile_hw, strict=True))
    return [(x, y, x + width, y + height) for y in rows for x in columns]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    if side <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = 1 + -(-(side - tile) // step)
    return [round(index * (side - tile) / (count - 1)) for index in range(count)]


def moved(part: Detections, start_xy: tuple[int, int], frame_hw: tuple[int, int]) -> Detections:
    """What was found in a part of a frame, in pixels of the frame."""
    shift = np.array(start_xy, np.float32)
    masks, points, corners = part.masks, part.keypoints_xys, part.corners_xy
    return replace(
        part,
        boxes_xyxy=part.boxes_xyxy + np.tile(shift, 2),
        masks=None if masks is None else masks.moved(*start_xy, frame_hw),
        keypoints_xys=None if points is None else points + np.append(shift, np.float32(0)),
        corners_xy=None if corners is None else corners + shift,
    )


def merge_detections(
    parts: Sequence[Detections],
    *,
    measure: Measure = "ios",
    limit: float = 0.5,
    class_agnostic: bool = False,
) -> Detections:
    """What several looks at one frame found, each thing once.

    Within one look nothing is dropped: that was NMS's part.

    Args:
        parts: in pixels of the same frame.
        measure: of two boxes, intersection / smaller area, or intersection / union.
        limit: above it they are the same thing, of which the surer one stays.
        class_agnostic: they need not be of one class.
    """
    looks = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    together = _concatenate(parts)
    order = np.argsort(-together.scores, kind="stable")
    boxes = together.boxes_xyxy[order].astype(np.float64)
    classes, looks = together.class_ids[order], looks[order]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    alive = np.ones(len(order), bool)
    for index in range(len(order)):
        if not alive[index]:
            continue
        rivals = alive & (looks != looks[index])
        rivals[: index + 1] = False
        if not class_agnostic:
            rivals &= classes == classes[index]
        sides = np.minimum(boxes[index, 2:], boxes[rivals, 2:]) - np.maximum(
            boxes[index, :2], boxes[rivals, :2]
        )
        both = sides.clip(0).prod(axis=1)
        smaller, sum_ = np.minimum(areas[index], areas[rivals]), areas[index] + areas[rivals]
        base = smaller if measure == "ios" else sum_ - both
        alive[np.flatnonzero(rivals)[both > limit * base]] = False
    return together[order[alive]]


def _concatenate(parts: Sequence[Detections]) -> Detections:
    """All of them in one; what one of them lacks, the whole lacks."""
    if len(parts) == 1:
        return parts[0]
    arrays: dict[str, Any] = {}
    for name in ("boxes_xyxy", "scores", "class_ids", "keypoints_xys", "corners_xy", "track_ids"):
        values = [getattr(part, name) for part in parts if len(part)] or [getattr(parts[0], name)]
        arrays[name] = None if any(value is None for value in values) else np.concatenate(values)
    masks = [part.masks for part in parts]
    known = [part for part in masks if part is not None]
    return replace(parts[0], masks=Masks.joined(known) if len(known) == len(masks) else None, **arrays)


def merge_maps(
    parts: Sequence[Segmentation], places: Sequence[tuple[int, int, int, int]], frame_hw: tuple[int, int]
) -> Segmentation:
    """Class maps of tiles → one of the frame: each pixel from the tile in which it is farthest from a border.

    Args:
        parts: of the tiles.
        places: left, top, right, bottom of each tile in the frame.
        frame_hw: height and width of the frame. What no tile shows is `UNSEEN`.
    """
    dtype = np.result_type(*(part.class_map.dtype for part in parts))
    merged: Any = np.full(frame_hw, UNSEEN[dtype], dtype)
    depth = np.full(frame_hw, -1, np.int32)
    for part, (x1, y1, x2, y2) in zip(parts, places, strict=True):
        # a border of the frame is none of the tile's: nothing lies behind it
        rows = _depth(y1, y2, frame_hw[0])
        columns = _depth(x1, x2, frame_hw[1])
        own = np.minimum(rows[:, None], columns[None])
        own[part.class_map == UNSEEN[part.class_map.dtype]] = -1
        deeper = own > depth[y1:y2, x1:x2]
        merged[y1:y2, x1:x2][deeper] = part.class_map[deeper]
        np.maximum(depth[y1:y2, x1:x2], own, out=depth[y1:y2, x1:x2])
    return Segmentation(merged, parts[0].labels)


def _depth(first: int, last: int, side: int) -> NDArray[np.int32]:
    """How far each pixel of a tile is from its borders, along one axis."""
    far = np.iinfo(np.int32).max // 2
    index = np.arange(last - first, dtype=np.int32)
    before = index if first > 0 else np.full_like(index, far)
    behind = index[::-1] if last < side else np.full_like(index, far)
    nearest: NDArray[np.int32] = np.minimum(before, behind)
    return nearest
