"""Drawing that is readable at any resolution: sizes follow the frame's height."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_lines"]

# Heights are of a capital letter.
TEXT_PX = 12  # what can be read without effort
TEXT_SHARE = 1 / 36  # of the frame's height, on large frames: 30 px on 1080p
SMALLEST_PX = 5  # below it, text is noise

# in heights of a capital letter
PITCH = 1.8
MARGIN = 0.6


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
    unit = cv2.getTextSize("A", font, 1.0, 1)[0][1]  # differs between OpenCV 4 and 5
    text_px = max(TEXT_PX, height * TEXT_SHARE)
    thickness = max(1, round(text_px / 14))
    widths = [cv2.getTextSize(text, font, text_px / unit, thickness)[0][0] for text in texts]
    box_w, box_h = max(widths, default=0) + 2 * MARGIN * text_px, (PITCH * len(texts) + MARGIN) * text_px
    shrink = min(1.0, width / box_w, height / box_h)
    if not texts or text_px * shrink < SMALLEST_PX:
        return
    text_px *= shrink
    thickness = max(1, round(text_px / 14))
    box = image_bgr[: int(box_h * shrink), : int(box_w * shrink)]
    box //= 3
    for row, text in enumerate(texts, start=1):
        origin = (round(MARGIN * text_px), round((row * PITCH - MARGIN / 2) * text_px))
        cv2.putText(box, text, origin, font, text_px / unit, (255, 255, 255), thickness, cv2.LINE_AA)


def _ascii(text: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.sub(r"[^ -~]", "?", plain)
