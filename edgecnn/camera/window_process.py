"""The process that owns a window: `python -m edgecnn.camera.window_process TITLE`. See `window_sink`.

It reads pictures from stdin, each as height and width (two unsigned 32-bit numbers, little endian) and its
BGR bytes, and shows them. On stdout it says `READY` when it can take the next one, and `CLOSED` when the user
has closed the window or pressed q or Esc. It ends when stdin does, so it never outlives who started it.
"""

from __future__ import annotations

import resource
import select
import struct
import sys
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOSED", "HEADER", "READY", "main"]

READY = b"r"
CLOSED = b"q"
HEADER = struct.Struct("<II")

_KEYS = (ord("q"), ord("Q"), 27)
_PUMP_S = 0.03  # how often the window gets to redraw itself and to see keys while no picture comes
_LARGEST_WH = (1280, 720)  # of the window at first; it can be resized


def main(title: str) -> int:
    """Show pictures until there are no more, or nobody wants to see them. The exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # without a display, Qt aborts
    import cv2

    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.waitKey(1)
    except cv2.error as error:
        said = "has no windows" if "not implemented" in str(error) else str(error.err)
        sys.stderr.write(f"OpenCV {cv2.__version__} {said}\n")
        return 1
    stdout.write(READY)
    stdout.flush()
    shown = False
    while True:
        if select.select([stdin], [], [], _PUMP_S)[0]:
            picture = _read(stdin)
            if picture is None:
                return 0
            if not shown:
                shown = True
                _resize(cv2, title, picture)
            cv2.imshow(title, picture)
            if _is_closed(cv2, title):
                break
            stdout.write(READY)
            stdout.flush()
        elif _is_closed(cv2, title):
            break
    stdout.write(CLOSED)
    stdout.flush()
    return 0


def _read(stdin: BinaryIO) -> NDArray[np.uint8] | None:
    header = stdin.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    height, width = HEADER.unpack(header)
    data = stdin.read(height * width * 3)
    if len(data) < height * width * 3:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _resize(cv2: Any, title: str, picture: NDArray[np.uint8]) -> None:
    height, width = picture.shape[:2]
    scale = min(1.0, _LARGEST_WH[0] / width, _LARGEST_WH[1] / height)
    cv2.resizeWindow(title, max(1, round(width * scale)), max(1, round(height * scale)))


def _is_closed(cv2: Any, title: str) -> bool:
    if cv2.waitKey(1) & 0xFF in _KEYS:
        return True
    try:
        return bool(cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1)
    except cv2.error:  # what some builds say of a window that is gone
        return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
