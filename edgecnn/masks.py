"""Masks of objects in a frame, each only as large as its object, and their form in JSON.

COCO's run lengths count pixels of 0, of 1, of 0 … in turn, down the columns from the left. `size` is
[height, width]. `counts` is a text of printable characters: each count, from the fourth on as its difference
from the one two before, in groups of five bits, lowest first; bit 6 says that another group follows, and
each group has 48 added. This is the form that pycocotools writes and reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import InputError

__all__ = ["Crop", "Masks", "decode_runs", "encode_runs"]

MOST_PIXELS = 1 << 28  # of one mask; run lengths of a few bytes could ask for any number


class Crop(NamedTuple):
    """The part of a mask outside of which it is empty.

    `x_px` and `y_px` are where its upper left pixel lies in the frame; `mask` is (h, w) bool.
    """

    x_px: int
    y_px: int
    mask: NDArray[np.bool_]


class _Once:
    """Calls a function when its value is first wanted. Two threads at once may both call it."""

    def __init__(self, make: Callable[[], Crop]) -> None:
        self.make: Callable[[], Crop] | None = make
        self.value: Crop | None = None

    def __call__(self) -> Crop:
        make = self.make
        if make is not None:
            self.value = make()
            self.make = None  # what it was made of is not needed any more
        assert self.value is not None
        return self.value


class Masks:
    """One mask a detection, at the frame's resolution; made when it is first looked at.

    Args:
        frame_hw: height and width of the frame, in pixels.
        crops: one function a mask.
    """

    def __init__(self, frame_hw: tuple[int, int], crops: Sequence[Callable[[], Crop]]) -> None:
        self.frame_hw = frame_hw
        self._crops = [crop if isinstance(crop, _Once) else _Once(crop) for crop in crops]

    @classmethod
    def from_dense(cls, masks: NDArray[Any]) -> Masks:
        """From (N, H, W), true where the object is."""
        if masks.ndim != 3:
            raise InputError("wrong masks", got=str(masks.shape), expected="(N, H, W)")
        crops = [_trimmed(mask.astype(bool, copy=False)) for mask in masks]
        return cls((masks.shape[1], masks.shape[2]), [lambda crop=crop: crop for crop in crops])  # type: ignore[misc]

    @classmethod
    def from_coco(cls, runs: Sequence[Mapping[str, Any]], frame_hw: tuple[int, int]) -> Masks:
        """From what `to_coco` gave. Raises InputError."""
        crops = []
        for entry in runs:
            if list(entry.get("size", ())) != list(frame_hw):  # before memory is taken for it
                raise InputError("wrong size of a mask", got=str(entry.get("size")), expected=str(frame_hw))
            crops.append(_trimmed(decode_runs(entry)))
        return cls(frame_hw, [lambda crop=crop: crop for crop in crops])  # type: ignore[misc]

    @classmethod
    def joined(cls, parts: Sequence[Masks]) -> Masks:
        """Those of several looks at one frame."""
        return cls(parts[0].frame_hw, [crop for part in parts for crop in part._crops])

    def __len__(self) -> int:
        return len(self._crops)

    def __iter__(self) -> Iterator[Crop]:
        return (crop() for crop in self._crops)

    def __getitem__(self, index: Any) -> Masks:
        """The masks that a slice, a mask or an array of indices selects, as in NumPy."""
        chosen = np.arange(len(self))[index]
        return Masks(self.frame_hw, [self._crops[number] for number in np.atleast_1d(chosen)])

    def dense(self) -> NDArray[np.bool_]:
        """(N, H, W) bool."""
        dense = np.zeros((len(self), *self.frame_hw), bool)
        for canvas, (x, y, mask) in zip(dense, self, strict=True):
            canvas[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        return dense

    def areas_px(self) -> NDArray[np.int64]:
        """(N,) pixels of each."""
        return np.array([int(np.count_nonzero(crop.mask)) for crop in self], np.int64)

    def moved(self, x_px: int, y_px: int, frame_hw: tuple[int, int]) -> Masks:
        """The same masks in a larger frame of which this one begins at (x, y)."""

        def move(source: Callable[[], Crop]) -> Callable[[], Crop]:
            def crop() -> Crop:
                x, y, mask = source()
                return Crop(x + x_px, y + y_px, mask)

            return crop

        return Masks(frame_hw, [move(crop) for crop in self._crops])

    def iou(self, first: int, other: Masks, second: int) -> float:
        """Intersection over union of two masks of one frame; 1 for two empty ones."""
        a, b = self._crops[first](), other._crops[second]()
        x1, y1 = max(a.x_px, b.x_px), max(a.y_px, b.y_px)
        x2 = min(a.x_px + a.mask.shape[1], b.x_px + b.mask.shape[1])
        y2 = min(a.y_px + a.mask.shape[0], b.y_px + b.mask.shape[0])
        both = 0
        if x1 < x2 and y1 < y2:
            both = int(
                np.count_nonzero(
                    a.mask[y1 - a.y_px : y2 - a.y_px, x1 - a.x_px : x2 - a.x_px]
                    & b.mask[y1 - b.y_px : y2 - b.y_px, x1 - b.x_px : x2 - b.x_px]
                )
            )
        union = int(np.count_nonzero(a.mask)) + int(np.count_nonzero(b.mask)) - both
        return both / union if union else 1.0

    def to_coco(self) -> list[dict[str, Any]]:
        """One `{"size": [height, width], "counts": text}` each."""
        return [encode_runs(crop, self.frame_hw) for crop in self]


def _trimmed(mask: NDArray[np.bool_]) -> Crop:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Crop(0, 0, np.zeros((0, 0), bool))
    top, left = int(rows[0]), int(columns[0])
    return Crop(left, top, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy())


def encode_runs(crop: Crop, frame_hw: tuple[int, int]) -> dict[str, Any]:
    """A mask as COCO's run lengths."""
    height, width = frame_hw
    x, y, mask = crop
    columns = np.zeros((mask.shape[1], height), np.int8)  # a column of the frame in each row
    columns[:, y : y + mask.shape[0]] = mask.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=0, append=0)) + x * height
    total = height * width
    runs = np.diff(changes[changes < total], prepend=0, append=total)
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    return {"size": [height, width], "counts": _as_text(runs)}


def _as_text(runs: NDArray[np.int64]) -> str:
    values = runs.copy()
    values[3:] -= runs[1:-2]
    characters = bytearray()
    for value in values.tolist():
        while True:
            group = value & 31
            value >>= 5
            done = value == (-1 if group & 16 else 0)  # the rest is nothing but the sign
            characters.append(48 + group + (0 if done else 32))
            if done:
                break
    return characters.decode("ascii")


def decode_runs(runs: Mapping[str, Any]) -> NDArray[np.bool_]:
    """COCO's run lengths, `counts` as text or as a list → (H, W) bool. Raises InputError."""
    try:
        height, width = (int(side) for side in runs["size"])
        counts = runs["counts"]
        lengths = _from_text(counts) if isinstance(counts, (str, bytes)) else [int(run) for run in counts]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "these are no run lengths of COCO", got=str(error) or type(error).__name__
        ) from error
    fits = min(height, width) >= 0 and height * width <= MOST_PIXELS and min(lengths, default=0) >= 0
    if not fits or sum(lengths) != height * width:
        raise InputError(
            "run lengths do not fill their mask", got=str(sum(lengths)), expected=f"{height} x {width}"
        )
    values = np.arange(len(lengths)) % 2 == 1
    mask: NDArray[np.bool_] = np.repeat(values, lengths).reshape(width, height).T.copy()
    return mask


def _from_text(text: str | bytes) -> list[int]:
    lengths: list[int] = []
    value, shift = 0, 0
    for code in text.encode("ascii") if isinstance(text, str) else text:
        group = code - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError("a character that is none of the code's")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the last count is cut off")
    return lengths
