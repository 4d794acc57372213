"""Drawing that is readable at any resolution: sizes follow the frame's height."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgecnn.detections import Detections

__all__ = ["class_color", "draw_class_map", "draw_detections", "draw_heat", "draw_lines"]

# Heights are of a capital letter.
TEXT_PX = 10  # what can be read without effort
TEXT_SHARE = 1 / 45  # of the frame's height, on large frames: 24 px on 1080p
SMALLEST_PX = 5  # below it, text is noise

LABEL_PX = 9  # names of boxes, of which there are many, are smaller than lines
LABEL_SHARE = 1 / 64
LINE_SHARE = 1 / 400  # width of a box's lines
SURE_POINT = 0.3  # keypoints that score less are not drawn

# in heights of a capital letter
PITCH = 1.9
MARGIN = 0.7

MASK_OPACITY = 0.45
GOLDEN_RATIO = 0.618034


def draw_lines(
    image_bgr: NDArray[np.uint8],
    lines: Sequence[str],
    *,
    colors: Sequence[tuple[int, int, int]] | None = None,
) -> None:
    """Write lines of text into the top left corner, white on a dark box, in place.

    Everything stays inside the frame: text that would not fit becomes smaller, and where it could not be
    read any more nothing is drawn. OpenCV's built-in fonts know ASCII only: accents are left out, and other
    characters become `?`.

    Args:
        image_bgr: (H, W, 3) uint8.
        lines: from top to bottom.
        colors: (blue, green, red) of each; white where None.
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
        ink = (255, 255, 255) if colors is None else colors[row - 1]
        cv2.putText(box, text, origin, font, text_px / unit, ink, thickness, cv2.LINE_AA)


def draw_detections(
    image_bgr: NDArray[np.uint8], detections: Detections, *, skeleton: Sequence[tuple[int, int]] = ()
) -> None:
    """Draw each object's mask, box, keypoints, track and name with score, in place.

    The surest are drawn last, over the others. Names lie inside the frame, and are left out where nobody
    could read them.

    Args:
        image_bgr: (H, W, 3) uint8.
        detections: in pixels of this frame.
        skeleton: pairs of keypoints with a line between them.
    """
    import cv2

    height, width = image_bgr.shape[:2]
    line_px = max(1, round(min(height, width) * LINE_SHARE))
    colors = [class_color(index) for index in detections.class_ids.tolist()]
    if detections.masks is not None:
        for color, (x, y, mask) in zip(colors, detections.masks, strict=True):
            _blend(image_bgr[y : y + mask.shape[0], x : x + mask.shape[1]], mask, color)
    for index in reversed(range(len(detections))):
        color = colors[index]
        if detections.corners_xy is not None:
            turned = _near(detections.corners_xy[index], height, width)
            cv2.polylines(image_bgr, [turned], True, color, line_px, cv2.LINE_AA)
        else:
            x1, y1, x2, y2 = (round(edge) for edge in detections.boxes_xyxy[index].tolist())
            cv2.rectangle(image_bgr, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), color, line_px)
        if detections.keypoints_xys is not None:
            _draw_points(image_bgr, detections.keypoints_xys[index], skeleton, color, line_px)
    names = detections.class_names
    tracks = [-1] * len(detections) if detections.track_ids is None else detections.track_ids.tolist()
    for index in reversed(range(len(detections))):
        track = f"#{tracks[index]} " if tracks[index] >= 0 else ""
        text = f"{track}{names[index]} {detections.scores[index]:.0%}"
        x1, y1 = detections.boxes_xyxy[index, :2].tolist()
        _draw_label(image_bgr, text, (round(x1), round(y1)), colors[index])


def draw_class_map(
    image_bgr: NDArray[np.uint8],
    class_map: NDArray[np.uint8] | NDArray[np.uint16],
    labels: Sequence[str] = (),
) -> None:
    """Tint each pixel with the colour of its class, in place, and name the classes at the upper left.

    Class 0 of several is taken for the background and stays as it is.

    Args:
        image_bgr: (H, W, 3) uint8.
        class_map: (H, W) class ids; the largest number of its type is a pixel without a class.
        labels: class names by class id.
    """
    import cv2

    counts = np.bincount(class_map.ravel())
    unseen = np.iinfo(class_map.dtype).max
    shown = [int(index) for index in np.flatnonzero(counts) if index not in (0, unseen)]
    if class_map.dtype == np.uint8:
        table = np.zeros((256, 1, 3), np.uint8)
        for index in shown:
            table[index] = class_color(index)
        tint = cv2.applyColorMap(class_map, table)
        mask = cv2.inRange(class_map, 1, 254)
        mixed = cv2.addWeighted(tint, MASK_OPACITY, image_bgr, 1 - MASK_OPACITY, 0)
        cv2.copyTo(mixed, mask, image_bgr)
    else:
        for index in shown:
            _blend(image_bgr, class_map == index, class_color(index))
    most = sorted(shown, key=lambda index: -int(counts[index]))[:5]
    names = [labels[index] if index < len(labels) else str(index) for index in most]
    draw_lines(image_bgr, names, colors=[class_color(index) for index in most])


def draw_heat(image_bgr: NDArray[np.uint8], values: NDArray[np.float32]) -> None:
    """Lay a map of numbers over the frame, in place: dark is its lowest, bright its highest; NaN stays free.

    Args:
        image_bgr: (H, W, 3) uint8.
        values: (H, W).
    """
    import cv2

    known = np.isfinite(values)
    if not known.any():
        return
    low, high = float(values[known].min()), float(values[known].max())
    levels = (np.where(known, values, low) - low) * (255 / (high - low) if high > low else 0)
    colored = cv2.applyColorMap(levels.astype(np.uint8), cv2.COLORMAP_INFERNO)
    mixed = cv2.addWeighted(colored, 0.6, image_bgr, 0.4, 0)
    cv2.copyTo(mixed, known.astype(np.uint8), image_bgr)


@functools.cache
def class_color(class_id: int) -> tuple[int, int, int]:
    """A bright colour (blue, green, red), 0 … 255; those of neighbouring classes differ most.

    Hues follow each other by the golden ratio, which keeps any number of them apart.
    """
    import cv2

    hue = (0.33 + class_id * GOLDEN_RATIO) % 1
    # every other turn is paler: the hues alone would come close after a dozen classes
    saturation, value = ((230, 255), (140, 255), (255, 190))[class_id // 8 % 3]
    pixel = np.array([[[round(hue * 179), saturation, value]]], np.uint8)
    blue, green, red = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def _blend(part_bgr: NDArray[np.uint8], mask: NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    if not mask.size:
        return
    import cv2

    tint = np.empty_like(part_bgr)
    tint[...] = color
    mixed = cv2.addWeighted(tint, MASK_OPACITY, part_bgr, 1 - MASK_OPACITY, 0)
    np.copyto(part_bgr, mixed, where=mask[..., None])


def _draw_points(
    image_bgr: NDArray[np.uint8],
    points_xys: NDArray[np.float32],
    skeleton: Sequence[tuple[int, int]],
    color: tuple[int, int, int],
    line_px: int,
) -> None:
    import cv2

    height, width = image_bgr.shape[:2]
    places = _near(points_xys[:, :2], height, width)
    sure = points_xys[:, 2] > SURE_POINT
    for first, second in skeleton:
        if sure[first] and sure[second]:
            start, end = places[first].tolist(), places[second].tolist()
            cv2.line(image_bgr, start, end, color, line_px, cv2.LINE_AA)
    for place in places[sure].tolist():
        cv2.circle(image_bgr, place, 2 * line_px, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(image_bgr, place, 2 * line_px, color, line_px, cv2.LINE_AA)


def _near(points_xy: NDArray[np.float32], height: int, width: int) -> NDArray[np.int32]:
    """As whole pixels, not so far outside that OpenCV's numbers would overflow."""
    side = max(height, width)
    whole: NDArray[np.int32] = np.floor(points_xy.clip(-side, 2 * side)).astype(np.int32)
    return whole


def _draw_label(
    image_bgr: NDArray[np.uint8], text: str, corner_xy: tuple[int, int], color: tuple[int, int, int]
) -> None:
    """A name on a box of its colour, above the corner or below it, inside the frame."""
    import cv2

    height, width = image_bgr.shape[:2]
    text, font, unit = _ascii(text), cv2.FONT_HERSHEY_SIMPLEX, _capital_px()
    text_px = max(LABEL_PX, min(height, width) * LABEL_SHARE)
    for _ in range(2):  # smaller, where it is wider than the frame
        thickness = max(1, round(text_px / 10))
        label_w = round(cv2.getTextSize(text, font, text_px / unit, thickness)[0][0] + MARGIN * text_px)
        if label_w <= width:
            break
        text_px *= width / label_w * 0.95
    label_h = round((1 + 2 * MARGIN / 2) * text_px + thickness)
    if text_px < SMALLEST_PX or label_h > height or label_w > width:
        return
    x = min(max(0, corner_xy[0]), width - label_w)
    y = corner_xy[1] - label_h if corner_xy[1] >= label_h else min(corner_xy[1], height - label_h)
    area = image_bgr[y : y + label_h, x : x + label_w]
    area[...] = color
    luminance = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2]
    ink = (0, 0, 0) if luminance > 110 else (255, 255, 255)
    origin = (round(MARGIN / 2 * text_px), label_h - round(MARGIN / 2 * text_px + thickness / 2))
    cv2.putText(area, text, origin, font, text_px / unit, ink, thickness, cv2.LINE_AA)


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
