from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.geometry import Geometry

# 1080p into 640 × 640: a third of the size, 140 rows of border above
LETTERBOX = Geometry(frame_hw=(1080, 1920), scale_xy=(1 / 3, 1 / 3), offset_xy=(0.0, 140.0))


def test_corners_of_the_frame_are_corners_of_the_live_part() -> None:
    corners = [[0, 0], [1920, 1080]]
    np.testing.assert_allclose(LETTERBOX.to_input(corners), [[0, 140], [640, 500]])


def test_x_and_y_are_not_exchanged() -> None:
    geometry = Geometry(frame_hw=(10, 20), scale_xy=(2.0, 3.0), offset_xy=(5.0, 7.0))
    np.testing.assert_array_equal(geometry.to_input([1, 1]), [7, 10])
    np.testing.assert_array_equal(geometry.to_frame([7, 10]), [1, 1])


@pytest.mark.parametrize("shape", [(2,), (0, 2), (5, 2), (3, 4, 2)])
def test_any_number_of_leading_axes(shape: tuple[int, ...]) -> None:
    points = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert LETTERBOX.to_input(points).shape == shape
    assert LETTERBOX.to_frame(points).dtype == np.float64
    assert LETTERBOX.to_frame(points).shape == shape


_scales = st.floats(1e-3, 1e3)
_offsets = st.floats(-1e5, 1e5)


@settings(deadline=None)
@given(st.tuples(_scales, _scales), st.tuples(_offsets, _offsets), st.tuples(_offsets, _offsets))
def test_to_frame_undoes_to_input(
    scale_xy: tuple[float, float], offset_xy: tuple[float, float], point_xy: tuple[float, float]
) -> None:
    geometry = Geometry(frame_hw=(1, 1), scale_xy=scale_xy, offset_xy=offset_xy)
    # float64 keeps 16 digits; 1e5 / 1e-3 leaves 8 of them after the decimal point
    np.testing.assert_allclose(geometry.to_frame(geometry.to_input(point_xy)), point_xy, atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.tuples(_scales, _scales))
def test_boxes_come_back_and_are_cut_at_the_frames_borders(
    height: int, width: int, scale_xy: tuple[float, float]
) -> None:
    geometry = Geometry(frame_hw=(height, width), scale_xy=scale_xy, offset_xy=(7.0, -3.0))
    boxes = np.array([[0.1, 0.2, 0.8, 0.9], [-1, -2, 0.5, 0.5], [0.5, 0.5, 3, 4]])
    boxes *= [width, height, width, height]
    inside = geometry.to_input(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    found = geometry.boxes_to_frame(inside)
    assert found.dtype == np.float32
    expected = boxes.clip(0, [width, height, width, height])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-3)  # float32, and 3000 pixels


def test_no_boxes() -> None:
    assert LETTERBOX.boxes_to_frame(np.zeros((0, 4))).shape == (0, 4)
