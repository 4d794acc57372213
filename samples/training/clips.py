"""Writes what the samples are tried on, `samples/media/`: moving digits in front of a photo, a road, others.

They are of the test splits of `scenes` and `road`: the models have not seen them. Photos are scikit-image's
chelsea, coffee, gravel, rocket and ihc (CC0, public domain, no known restrictions). ffmpeg compresses videos.

    python -m samples.training.clips
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecnn.camera import Frame, open_sink
from edgecnn.demo import packaged
from edgecnn.pipeline import Latency, Output
from edgecnn.results import RawOutputs
from samples.training.scenes import Scenes

__all__ = ["moving_digits", "one_digit", "photo_of", "write_clip"]

FPS = 30
ROAD_SEED = 7
MEDIA = Path(__file__).parents[1] / "media"


def one_digit(size_px: int, *, seed: int = 0, digit: int | None = None) -> NDArray[np.float32]:
    """(h, w) float32: how much ink is where, 0 … 1, of one handwritten digit of the test set, cut out."""
    scenes = Scenes("test", size_hw=(size_px, size_px), heights=(1.0, 1.0))
    random = np.random.default_rng(seed)
    while True:
        which = int(random.integers(len(scenes._digits)))
        if digit is None or scenes._digits[which] == digit:
            alpha = scenes._written(which, random)
            x, y, width, height = cv2.boundingRect((alpha > 0.05).astype(np.uint8))
            cut: NDArray[np.float32] = alpha[y : y + height, x : x + width]
            return cut


def photo_of(number: int, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR: the middle of one of the test photos (0: chelsea, 1: coffee, 2: rocket)."""
    photo = Scenes("test", size_hw=size_hw)._photos[number]
    scale = max(size_hw[0] / photo.shape[0], size_hw[1] / photo.shape[1])
    large: Any = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = ((side - wanted) // 2 for side, wanted in zip(large.shape[:2], size_hw, strict=True))
    middle: NDArray[np.uint8] = large[max(0, top) :, max(0, left) :][: size_hw[0], : size_hw[1]]
    return np.asarray(cv2.resize(middle, size_hw[::-1]), np.uint8)  # a pixel less, by rounding


def moving_digits(
    frames: int,
    *,
    size_hw: tuple[int, int] = (288, 384),
    digits: Iterable[int] = (3, 7, 5),
    photo: int = 1,
    seed: int = 0,
) -> Iterator[NDArray[np.uint8]]:
    """(H, W, 3) uint8 BGR each: digits that move at steady speeds, each on a line of its own."""
    random = np.random.default_rng(seed)
    background = photo_of(photo, size_hw).astype(np.float32) * np.float32(0.6)
    height, width = size_hw
    glyphs = [one_digit(round(0.24 * height), seed=seed + digit, digit=digit) for digit in digits]
    lane = height / len(glyphs)
    speeds = random.uniform(60, 130, len(glyphs)) * random.choice([-1, 1], len(glyphs))
    starts = random.uniform(0, width, len(glyphs))
    for number in range(frames):
        canvas = background.copy()
        for index, alpha in enumerate(glyphs):
            room = width - alpha.shape[1]
            way = (starts[index] + speeds[index] * number / FPS) % (2 * room)
            x, y = min(way, 2 * room - way), lane * (index + 0.5) - alpha.shape[0] / 2
            _put(canvas, alpha, x, y)
        yield np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _put(canvas: NDArray[np.float32], alpha: NDArray[np.float32], x: float, y: float) -> None:
    """White ink at a place between pixels."""
    matrix: Any = np.array([[1, 0, x], [0, 1, y]])
    ink = cv2.warpAffine(alpha, matrix, canvas.shape[1::-1], flags=cv2.INTER_LINEAR)[..., None]
    canvas += ink * (np.float32(245) - canvas)


def write_clip(path: Path, frames: Iterable[NDArray[np.uint8]]) -> Path:
    """Write a video as the sinks do."""
    with open_sink(path, fps=FPS, force=True) as sink:
        for index, image in enumerate(frames):
            frame = Frame(image, index, monotonic(), path.name)
            sink.write(Output(RawOutputs({}), frame, Latency(0, 0, 0, 0, 0)).shown_as(image))
    return path


def _road() -> Iterator[NDArray[np.uint8]]:
    """Three seconds on a road with lines on both sides."""
    from samples.training.road import textures
    from samples.training.road_scenes import Scene, drive

    rng = np.random.default_rng(ROAD_SEED)
    scene = Scene.random(rng, textures("test")[:4])
    for view in drive(scene, frames=90, fps=FPS, seed=1):
        yield view.image_bgr


def _slide() -> NDArray[np.uint8]:
    """The part of the tissue section that is the test's, lying on its side."""
    picture = np.asarray(cv2.imread(str(packaged("skimage/data/ihc.png"))), np.uint8)
    return np.asarray(cv2.rotate(picture[:, 328:], cv2.ROTATE_90_CLOCKWISE), np.uint8)


def _write_places(folder: Path) -> None:
    """Three views each of a place in a photo of a cat, of a cup, of a rocket."""
    from samples.training.reidentify import photos, places, view

    folder.mkdir(exist_ok=True)
    pictures, random = photos("test")[:3], np.random.default_rng(2)
    for number, name in enumerate(("cat", "cup", "rocket")):
        place = places([pictures[number]], 1, random)[0]._replace(photo=number)
        for index in (1, 2, 3):
            cv2.imwrite(str(folder / f"{name}-{index}.jpg"), view(pictures, place, random))


def main() -> None:
    """Write all of them."""
    MEDIA.mkdir(exist_ok=True)
    clips = {"digits": moving_digits(75, digits=(3, 8, 5)), "road": _road()}
    with tempfile.TemporaryDirectory() as folder:
        for name, frames in clips.items():
            large = write_clip(Path(folder) / f"{name}.mp4", frames)
            options = ["-c:v", "libx264", "-crf", "27", "-preset", "veryslow", "-pix_fmt", "yuv420p"]
            command = ["ffmpeg", "-y", "-loglevel", "error", "-i", str(large), *options]
            subprocess.run([*command, "-movflags", "+faststart", str(MEDIA / f"{name}.mp4")], check=True)
    cv2.imwrite(str(MEDIA / "world.jpg"), photo_of(0, (480, 640)), [cv2.IMWRITE_JPEG_QUALITY, 80])
    cv2.imwrite(str(MEDIA / "slide.jpg"), _slide(), [cv2.IMWRITE_JPEG_QUALITY, 90])
    _write_places(MEDIA / "places")
    digit = np.pad(one_digit(60, seed=5, digit=5), 2)[..., None] * np.full(3, 245, np.float32)
    cv2.imwrite(str(MEDIA / "digit.png"), np.rint(digit).astype(np.uint8))


if __name__ == "__main__":
    main()
