"""COCO's JSON: `images`, `annotations`, `categories`. Everything else in it, such as URLs, is ignored.

What is read is checked before anything is made of it: ids that are there twice or that nothing has, boxes
and polygons that are none, run lengths of another size than their image. Masks are drawn when their image is
looked at, one image at a time.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError, InputError
from edgecnn.evaluation.box_labels import ANY
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.objects import Objects, check_boxes, mask_tools, polygon_runs
from edgecnn.evaluation.reading import excerpt, inside, match_classes, read_bytes
from edgecnn.masks import Crop, decode_runs, encode_runs

__all__ = ["coco_items"]

LARGEST_BYTES = 1 << 29  # COCO's own training set has 448 MB
MOST_POINTS = 10_000  # keypoints of an object


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    id: int | None = None
    bbox: list[float] | None = None
    area: float | None = None
    iscrowd: int | bool | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    keypoints: list[float] | None = None


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Runs(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[int]


def coco_items(place: Place, file: Path, *, masks: bool, keypoints: int | None) -> list[Item]:
    """See `box_items`. Raises DataError."""
    content = _decode(read_bytes(file, most=LARGEST_BYTES), str(file))
    images = _by_id(content.images, file, "image")
    categories = _by_id(content.categories, file, "category")
    _by_id([entry for entry in content.annotations if entry.id is not None], file, "annotation")
    of_image: dict[int, list[_Annotation]] = {index: [] for index in images}
    for entry in content.annotations:
        if entry.image_id not in images or entry.category_id not in categories:
            kind, index = (
                ("image", entry.image_id) if entry.image_id not in images else ("category", entry.category_id)
            )
            raise DataError(f"{file}: an annotation is of no {kind}", got=f"{kind} id {index}")
        of_image[entry.image_id].append(entry)
    used = {entry.category_id for entry in content.annotations}
    names = {index: categories[index].name for index in sorted(used)}
    if not place.spec.labels and len(names) == 1:
        ids = dict.fromkeys(names, 0)  # a model of one class need not call it anything
    else:
        ids = match_classes(names, place.spec.labels, where=str(file))
    folders = [place.images] if place.images is not None else [file.parent, file.parent / "images"]
    points = _points(content.annotations, keypoints, file)
    items = []
    for index, image in images.items():
        path = _find(image, folders, file)
        read = partial(
            _objects, of_image[index], ids, (image.height, image.width), masks, points, f"{file}, {path.name}"
        )
        items.append(Item(path, read))
    return items


def _decode(data: bytes, where: str) -> _File:
    try:
        return msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DataError(
            f"{where} is no COCO file",
            got=excerpt(str(error), 200),
            expected="images, annotations, categories",
        ) from error


def _by_id(entries: list[Any], file: Path, kind: str) -> dict[int, Any]:
    found = {entry.id: entry for entry in entries}
    if len(found) != len(entries):
        seen: set[int] = set()
        twice = next(entry.id for entry in entries if entry.id in seen or seen.add(entry.id))  # type: ignore[func-returns-value]
        raise DataError(f"{file}: {kind} id is there twice", got=str(twice), expected="one of each")
    if any(index < 0 for index in found):
        raise DataError(f"{file}: {kind} id is negative", got=str(min(found)), expected="0 or more")
    return found


def _find(image: _Image, folders: list[Path], file: Path) -> Path:
    for folder in folders:
        path = inside(folder, image.file_name, where=str(file))
        if path.is_file():
            return path
    raise DataError(
        f"{file}: an image is not there",
        got=excerpt(image.file_name),
        expected="in " + " or ".join(map(str, folders)),
        remedy="Give the folder of the images with --images",
    )


def _points(annotations: list[_Annotation], wanted: int | None, file: Path) -> int | None:
    """How many keypoints each object has; None where they are not wanted."""
    if wanted is None:
        return None
    counts = {len(entry.keypoints) for entry in annotations if entry.keypoints}
    expected = f"3 numbers for each of {'its' if wanted == ANY else wanted} points"
    if not counts:
        raise DataError(f"{file} has no keypoints", expected=expected)
    count = counts.pop()
    if counts or count % 3 or count // 3 > MOST_POINTS or (wanted != ANY and count != 3 * wanted):
        raise DataError(
            f"{file}: keypoints do not fit", got=f"{count} numbers, and others" if counts else str(count),
            expected=expected,
        )  # fmt: skip
    return count // 3


def _objects(
    entries: list[_Annotation],
    ids: dict[int, int],
    annotated_hw: tuple[int | None, int | None],
    masks: bool,
    points: int | None,
    where: str,
    frame_hw: tuple[int, int],
) -> Objects:
    if None not in annotated_hw and annotated_hw != frame_hw:
        raise DataError(
            f"{where}: the image is of another size than its labels",
            got=f"{frame_hw[1]} x {frame_hw[0]} pixels",
            expected=f"{annotated_hw[1]} x {annotated_hw[0]}",
        )
    boxes = np.zeros((len(entries), 4))
    areas = np.zeros(len(entries))
    runs = []
    for index, entry in enumerate(entries):
        mask = _mask(entry, frame_hw, where) if masks or entry.bbox is None else None
        if entry.bbox is not None:
            if len(entry.bbox) != 4:
                raise DataError(f"{where}: a bbox is none", got=f"{len(entry.bbox)} numbers", expected="4")
            x, y, width, height = entry.bbox
            boxes[index] = x, y, x + width, y + height
        elif mask is not None:
            x, y, width, height = mask_tools().toBbox(mask).tolist()
            boxes[index] = x, y, x + width, y + height
        if mask is not None:
            areas[index] = mask_tools().area(mask)
            runs.append(mask)
        else:
            areas[index] = (boxes[index, 2] - boxes[index, 0]) * (boxes[index, 3] - boxes[index, 1])
        if entry.area is not None:
            areas[index] = entry.area
    check_boxes(boxes, where=where)
    if not (np.isfinite(areas) & (areas >= 0)).all():
        raise DataError(f"{where}: an area is none", got=str(areas.min()), expected="0 or more square pixels")
    return Objects(
        boxes_xyxy=boxes,
        class_ids=np.array([ids[entry.category_id] for entry in entries], np.int64),
        crowd=np.array([bool(entry.iscrowd) for entry in entries], bool),
        areas_px=areas,
        runs=tuple(runs) if masks else None,
        keypoints_xyv=None if points is None else _keypoints(entries, points, where),
    )


def _mask(entry: _Annotation, frame_hw: tuple[int, int], where: str) -> dict[str, Any]:
    """Polygons or run lengths → run lengths that fill exactly the image."""
    try:
        found = msgspec.json.decode(entry.segmentation, type=list[list[float]] | _Runs | None)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(
            f"{where}: a segmentation is none", got=excerpt(str(error)), expected="polygons or run lengths"
        ) from error
    if isinstance(found, list):
        if not found or any(len(part) % 2 for part in found):
            raise DataError(f"{where}: a polygon is none", expected="x, y of each point, in turn")
        return polygon_runs(
            [np.array(part, np.float64).reshape(-1, 2) for part in found], frame_hw, where=where
        )
    if found is None:
        raise DataError(f"{where}: an object has no mask", expected="polygons or run lengths")
    if found.size != frame_hw:
        raise DataError(
            f"{where}: run lengths are of another size than the image",
            got=str(found.size), expected=str(frame_hw),
        )  # fmt: skip
    try:  # written anew: pycocotools trusts what it is given
        mask = decode_runs({"size": found.size, "counts": found.counts})
    except InputError as error:
        raise DataError(f"{where}: {error.what}", got=error.got, expected=error.expected) from error
    return encode_runs(Crop(0, 0, mask), frame_hw)


def _keypoints(entries: list[_Annotation], points: int, where: str) -> NDArray[np.float64]:
    found = np.zeros((len(entries), points, 3))
    for index, entry in enumerate(entries):
        if entry.keypoints:
            found[index] = np.array(entry.keypoints).reshape(points, 3)
    if (
        not np.isfinite(found).all()
        or (np.abs(found) > 1e6).any()
        or not np.isin(found[..., 2], (0, 1, 2)).all()
    ):
        raise DataError(f"{where}: keypoints are none", expected="x, y, and 0, 1 or 2 for each")
    return found
