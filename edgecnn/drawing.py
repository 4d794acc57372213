"""Drawing that is readable at any resolution: sizes follow the frame's height."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_lines"]

# Heights are of a capital letter.
TEXT_PX = 10  # what can be read without effort
TEXT_SHARE = 1 / 45  # of the frame's height, on large frames: 24 px on 1080p
SMALLEST_PX = 5  # below it, text is noise

# in heights of a capital letter
PITCH = 1.9
MARGIN = 0.7


def draw_lines(image_bgr: NDArray[np.uint8], lines: Sequence[str]) -> None:
    """Write lines of text into the top left corner, white on a dark box, in place.

    Everything stays inside the frame: text that would not fit becomes smaller, and where it could not be
    read any more nothing is drawn. OpenCV's built-in fonts know ASCII only: accents are left out, and other
    characters become `?`.

    Args:
        image_bgr: (H, W, 3) uint8.
        lines: from top to bottom.
    """
    import cv2

    height, width = image_bgr.shape[:2]
    texts = [_ascii(line) for line in lines]
    font = cv2.FONT_HERSHEY_SIMPLEX
    unit = _capital_px()
    text_px = max(TEXT_PX, height * TEXT_SHARE)
    thickness = max(1, round(text_px / 12))
    widths = [cv2.getTextSize(text, font, text_px / unit, thickness)[0][0] for text in texts]
    box_w, box_h = max(widths, default=0) + 2 * MARGIN * text_px, (PITCH * len(texts) + MARGIN) * text_px
    shrink = min(1.0, width / box_w, height / box_h)
    if not texts or text_px * shrink < SMALLEST_PX:
        return
    text_px *= shrink
    thickness = max(1, round(text_px / 12))
    box = image_bgr[: int(box_h * shrink), : int(box_w * shrink)]
    box //= 3
    for row, text in enumerate(texts, start=1):
        origin = (round(MARGIN * text_px), round((row * PITCH - MARGIN / 2) * text_px))
        cv2.putText(box, text, origin, font, text_px / unit, (255, 255, 255), thickness, cv2.LINE_AA)


@functools.cache
def _capital_px() -> float:
    """Height of a capital at OpenCV's font scale 1, measured: getTextSize means another in OpenCV 5."""
    import cv2

    scale = 4
    canvas = np.zeros((200, 200), np.uint8)
    cv2.putText(canvas, "H", (20, 150), cv2.FONT_HERSHEY_SIMPLEX, scale, (255,), 1)
    return float(canvas.any(axis=1).sum()) / scale


def _ascii(text: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.sub(r"[^ -~]", "?", plain)
