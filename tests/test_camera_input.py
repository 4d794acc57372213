"""What a model says of its camera, and frames on their way to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecnn.camera_input import CameraInput, RawFrames
from edgecnn.errors import InputError, ModelFormatError, SpecError
from edgecnn.metadata import CAMERA_KEY
from edgecnn.preprocess import Preprocessor
from edgecnn.spec import image_spec
from tests.cameras import camera_bytes

SHAPES = {
    "bgr": (4, 6, 3), "rgb": (4, 6, 3), "bgrx": (4, 6, 4),
    "gray": (4, 6, 1), "nv12": (6, 6, 1), "yuyv": (4, 6, 2),
}  # fmt: skip


@pytest.mark.parametrize("pixel_format", SHAPES)
def test_shapes_and_json(pixel_format: Any) -> None:
    camera = CameraInput(frame_hw=(4, 6), pixel_format=pixel_format, matrix="bt709", full_range=True)
    assert camera.shape == SHAPES[pixel_format]
    assert CameraInput.from_metadata({CAMERA_KEY: camera.to_json()}) == camera
    frame = np.arange(np.prod(camera.shape), dtype=np.uint8).reshape(camera.shape)
    assert np.shares_memory(camera.as_input(frame), frame)
    if camera.shape[2] == 1:
        np.testing.assert_array_equal(camera.as_input(frame[:, :, 0]), frame)


@pytest.mark.parametrize("pixel_format", SHAPES)
def test_pictures_to_look_at(pixel_format: Any) -> None:
    camera = CameraInput(frame_hw=(48, 64), pixel_format=pixel_format)
    image = np.full((48, 64, 3), 90 if pixel_format == "gray" else (200, 90, 30), np.uint8)
    raw, expected = camera_bytes(image, pixel_format)
    picture = camera.to_bgr(raw)
    np.testing.assert_array_equal(picture, np.broadcast_to(expected.reshape(48, 64, -1), (48, 64, 3)))
    assert picture.flags.c_contiguous
    assert not np.shares_memory(picture, raw)


def test_a_model_without_a_front_has_no_camera() -> None:
    assert CameraInput.from_metadata({}) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"frame_hw": (5, 6), "pixel_format": "nv12"},
            "6x5 cannot be NV12: got an odd height, expected",
        ),
        ({"frame_hw": (4, 7), "pixel_format": "nv12"}, "7x4 cannot be NV12: got an odd width"),
        ({"frame_hw": (5, 7), "pixel_format": "nv12"}, "got an odd height and width"),
        ({"frame_hw": (4, 7), "pixel_format": "yuyv"}, "7x4 cannot be YUYV: got an odd width"),
        ({"pixel_format": "i420"}, "pixel_format is wrong: got i420, expected one of bgr, rgb"),
        ({"matrix": "bt2020"}, "matrix is wrong: got bt2020, expected one of bt601, bt709"),
        ({"full_range": 1}, "full_range is wrong: got 1, expected true or false"),
        ({"frame_hw": (0, 4)}, "frame_hw is wrong"),
        ({"frame_hw": (4,)}, "frame_hw is wrong"),
        ({"frame_hw": (4, 4.5)}, "frame_hw is wrong"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        CameraInput(**{"frame_hw": (4, 6), "pixel_format": "bgr", **options})


def test_an_odd_height_is_no_matter_to_yuyv() -> None:
    assert CameraInput(frame_hw=(5, 6), pixel_format="yuyv").shape == (5, 6, 2)


@pytest.mark.parametrize(
    "stored",
    [
        "{",
        "[]",
        "{}",
        '{"frame_hw": [4, 6]}',
        '{"frame_hw": [4, 6], "pixel_format": "raw10"}',
        '{"frame_hw": [4, 6], "pixel_format": "bgr", "gamma": 2.2}',
    ],
)
def test_metadata_that_this_version_does_not_know(stored: str) -> None:
    with pytest.raises(ModelFormatError, match=r"edgecnn\.camera"):
        CameraInput.from_metadata({CAMERA_KEY: stored})


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((6, 4, 3), np.uint8),
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((4, 6, 3), np.float32),
        None,
    ],
)
def test_other_frames_are_refused(frame: Any) -> None:
    with pytest.raises(InputError, match=r"expected uint8 \(4, 6, 3\), 6x4 BGR"):
        CameraInput(frame_hw=(4, 6), pixel_format="bgr").as_input(frame)


def test_frames_are_handed_over_with_the_preprocessors_geometry() -> None:
    spec = image_spec("imagenet", size_hw=(32, 32))
    camera = CameraInput(frame_hw=(48, 64), pixel_format="bgr")
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    one = RawFrames(spec, camera)
    assert one(frames[0]) == Preprocessor(spec)(frames[0])
    assert np.shares_memory(one.tensor, frames)  # not copied
    strided = frames[1, :, ::-1]
    one(strided)
    np.testing.assert_array_equal(one.tensor, strided[None])
    several = RawFrames(spec, camera, batch=3)
    for index, frame in enumerate(frames):
        several(frame, index)
    np.testing.assert_array_equal(several.tensor, frames)
    assert not np.shares_memory(several.tensor, frames)
