from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.detections import Detections
from edgecnn.drawing import class_color, draw_class_map, draw_detections, draw_heat, draw_lines
from edgecnn.masks import Masks

FRAME_BGR = np.array([210, 120, 30], np.uint8)  # no mixture of white and of the box behind the text
DARK = 210 // 3

LINES = ["29.1%  mountain bike", "3.2%  crash helmet", "1.0%  bicycle-built-for-two"]


def blank(height: int, width: int) -> NDArray[np.uint8]:
    return np.tile(FRAME_BGR, (height, width, 1))


def drawn(height: int, width: int, lines: list[str]) -> NDArray[np.uint8]:
    image = blank(height, width)
    draw_lines(image, lines)
    return image


def box_hw(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width of the part that was drawn on; it starts in the corner."""
    changed = (image != FRAME_BGR).any(axis=2)
    height, width = int(changed.any(axis=1).sum()), int(changed.any(axis=0).sum())
    assert changed[:height, :width].all()
    assert not changed[height:].any()
    assert not changed[:, width:].any()
    return height, width


@pytest.mark.parametrize(
    ("height", "width"), [(272, 640), (480, 640), (1080, 1920), (2160, 3840), (64, 2000), (2000, 200)]
)
def test_text_lies_inside_its_box_and_the_box_inside_the_frame(height: int, width: int) -> None:
    image = drawn(height, width, LINES)
    box_h, box_w = box_hw(image)
    assert box_h <= height
    assert box_w <= width
    text = image.max(axis=2)[:box_h, :box_w] > DARK
    assert text.any()
    border = text.copy()
    border[1:-1, 1:-1] = False
    assert not border.any()  # nothing is cut off


def lit_rows(image: NDArray[np.uint8]) -> int:
    """Height of one line of capitals; without the soft edge, which OpenCV 4 draws wider than OpenCV 5."""
    box_h, box_w = box_hw(image)
    return int((image.min(axis=2)[:box_h, :box_w] > 160).any(axis=1).sum())


@pytest.mark.parametrize(("height", "smallest", "largest"), [(272, 9, 12), (480, 10, 13), (1080, 23, 28)])
def test_capitals_are_large_enough_to_read(height: int, smallest: int, largest: int) -> None:
    assert smallest <= lit_rows(drawn(height, 16 * height // 9, ["HELMET"])) <= largest


def test_text_that_is_too_long_becomes_smaller() -> None:
    long = drawn(272, 640, ["M" * 90])
    assert box_hw(long)[1] <= 640
    assert 0 < lit_rows(long) < lit_rows(drawn(272, 640, ["M"]))


@pytest.mark.parametrize(
    ("height", "width", "lines"),
    [
        (8, 8, LINES),
        (16, 640, LINES),
        (480, 20, LINES),
        (1, 1, ["x"]),
        (480, 640, []),
        (480, 640, ["M" * 1000]),
    ],
)
def test_nothing_is_drawn_where_nothing_could_be_read(height: int, width: int, lines: list[str]) -> None:
    assert (drawn(height, width, lines) == FRAME_BGR).all()


def test_what_the_font_does_not_know() -> None:
    np.testing.assert_array_equal(drawn(300, 400, ["crème brûlée"]), drawn(300, 400, ["creme brulee"]))
    np.testing.assert_array_equal(drawn(300, 400, ["犬 a\nb\x1b"]), drawn(300, 400, ["? a?b?"]))


def test_the_rest_of_the_frame_and_of_a_larger_picture_stay() -> None:
    picture = blank(600, 800)
    draw_lines(picture[100:400, 200:700], LINES)  # a part of it, not contiguous
    part = picture[100:400, 200:700].copy()
    np.testing.assert_array_equal(part, drawn(300, 500, LINES))
    picture[100:400, 200:700] = FRAME_BGR
    assert (picture == FRAME_BGR).all()


def objects(boxes: list[list[float]], **parts: Any) -> Detections:
    count = len(boxes)
    return Detections(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.full(count, 0.87, np.float32),
        class_ids=np.arange(count),
        labels=("bicycle", "person with a remarkably long name"),
        **parts,
    )


def marked(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((image != FRAME_BGR).any(axis=2))


@pytest.mark.parametrize(("height", "width"), [(240, 320), (480, 640), (1080, 1920), (2160, 3840)])
def test_boxes_and_names_grow_with_the_frame(height: int, width: int) -> None:
    """Wherever the box lies, even in a corner, its name can be read, and lies inside the frame."""
    for x, y in ((0.0, 0.0), (0.8, 0.0), (0.4, 0.4), (0.8, 0.8)):
        box = [x * width, y * height, (x + 0.2) * width, (y + 0.2) * height]
        image = blank(height, width)
        draw_detections(image, objects([box]))
        color = np.array(class_color(0))
        name = (image == color).all(axis=2)
        rows = np.flatnonzero(name.sum(axis=1) > 0.05 * width)
        assert len(rows) >= 9  # the box of its colour behind the name, as high as a capital or higher
        ink = (image < 60).all(axis=2)
        assert ink.sum() > 60
    line = marked(image)[round(0.9 * height), : round(0.8 * width) + 40]
    assert max(1, height / 500) <= line.sum() <= max(3, height / 150)


@pytest.mark.parametrize("shape", [(1, 1), (4, 300), (300, 4), (30, 30), (64, 48)])
def test_nothing_is_written_outside_of_small_frames(shape: tuple[int, int]) -> None:
    canvas = blank(shape[0] + 40, shape[1] + 40)
    frame = canvas[20:-20, 20:-20]
    points = np.array([[[-1e9, 1e9, 1], [5, 5, 1]]] * 2, np.float32)
    corners = np.array([[[-1e9, 0], [9, -1e9], [1e9, 9], [0, 1e9]]] * 2, np.float32)
    boxes = [[0.0, 0.0, float(shape[1]), float(shape[0])], [0.2, 0.2, 0.4, 0.4]]
    draw_detections(frame, objects(boxes, keypoints_xys=points), skeleton=[(0, 1)])
    draw_detections(frame, objects(boxes, corners_xy=corners))
    around = marked(canvas)
    around[20:-20, 20:-20] = False
    assert not around.any()


def test_masks_tracks_and_unsure_points() -> None:
    mask = np.zeros((2, 200, 300), bool)
    mask[0, 60:90, 60:120] = True
    found = objects([[50, 50, 150, 100], [200, 100, 290, 190]], masks=Masks.from_dense(mask))
    image = blank(200, 300)
    draw_detections(image, found)
    tint = image[75, 90].astype(int)
    np.testing.assert_allclose(tint, 0.45 * np.array(class_color(0)) + 0.55 * FRAME_BGR, atol=2)
    assert not marked(image)[55, 70]
    tracked = blank(200, 300)
    draw_detections(tracked, objects([[50, 50, 150, 100]], track_ids=np.array([7])))
    untracked = blank(200, 300)
    draw_detections(untracked, objects([[50, 50, 150, 100]]))
    assert marked(tracked).sum() > marked(untracked).sum()  # a longer name
    unsure = blank(200, 300)
    draw_detections(unsure, objects([[50, 50, 150, 100]], keypoints_xys=np.array([[[70, 75, 0.1]]])))
    np.testing.assert_array_equal(unsure, untracked)
    draw_detections(image, Detections.empty())


def test_colors_of_classes_differ() -> None:
    colors = np.array([class_color(index) for index in range(24)], float)
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1000 * np.eye(24)
    assert apart.min() > 40
    assert min(np.linalg.norm(colors[i] - colors[i + 1]) for i in range(23)) > 100
    assert (colors.max(axis=1) > 150).all()


def test_class_maps_and_heat() -> None:
    class_map = np.zeros((200, 300), np.uint8)
    class_map[100:, :150] = 1
    class_map[100:, 150:] = 255  # not seen
    image, wide = blank(200, 300), blank(200, 300)
    draw_class_map(image, class_map, ("road", "lane"))
    larger = class_map.astype(np.uint16)
    larger[class_map == 255] = 65535
    draw_class_map(wide, larger, ("road", "lane"))
    np.testing.assert_allclose(image.astype(int), wide.astype(int), atol=1)
    assert marked(image)[100:, :150].all()
    assert not marked(image)[100:, 150:].any()
    heat = np.tile(np.linspace(0, 1, 300, dtype=np.float32), (200, 1))
    heat[:50] = np.nan
    image = blank(200, 300)
    draw_heat(image, heat)
    assert not marked(image)[:50].any()
    assert (np.diff(image[100].astype(int).sum(axis=1)[::30]) > 0).all()
    draw_heat(image, np.full((200, 300), np.nan, np.float32))
    draw_heat(image, np.zeros((200, 300), np.float32))
