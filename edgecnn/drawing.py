"""Drawing that is readable at any resolution: sizes follow the frame's height."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_lines"]


def draw_lines(image_bgr: NDArray[np.uint8], lines: Sequence[str]) -> None:
    """Write lines of text into the top left corner, white on a dark box, in place.

    OpenCV's built-in fonts know ASCII only; other characters become `?` rather than boxes of garbage.
    """
    import cv2

    height, width = image_bgr.shape[:2]
    texts = [line.encode("ascii", "replace").decode() for line in lines]
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(height / 500))
    scale = max(0.3, height / 900)
    sizes = [cv2.getTextSize(text, font, scale, thickness)[0] for text in texts]
    widest = max((text_width for text_width, _ in sizes), default=0)
    if widest > 0.95 * width:  # a narrow frame: shrink rather than cut
        scale *= 0.95 * width / widest
        sizes = [cv2.getTextSize(text, font, scale, thickness)[0] for text in texts]
    line_height = round(1.8 * max((text_height for _, text_height in sizes), default=0))
    box = image_bgr[: line_height * len(texts) + line_height // 3, : max((w for w, _ in sizes), default=0) + line_height]
    box //= 3
    for row, text in enumerate(texts, start=1):
        origin = (line_height // 2, row * line_height - line_height // 6)
        cv2.putText(image_bgr, text, origin, font, scale, (255, 255, 255), thickness, cv2.LINE_AA)
