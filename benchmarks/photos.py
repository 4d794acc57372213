"""Real photos to calibrate with and to judge by, from packages that are installed; nothing is downloaded.

The unit is the *source*: one photo, one scene shot twice, one video. A source is on one side only, and
intervals are bootstrapped over sources, since crops of one photo say much the same.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Photos", "collect", "sources"]

OPENCV_DOC = Path("/usr/share/doc/opencv-doc/examples")
"""Where Debian's package opencv-doc puts its photos and videos."""

_PACKAGED = {
    "skimage/data": (
        "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
        "hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png retina.jpg rocket.jpg"
    ),
    "sklearn/datasets/images": "china.jpg flower.jpg",
    "foolbox/data": "imagenet_*.jpg",
}
_OPENCV = {
    "alphamat/input_images": "plant.jpg",
    "data": (
        "HappyFish.jpg Megamind.avi aero1.jpg aloeL.jpg apple.jpg baboon.jpg basketball1.png board.jpg "
        "box_in_scene.png building.jpg butterfly.jpg cards.png chicky_512.png ela_original.jpg fruits.jpg "
        "graf1.png home.jpg left01.jpg leuvenA.jpg licenseplate_motion.jpg messi5.jpg orange.jpg "
        "rubberwhale1.png smarties.png squirrel_cls.jpg starry_night.jpg stuff.jpg tree.avi vtest.avi"
    ),
    "hfs/data": "000.jpg 001.jpg 002.jpg",
    "text": " ".join(f"scenetext0{number}.jpg" for number in range(1, 7)),
    "ximgproc": "peilin_plane.png",
}
_VIDEO_FRAMES = 5


@dataclass(frozen=True, eq=False)
class Photos:
    """Frames, all of one size, and where each comes from.

    Attributes:
        frames: (N, H, W, 3) uint8 RGB.
        sources: (N,) the number of each frame's source.
        names: the sources' names.
    """

    frames: NDArray[np.uint8]
    sources: NDArray[np.int64]
    names: Sequence[str]


def sources(opencv_doc: Path = OPENCV_DOC) -> list[Path]:
    """The photos and videos that are installed here, each a source of its own, in a fixed order."""
    found: list[Path] = []
    for place, names in _PACKAGED.items():
        package, _, folder = place.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += _matching(Path(spec.origin).parent / folder, names)
    for place, names in _OPENCV.items():
        found += _matching(opencv_doc / place, names)
    return found


def collect(
    paths: Sequence[Path], *, crops: int, side: int = 256, limit: int | None = None, seed: int = 0
) -> Photos:
    """Square crops of random size and place, `crops` from each source, scaled to `side` pixels.

    Args:
        paths: photos and videos.
        crops: from each of them; the first is the largest square in the middle.
        side: of the frames, in pixels.
        limit: frames at most; the sources take turns.
        seed: of the crops.
    """
    random = np.random.default_rng(seed)
    taken: list[tuple[int, int, NDArray[np.uint8]]] = []
    for number, path in enumerate(paths):
        pictures = list(_pictures(path))
        for turn in range(crops):
            crop = _crop(pictures[turn % len(pictures)], turn, random)
            scaled = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
            taken.append((turn, number, np.asarray(scaled, np.uint8)))
    taken.sort(key=lambda entry: entry[:2])
    taken = sorted(taken[:limit], key=lambda entry: entry[1])
    frames = np.stack([frame[:, :, ::-1] for _, _, frame in taken])
    return Photos(frames, np.array([number for _, number, _ in taken]), [path.stem for path in paths])


def _matching(folder: Path, names: str) -> list[Path]:
    return [path for name in names.split() for path in sorted(folder.glob(name))]


def _pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    if path.suffix not in (".avi", ".mp4"):
        yield np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)
        return
    video = cv2.VideoCapture(str(path))
    step = max(1, int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // _VIDEO_FRAMES)
    for index in range(_VIDEO_FRAMES * step):
        there, frame = video.read()
        if not there:
            break
        if index % step == 0:
            yield np.asarray(frame, np.uint8)


def _crop(picture: NDArray[np.uint8], turn: int, random: np.random.Generator) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    largest = min(height, width)
    share = 1.0 if turn == 0 else random.uniform(0.45, 1.0)
    side = int(largest * share)
    top, left = (height - side) // 2, (width - side) // 2
    if turn:
        top, left = int(random.integers(0, height - side + 1)), int(random.integers(0, width - side + 1))
    crop = picture[top : top + side, left : left + side]
    return np.ascontiguousarray(crop[:, ::-1] if turn % 2 else crop)
