"""YOLO's labels: a text file for each image, a line for each object, coordinates in parts of the image.

    class cx cy w h                     a box
    class x1 y1 x2 y2 x3 y3 …           a polygon: a mask; the box is around it
    class cx cy w h  px py [v] …        a box with keypoints; v is 0, 1 or 2

An image without a file shows nothing. `data.yaml` has `names`, and where the images are: `path`, `val`,
`test`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera.images import is_image_name
from edgecnn.errors import BackendUnavailableError, DataError, UnlabelledError
from edgecnn.evaluation.box_labels import ANY
from edgecnn.evaluation.folders import own_file
from edgecnn.evaluation.labelled import Item, Place
from edgecnn.evaluation.objects import Objects, check_boxes, mask_tools, polygon_runs
from edgecnn.evaluation.reading import excerpt, images_in, inside, match_classes, read_bytes

__all__ = ["yolo_items"]

LARGEST_YAML = 1 << 18
LARGEST_LABEL = 1 << 24
LARGEST_LIST = 1 << 26
FARTHEST = 2.0  # in parts of the image: beyond, a coordinate is no part


def yolo_items(place: Place, file: Path | None, *, masks: bool, keypoints: int | None) -> list[Item]:
    """See `box_items`. Raises DataError; BackendUnavailableError where `file` is given and PyYAML missing."""
    settings = {} if file is None else _settings(file)
    if place.images is not None:
        images = images_in(place.images)
    elif file is not None:
        images = _images_of(settings, file)
    else:
        images = images_in(place.data / "images")
    if file is None:
        folder = place.data / "labels" if (place.data / "labels").is_dir() else place.data
        labels = {image: folder / f"{image.stem}.txt" for image in images}
    else:
        labels = {image: _label_path(image) for image in images}
    if not any(path.is_file() for path in labels.values()):
        raise UnlabelledError(
            f"no labels for the images of {place.data}", expected=str(next(iter(labels.values())))
        )
    ids = _class_ids(settings, place, file, labels.values())
    values = _values(settings, keypoints, file)
    return [
        Item(image, partial(_objects, path, ids, len(place.spec.labels), masks, values))
        for image, path in labels.items()
    ]


def _settings(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise BackendUnavailableError(
            f"reading {file} needs PyYAML", got=str(error), remedy="pip install 'edgecnn[evaluate]'"
        ) from error
    try:
        found = yaml.safe_load(read_bytes(file, most=LARGEST_YAML))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise DataError(f"{file} is no YAML", got=excerpt(str(error), 200)) from error
    if not isinstance(found, dict):
        raise DataError(f"{file} is no data.yaml of YOLO", expected="names, and where the images are")
    return found


def _images_of(settings: Mapping[str, Any], file: Path) -> list[Path]:
    """What `val` names, else `test`, else `train`: folders, or lists of files."""
    root = file.parent
    base = settings.get("path", ".")
    split = next((settings[name] for name in ("val", "test", "train") if settings.get(name)), None)
    entries: list[Any] = split if isinstance(split, list) else [split]
    if not isinstance(base, str) or not entries or not all(isinstance(entry, str) for entry in entries):
        raise DataError(f"{file} does not say where the images are", expected="val: a folder beside it")
    images = []
    for entry in entries:
        target = inside(root, str(Path(base) / entry), where=str(file))
        if target.suffix == ".txt":
            lines = read_bytes(target, most=LARGEST_LIST).decode("utf-8", "replace").split("\n")
            named = [
                inside(root, str(Path(base) / line.strip()), where=str(target))
                for line in lines
                if line.strip()
            ]
            images += [path for path in named if is_image_name(path)]
        else:
            images += images_in(target)
    return images


def _label_path(image: Path) -> Path:
    """As YOLO finds it: the last `images` in the path becomes `labels`; else beside the image."""
    parts = list(image.with_suffix(".txt").parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            parts[index] = "labels"
            return Path(*parts)
    return image.with_suffix(".txt")


def _class_ids(
    settings: Mapping[str, Any], place: Place, file: Path | None, labels: Iterable[Path]
) -> dict[int, int] | None:
    """Theirs → the model's, by name; None where the labels' numbers are taken as they are."""
    names = settings.get("names")
    if names is None or not place.spec.labels:
        return None
    pairs = dict(enumerate(names)) if isinstance(names, list) else names
    fits = isinstance(pairs, dict) and all(
        type(index) is int and isinstance(name, (str, int)) for index, name in pairs.items()
    )
    if not fits:
        raise DataError(f"{file}: names is wrong", expected="a list of class names, or numbers and names")
    named = {index: str(name) for index, name in pairs.items()}
    try:
        return match_classes(named, place.spec.labels, where=str(file))
    except DataError:  # only those that are used must be the model's: now it pays to read all labels
        used = {theirs for path in labels for _, theirs, _ in _rows(path)}
        named = {index: name for index, name in named.items() if index in used}
        return match_classes(named, place.spec.labels, where=str(file))


def _values(settings: Mapping[str, Any], keypoints: int | None, file: Path | None) -> tuple[int, int] | None:
    """(points, numbers of each) where keypoints are wanted; 0 numbers where each line tells."""
    if keypoints is None:
        return None
    shape = settings.get("kpt_shape")
    if shape is None and keypoints == ANY:
        raise DataError(
            "how many keypoints does an object have?", expected="kpt_shape: [points, 2 or 3] in data.yaml"
        )
    if shape is None:
        return keypoints, 0
    fits = isinstance(shape, list) and len(shape) == 2 and all(type(side) is int for side in shape)
    if not fits or not 1 <= shape[0] <= 10_000 or shape[1] not in (2, 3) or keypoints not in (ANY, shape[0]):
        wanted = "points" if keypoints == ANY else str(keypoints)
        raise DataError(
            f"{file}: kpt_shape does not fit", got=excerpt(repr(shape)[:80]), expected=f"[{wanted}, 2 or 3]"
        )
    return shape[0], shape[1]


def _objects(
    path: Path,
    ids: Mapping[int, int] | None,
    classes: int,
    masks: bool,
    values: tuple[int, int] | None,
    frame_hw: tuple[int, int],
) -> Objects:
    rows = _rows(path)
    size_wh = np.array([frame_hw[1], frame_hw[0]], np.float64)
    class_ids, boxes, areas, runs, points = [], [], [], [], []
    for number, theirs, numbers in rows:
        where = f"{path}, line {number}"
        class_ids.append(_class_id(theirs, ids, classes, where))
        box, polygon, own = _shape(numbers, values, where)
        if polygon is not None:
            outline = polygon * size_wh
            box = np.concatenate([outline.min(axis=0), outline.max(axis=0)])
        else:
            box = box * np.tile(size_wh, 2)
        area = float((box[2] - box[0]) * (box[3] - box[1]))
        if masks:
            if polygon is None:
                raise DataError(f"{where}: an object has no mask", got="a box", expected="a polygon")
            runs.append(polygon_runs([polygon * size_wh], frame_hw, where=where))
            area = float(mask_tools().area(runs[-1]))
        if own is not None:
            points.append(np.concatenate([own[:, :2] * size_wh, own[:, 2:]], axis=1))
        boxes.append(box)
        areas.append(area)
    stacked = np.array(boxes, np.float64).reshape(-1, 4)
    check_boxes(stacked, where=str(path))
    return Objects(
        boxes_xyxy=stacked,
        class_ids=np.array(class_ids, np.int64),
        crowd=np.zeros(len(boxes), bool),
        areas_px=np.array(areas, np.float64),
        runs=tuple(runs) if masks else None,
        keypoints_xyv=None if values is None else np.array(points, np.float64).reshape(-1, values[0], 3),
    )


def _rows(path: Path) -> list[tuple[int, float, NDArray[np.float64]]]:
    """Of each line that is not empty: its number from 1, the class, and the numbers behind it."""
    if not path.exists() and not path.is_symlink():
        return []
    rows = []
    for number, line in enumerate(read_bytes(own_file(path), most=LARGEST_LABEL).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            numbers = np.array([float(word) for word in line.split()])
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: no numbers", expected="a class and coordinates"
            ) from error
        if not np.isfinite(numbers).all() or (np.abs(numbers[1:]) > FARTHEST).any():
            raise DataError(
                f"{path}, line {number}: a coordinate is none",
                got=excerpt(line.decode("ascii", "replace").strip()),
                expected="parts of the image's width and height, from 0 to 1",
            )
        rows.append((number, float(numbers[0]), numbers[1:]))
    return rows


def _class_id(theirs: float, ids: Mapping[int, int] | None, classes: int, where: str) -> int:
    known = theirs in ids if ids is not None else 0 <= theirs < (classes or 1 << 16)
    if theirs != int(theirs) or not known:
        expected = "one of data.yaml's names" if ids is not None else f"0 to {(classes or 1 << 16) - 1}"
        raise DataError(f"{where}: no such class", got=f"{theirs:g}", expected=expected)
    return int(theirs) if ids is None else ids[int(theirs)]


def _shape(
    numbers: NDArray[np.float64], values: tuple[int, int] | None, where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Box (x1, y1, x2, y2), polygon (n, 2), keypoints (K, 3), in parts of the image."""
    count = len(numbers)
    if values is None:
        if count != 4 and (count < 6 or count % 2):
            raise DataError(
                f"{where}: neither a box nor a polygon",
                got=f"{count} numbers",
                expected="4, or an even 6 or more",
            )
    else:
        points, each = values
        each = each or (count - 4) // points
        if each not in (2, 3) or count != 4 + points * each:
            raise DataError(
                f"{where}: keypoints do not fit", got=f"{count} numbers",
                expected=f"a box, and 2 or 3 numbers for each of {points} points",
            )  # fmt: skip
    if values is None and count != 4:
        return numbers[:0], numbers.reshape(-1, 2), None
    half = numbers[2:4] / 2
    box = np.concatenate([numbers[:2] - half, numbers[:2] + half])
    if values is None:
        return box, None, None
    own = np.full((values[0], 3), 2.0)
    own[:, :each] = numbers[4:].reshape(-1, each)
    if each == 2:
        own[(own[:, :2] == 0).all(axis=1), 2] = 0  # as YOLO has it: a point at 0, 0 is none
    elif not np.isin(own[:, 2], (0, 1, 2)).all():
        raise DataError(f"{where}: keypoints are none", expected="x, y, and 0, 1 or 2 for each")
    return box, None, own
