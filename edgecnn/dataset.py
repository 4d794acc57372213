"""Frames to calibrate, measure and compare with: images, a video, an array or a camera, one at a time.

A FrameSet can be gone through again and again (a camera only once), holds one frame at a time, and can be
split into a part to calibrate with and a part held out, such that frames of one source do not end up on
both sides. Images are of one source where they are in one folder and their names differ in nothing but a
number at the end: the frames of a video, the crops of a photo. A video or camera is one source, of which
the last fifth is held out; so are the images of fewer than five sources.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera.images import image_files, is_image_name, read_image
from edgecnn.camera.opening import open_camera
from edgecnn.camera.source import Skipped
from edgecnn.camera.uri import parse_source
from edgecnn.errors import DataError, SourceError

__all__ = ["FrameSet", "image_frames", "open_frames"]

HELD_OUT = 5  # every fifth source, or the last fifth of a video
DEFAULT_CAMERA_FRAMES = 512


class FrameSet:
    """Frames as (H, W, 3) uint8 BGR.

    Args:
        name: where they come from, for messages.
        positions: which frames of the source.
        read: positions → their frames, in order.
        contiguous: neighbours resemble each other, as in a video.
        skipped: where `read` puts what cannot be read.
        sources: which source each frame comes from, for each of `positions`; each its own where None.
    """

    def __init__(
        self,
        name: str,
        positions: Sequence[int],
        read: Callable[[Sequence[int]], Iterator[NDArray[np.uint8]]],
        *,
        contiguous: bool = False,
        skipped: list[Skipped] | None = None,
        sources: Sequence[object] | None = None,
    ) -> None:
        self.name = name
        self.positions = positions
        self.contiguous = contiguous
        self._sources = positions if sources is None else sources
        self._read = read
        self._skipped = [] if skipped is None else skipped

    @property
    def count(self) -> int:
        """How many frames there will be, unreadable ones included."""
        return len(self.positions)

    @property
    def sources(self) -> Sequence[object]:
        """Which source each frame comes from, for each of `positions`; each its own where not known."""
        return self._sources

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be read so far, each once."""
        return list(dict.fromkeys(self._skipped))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self._read(self.positions)

    def spaced(self, count: int) -> FrameSet:
        """At most `count` of the frames, evenly spaced."""
        chosen = [index * self.count // count for index in range(count)]
        if self.count <= count:
            chosen = list(range(self.count))
        return self._part(chosen)

    def split(self, parts: int = HELD_OUT) -> tuple[FrameSet, FrameSet]:
        """Frames to calibrate with, and one of `parts` parts, a fifth, held out to measure on.

        Raises:
            DataError: fewer than two frames.
        """
        if self.count < 2:
            raise DataError(
                f"too few frames in {self.name}",
                got=str(self.count),
                expected="at least 2, better 100 or more",
                remedy="Add frames, or give frames to measure on with --eval-data",
            )
        order = list(dict.fromkeys(self._sources))
        if self.contiguous or parts > len(order) != self.count:
            border = max(1, self.count - max(1, self.count // parts))
            held_out = set(range(border, self.count))
        else:
            held_out = self._every(parts, order)
        first, second = (
            self._part(part)
            for part in ([index for index in range(self.count) if index not in held_out], sorted(held_out))
        )
        return first, second

    def _part(self, indices: Sequence[int]) -> FrameSet:
        return FrameSet(
            self.name,
            [self.positions[index] for index in indices],
            self._read,
            contiguous=self.contiguous,
            skipped=self._skipped,
            sources=[self._sources[index] for index in indices],
        )

    def _every(self, parts: int, order: Sequence[object]) -> set[int]:
        """The frames of every fifth source, from the one on that brings them nearest to a fifth."""
        step = min(parts, len(order))
        choices = []
        for start in reversed(range(step)):
            chosen = set(order[start::step])
            choices.append({index for index, source in enumerate(self._sources) if source in chosen})
        return min(choices, key=lambda frames: abs(len(frames) - self.count / parts))


def open_frames(path: str | os.PathLike[str], *, limit: int | None = None) -> FrameSet:
    """Open frames.

    Args:
        path: a folder or pattern of images, one image, a video, a camera or stream, or a `.npy` of uint8
            (N, H, W, 3) RGB.
        limit: frames to use at most, evenly spaced.

    Raises:
        DataError: there are none, or the array is of another kind.
        SourceError: the video or camera cannot be opened.
    """
    if limit is not None and limit < 1:
        raise DataError("limit is wrong", got=str(limit), expected="a whole number from 1")
    if os.fspath(path).endswith(".npy"):
        return _array(Path(path), limit)
    try:
        uri = parse_source(path)
        if not uri.is_stored:
            return _camera(path, uri.name, limit or DEFAULT_CAMERA_FRAMES)
        files = image_files(uri.target) if uri.kind != "file" or is_image_name(uri.target) else []
    except SourceError as error:  # nothing there, or nothing of use
        raise DataError(error.what, got=error.got, expected=error.expected, remedy=error.remedy) from error
    return image_frames(files, uri.name, limit=limit) if files else _video(path, uri.name, limit)


def _evenly(count: int, limit: int | None) -> list[int]:
    """At most `limit` of `count` positions, evenly spaced."""
    if limit is None or count <= limit:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def _array(path: Path, limit: int | None) -> FrameSet:
    expected = "uint8 (N, H, W, 3) RGB"
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # np.load would open other formats too
    except FileNotFoundError as error:
        raise DataError(f"no array {path}", expected=f"a .npy of {expected}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}", got=str(error), expected=f"a .npy of {expected}") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or array.size == 0:
        raise DataError(f"{path} does not hold frames", got=f"{array.dtype} {array.shape}", expected=expected)

    def read(positions: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        for position in positions:
            yield np.ascontiguousarray(array[position, :, :, ::-1])

    return FrameSet(path.name, _evenly(len(array), limit), read)


def image_frames(files: Sequence[Path], name: str, *, limit: int | None = None) -> FrameSet:
    """Frames of image files; `positions` are places in `files`."""
    skipped: list[Skipped] = []

    def read(positions: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        unreadable = 0
        for position in positions:
            try:
                image = read_image(files[position])
            except SourceError as error:
                skipped.append(Skipped(files[position], error.got or error.what))
                unreadable += 1
                continue
            yield image
        if unreadable == len(positions):
            raise DataError(
                f"none of these {unreadable} images of {name} can be read",
                got=f"{skipped[-1].path}: {skipped[-1].reason}",
            )

    positions = _evenly(len(files), limit)
    sources = [_source(files[position]) for position in positions]
    return FrameSet(name, positions, read, skipped=skipped, sources=sources)


def _source(file: Path) -> tuple[Path, str]:
    """What files of one source have in common: the folder, and the name without a number at its end."""
    return file.parent, re.sub(r"[-_ .(]*\d+\)?$", "", file.stem)


def _video(path: str | os.PathLike[str], name: str, limit: int | None) -> FrameSet:
    def read(positions: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        wanted, last = set(positions), max(positions, default=-1)
        with open_camera(path) as source:
            for frame in source:
                if frame.index > last:
                    return
                if frame.index in wanted:
                    yield frame.image

    with open_camera(path) as source:
        # Containers may announce more frames than there are, or none; what was announced decides only
        # which frames are taken.
        count = source.frame_count or sum(1 for _ in source)
    return FrameSet(name, _evenly(count, limit), read, contiguous=True)


def _camera(path: str | os.PathLike[str], name: str, limit: int) -> FrameSet:
    """A camera shows new frames each time, so a position is only a number to count to."""

    def read(positions: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        with open_camera(path) as source:
            for _, frame in zip(positions, source, strict=False):
                yield frame.image

    return FrameSet(name, range(limit), read, contiguous=True)
