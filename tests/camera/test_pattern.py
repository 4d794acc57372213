from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.camera import draw_stamp, open_camera, read_stamp
from edgecnn.camera_input import CameraInput


@given(
    number=st.integers(0, 2**32 - 1),
    at=st.floats(0, 1e8),
    width=st.integers(96, 400),
    height=st.integers(64, 300),
)
def test_what_was_drawn_is_read(number: int, at: float, width: int, height: int) -> None:
    image = np.full((height, width, 3), 90, np.uint8)
    draw_stamp(image, number, at)
    stamp = read_stamp(image)
    assert stamp is not None
    assert stamp.number == number
    assert stamp.time == pytest.approx(at, abs=0.51e-4, rel=1e-15)


@pytest.mark.parametrize("quality", [10, 50, 95])
@pytest.mark.parametrize("size", [(640, 480), (320, 240), (1920, 1080), (333, 250)])
def test_the_stamp_survives_jpeg_and_scaling(quality: int, size: tuple[int, int]) -> None:
    with open_camera("test://?fps=1000&frames=5", policy="all") as source:
        for frame in source:
            scaled = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
            _, data = cv2.imencode(".jpg", scaled, [cv2.IMWRITE_JPEG_QUALITY, quality])
            stamp = read_stamp(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8))
            assert stamp is not None
            assert stamp.number == frame.index


def test_a_picture_without_a_stamp_or_with_a_damaged_one() -> None:
    rng = np.random.default_rng(0)
    assert all(read_stamp(image) is None for image in rng.integers(0, 256, (50, 64, 96, 3), dtype=np.uint8))
    assert read_stamp(np.zeros((4, 4, 3), np.uint8)) is None
    image = np.zeros((64, 96), np.uint8)
    draw_stamp(image, 3, 1.0)
    image[:4, 40:44] ^= 255  # one cell
    assert read_stamp(image) is None


def test_the_picture_moves() -> None:
    with open_camera("test://?fps=1000&frames=2", policy="all") as source:
        first, second = (frame.image for frame in source)
    below = first.shape[0] // 4
    np.testing.assert_array_equal(first[below:, 4:], second[below:, :-4])
    assert not np.array_equal(first[below:], second[below:])


@pytest.mark.parametrize(
    ("pixel_format", "code"),
    [("nv12", cv2.COLOR_YUV2BGR_NV12), ("yuyv", cv2.COLOR_YUV2BGR_YUYV), ("gray", None)],
)
def test_raw_formats_are_what_an_engine_with_a_camera_takes(pixel_format: str, code: int | None) -> None:
    uri = f"test://?width=96&height=64&fps=1000&frames=3&format={pixel_format}&policy=all"
    camera = CameraInput(frame_hw=(64, 96), pixel_format=pixel_format)  # type: ignore[arg-type]
    with open_camera(uri) as source:
        for frame in source:
            camera.as_input(frame.image)
            picture = frame.image if code is None else cv2.cvtColor(frame.image, code)
            stamp = read_stamp(np.asarray(picture, np.uint8))
            assert stamp is not None
            assert stamp.number == frame.index
