"""Real handwritten digits on real photos: scenes to detect and segment digits in, with the exact truth.

The digits are scikit-learn's (`load_digits`: the test set of UCI's "Optical recognition of handwritten
digits", E. Alpaydin and C. Kaynak 1998, 8 × 8 pixels of 17 levels). They are in the order of the forms on
which people wrote them: every form has the same sequence of digits, which shows where the 14 forms begin. The
first ten are for training, the last four for the test. There were 13 people, so one of them may have filled
two forms that lie on both sides. The photos are scikit-image's and scikit-learn's; none is on both sides.

    crop of a photo, its colours changed ─▶ digits of random size, turn, slant and colour ─▶ blur, noise

A scene depends on nothing but its split, the seed and its number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.demo import packaged
from edgecnn.files import write_atomic
from edgecnn.masks import Masks

__all__ = ["LABELS", "Scene", "Scenes", "Split", "write_coco", "write_masks"]

Split = Literal["train", "test"]
LABELS = tuple("0123456789")

_FIRST_TEST_DIGIT = 1287  # where the eleventh form begins
_PHOTOS: dict[Split, tuple[str, ...]] = {
    "train": (
        "skimage/data/astronaut.png", "skimage/data/motorcycle_left.png", "skimage/data/ihc.png",
        "skimage/data/hubble_deep_field.jpg", "skimage/data/brick.png", "skimage/data/grass.png",
        "skimage/data/coins.png", "skimage/data/moon.png", "skimage/data/retina.jpg",
        "sklearn/datasets/images/flower.jpg",
    ),
    "test": (
        "skimage/data/chelsea.png", "skimage/data/coffee.png", "skimage/data/rocket.jpg",
        "skimage/data/camera.png", "skimage/data/gravel.png", "sklearn/datasets/images/china.jpg",
    ),
}  # fmt: skip
_GLYPH_PX = 64  # a digit's side when it is put into the scene
_MOST_DIGITS = 6
_NOISE_SHIFT = 64
_LEAST_CONTRAST = 60  # grey levels between ink and what it is on


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame and what is in it.

    Attributes:
        frame: (H, W, 3) uint8 BGR.
        boxes_xyxy: (n, 4) float32, pixels; tight around the masks.
        class_ids: (n,) int64, the digits.
        instances: (H, W) uint8: 0, or i + 1 where digit i is. Digits do not overlap.
    """

    frame: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    instances: NDArray[np.uint8]

    @property
    def class_map(self) -> NDArray[np.uint8]:
        """(H, W): 0 for the photo, d + 1 for the digit d."""
        return np.concatenate([[0], self.class_ids + 1]).astype(np.uint8)[self.instances]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(n, H, W)."""
        masks: NDArray[np.bool_] = self.instances == np.arange(1, len(self.class_ids) + 1)[:, None, None]
        return masks


class Scenes:
    """Scenes by their number: `Scenes("train", size_hw=(288, 384))[7]`.

    Args:
        split: which digits and photos.
        size_hw: of the frames, in pixels.
        seed: other scenes of the same digits and photos.
        heights: least and largest height of a digit, as a part of the frame's.
    """

    def __init__(
        self,
        split: Split,
        *,
        size_hw: tuple[int, int],
        seed: int = 0,
        heights: tuple[float, float] = (0.1, 0.4),
    ) -> None:
        self.split: Split = split
        self.size_hw = size_hw
        self.heights = heights
        self._seed = (seed, 0 if split == "train" else 1)
        self._glyphs, self._digits = _glyphs(split)
        self._photos = _photos(split)

    def __getitem__(self, number: int) -> Scene:
        random = np.random.default_rng([*self._seed, number])
        canvas = self._background(random)
        instances = np.zeros(self.size_hw, np.uint8)
        boxes: list[tuple[int, int, int, int]] = []
        class_ids: list[int] = []
        wanted = int(random.integers(0, _MOST_DIGITS + 1))
        for _ in range(5 * wanted):  # a place that is taken is not tried again: crowded scenes get fewer
            if len(boxes) == wanted:
                break
            which = int(random.integers(len(self._digits)))
            alpha = self._written(which, random)
            ink = (alpha > 0.5).astype(np.uint8)
            left, top, width, height = cv2.boundingRect(ink)
            if not width or not height:
                continue
            alpha = alpha[top : top + height, left : left + width]
            x = int(random.integers(0, self.size_hw[1] - width + 1))
            y = int(random.integers(0, self.size_hw[0] - height + 1))
            place = np.s_[y : y + height, x : x + width]
            if instances[max(0, y - 2) : y + height + 2, max(0, x - 2) : x + width + 2].any():
                continue
            _paint(canvas[place], alpha, random)
            boxes.append((x, y, x + width, y + height))
            class_ids.append(int(self._digits[which]))
            instances[place][alpha > 0.5] = len(boxes)
        return Scene(
            _photographed(canvas, random),
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(class_ids, np.int64),
            instances,
        )

    def _background(self, random: np.random.Generator) -> NDArray[np.float32]:
        """A crop of a photo with the frame's aspect, perhaps mirrored, in other colours."""
        photo = self._photos[int(random.integers(len(self._photos)))]
        height, width = self.size_hw
        largest = min(photo.shape[0] / height, photo.shape[1] / width)
        scale = largest * random.uniform(0.4, 1.0)
        crop_h, crop_w = int(height * scale), int(width * scale)
        top = int(random.integers(0, photo.shape[0] - crop_h + 1))
        left = int(random.integers(0, photo.shape[1] - crop_w + 1))
        crop = photo[top : top + crop_h, left : left + crop_w]
        interpolation = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
        scaled = cv2.resize(crop, (width, height), interpolation=interpolation)
        if random.random() < 0.5:
            scaled = cv2.flip(scaled, 1)
        gains = random.uniform(0.6, 1.2) * random.uniform(0.85, 1.15, 3)
        changed = scaled.astype(np.float32) * gains.astype(np.float32) + np.float32(random.uniform(-20, 20))
        return np.asarray(np.clip(changed, 0, 255), np.float32)

    def _written(self, which: int, random: np.random.Generator) -> NDArray[np.float32]:
        """How much ink is where (h, w), 0 … 1: the digit, turned, slanted, stretched and scaled."""
        low, high = np.log(self.heights[0] * self.size_hw[0]), np.log(self.heights[1] * self.size_hw[0])
        size = float(np.exp(random.uniform(low, high))) / (0.8 * _GLYPH_PX)  # without margins
        turn, slant = np.radians(random.uniform(-15, 15)), random.uniform(-0.2, 0.2)
        wide = random.uniform(0.8, 1.25)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = size * rotation @ np.array([[wide, slant], [0, 1]])
        side = int(np.ceil(1.6 * size * _GLYPH_PX))
        shift = side / 2 - matrix @ (_GLYPH_PX / 2, _GLYPH_PX / 2)
        source = self._glyphs[which]
        if size < 0.7:  # warping does not low-pass
            source = cv2.GaussianBlur(source, (0, 0), 0.4 / size)
        affine = np.column_stack([matrix, shift])
        return np.asarray(cv2.warpAffine(source, affine, (side, side)), np.float32)


def _paint(place: NDArray[np.float32], alpha: NDArray[np.float32], random: np.random.Generator) -> None:
    """Draw in a random colour that can be told from what is there, in place."""
    weights = np.array([0.114, 0.587, 0.299])  # BGR → brightness
    ground = float((place.reshape(-1, 3).mean(axis=0) * weights).sum())
    while True:
        colour = random.uniform(0, 255, 3)
        if abs(float((colour * weights).sum()) - ground) >= _LEAST_CONTRAST:
            break
    cover = alpha[..., None] * np.float32(random.uniform(0.75, 1.0))
    place += cover * (colour.astype(np.float32) - place)


def _photographed(canvas: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.uint8]:
    sigma = random.uniform(0, 1.2)
    if sigma > 0.4:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), sigma), np.float32)
    height, width = canvas.shape[:2]
    y, x = random.integers(0, _NOISE_SHIFT, 2)
    noise = _noise(height, width)[y : y + height, x : x + width] * np.float32(random.uniform(0, 10))
    return np.asarray(np.clip(np.rint(canvas + noise), 0, 255), np.uint8)


@lru_cache
def _noise(height: int, width: int) -> NDArray[np.float32]:
    """One large piece, of which each scene gets a part: to draw it anew takes as long as all else."""
    shape = (height + _NOISE_SHIFT, width + _NOISE_SHIFT, 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@lru_cache
def _glyphs(split: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(n, 64, 64) ink 0 … 1 with edges of about two pixels, and (n,) which digit it is."""
    from sklearn.datasets import load_digits

    everything: Any = load_digits()
    part = slice(None, _FIRST_TEST_DIGIT) if split == "train" else slice(_FIRST_TEST_DIGIT, None)
    enlarged = [
        cv2.resize(np.pad(image / 16, 1), (_GLYPH_PX, _GLYPH_PX), interpolation=cv2.INTER_CUBIC)
        for image in everything.images[part].astype(np.float32)
    ]
    # the levels say how much of each of the 8 × 8 squares was ink: the stroke's edge is near the half
    return np.clip(4 * (np.stack(enlarged) - 0.45) + 0.5, 0, 1), everything.target[part]


@lru_cache
def _photos(split: Split) -> list[NDArray[np.uint8]]:
    """(H, W, 3) uint8 BGR each."""
    pictures = [cv2.imread(str(packaged(name)), cv2.IMREAD_COLOR) for name in _PHOTOS[split]]
    return [np.asarray(picture, np.uint8) for picture in pictures]


def write_coco(folder: Path, scenes: Sequence[Scene]) -> Path:
    """Write frames as `images/NNNNN.png` and the truth as `annotations.json` (COCO); returns the folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        name = f"{number:05}.png"
        _write_png(folder / "images" / name, scene.frame)
        height, width = scene.instances.shape
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        runs = Masks.from_dense(scene.masks).to_coco()
        for digit, box, mask, segmentation in zip(
            scene.class_ids.tolist(), scene.boxes_xyxy.tolist(), scene.masks, runs, strict=True
        ):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": digit + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(mask.sum()),
                    "segmentation": segmentation,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": digit + 1, "name": label} for digit, label in enumerate(LABELS)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    write_atomic(folder / "annotations.json", json.dumps(truth).encode(), force=True)
    return folder


def write_masks(folder: Path, scenes: Sequence[Scene], *, binary: bool = False) -> Path:
    """Write frames as `images/NNNNN.png` and class maps as `masks/NNNNN.png`; returns the folder.

    With `binary`, 1 stands for every digit.
    """
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes):
        _write_png(folder / "images" / f"{number:05}.png", scene.frame)
        classes = np.minimum(scene.class_map, 1) if binary else scene.class_map
        _write_png(folder / "masks" / f"{number:05}.png", classes)
    return folder


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"cannot write {path}")
