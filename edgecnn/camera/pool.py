"""Frames' memory, used again once nobody has the frame any more.

A 1080p frame is 6 MB. Memory that the process has just got from the system is slow to write for the first
time: converting a decoded frame into it takes 1.4 to 2 times as long as into memory that was written before.

A frame belongs to whoever holds it, or a view of it. So an array is written again only when, by Python's own
count, nobody but the pool refers to it. Where references are not counted (PyPy, Python without its lock),
each frame is new.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FramePool"]

SIZE = 8
"""Arrays that are remembered: more than a pipeline has under way."""


class FramePool:
    """The arrays of one reader's last frames. Used by one thread at a time."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.uint8]] = []

    def take(self) -> NDArray[np.uint8] | None:
        """An array of an earlier frame that nobody holds, or None."""
        for position in range(len(self._arrays)):
            if _references(self._arrays, position) == _UNUSED:
                return self._arrays[position]
        return None

    def remember(self, image: NDArray[np.uint8]) -> None:
        """Put a frame's array into the pool, if it is new to it."""
        if _UNUSED is None or any(image is array for array in self._arrays):
            return
        if self._arrays and self._arrays[-1].shape != image.shape:
            self._arrays.clear()
        self._arrays.append(image)
        del self._arrays[:-SIZE]


def _references(arrays: list[NDArray[Any]], position: int) -> int:
    return sys.getrefcount(arrays[position])


def _counts_references() -> bool:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)
    return sys.implementation.name == "cpython" and bool(gil())


_UNUSED = _references([np.empty(0)], 0) if _counts_references() else None
"""What Python counts for an array that only a list holds."""
