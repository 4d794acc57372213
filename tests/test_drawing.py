from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.drawing import draw_lines

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
