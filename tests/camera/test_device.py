from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from time import monotonic

import cv2
import pytest

from edgecnn.camera import SourceEvent, open_camera
from edgecnn.camera import device as device_module
from edgecnn.camera.device import camera_devices
from edgecnn.camera.uri import parse_source
from edgecnn.errors import BackendUnavailableError, SourceError
from tests.colours import colour_cycle, colour_of, write_video


def test_a_missing_camera_says_which_there_are() -> None:
    there = ", ".join(camera_devices()) or "no /dev/video* at all"
    with pytest.raises(SourceError, match=re.escape(f"no camera /dev/video4321: got {there}")):
        open_camera("4321")


def test_a_device_that_is_no_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_module, "_problem", lambda device: None)
    with pytest.raises(SourceError, match="/dev/video4321 gives no video"):
        open_camera("4321")
    assert capfd.readouterr().err == ""


def test_without_opencv_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "cv2", None)
    for uri in ("0", tmp_path / "a.png", tmp_path):
        with pytest.raises(
            BackendUnavailableError, match=r"pip install 'edgecnn\[cpu\]'.*--system-site-packages"
        ):
            open_camera(uri)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, int]]:
    """There is no camera here: a video file of three frames stands behind OpenCV's capture, which is the same
    class. What was opened as a camera is listed."""
    video = write_video(tmp_path / "camera.mp4", colour_cycle(3), fps=15)
    listed: list[tuple[object, int]] = []

    def open_capture(target: object, api: int) -> cv2.VideoCapture:
        listed.append((target, api))
        return cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)

    monkeypatch.setattr(device_module, "_problem", lambda device: None)
    monkeypatch.setattr(device_module, "open_capture", open_capture)
    return listed


def test_frames_of_a_camera(opened: list[tuple[object, int]]) -> None:
    with open_camera("/dev/video3", policy="all", reconnect=0) as source:
        assert opened == [(3, cv2.CAP_V4L2)]
        assert (source.live, source.fps, source.frame_count, source.name) == (True, 15, None, "/dev/video3")
        frames = list(itertools.islice(source, 3))
        assert [colour_of(frame.image) for frame in frames] == ["red", "green", "blue"]
        assert frames[0].captured_at <= frames[2].captured_at <= monotonic()
        with pytest.raises(SourceError, match="/dev/video3 gives no more frames: got unplugged"):
            next(source)
        assert source.state == "closed"


class MadeUpCamera:
    """In the place of a camera's `cv2.VideoCapture`; there is none here. It does 1280 × 720 as MJPG at 30
    frames a second and as YUYV at 10, and keeps what it does not do."""

    def __init__(self) -> None:
        self.values = {
            cv2.CAP_PROP_FRAME_WIDTH: 640.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 480.0,
            cv2.CAP_PROP_FPS: 30.0,
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"YUYV")),
            cv2.CAP_PROP_CONVERT_RGB: 1.0,
        }
        self.order: list[int] = []
        self.released = False

    def set(self, key: int, value: float) -> None:
        self.order.append(key)
        mjpg = self.values[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")
        if key == cv2.CAP_PROP_FPS and not mjpg:
            value = min(value, 10.0)
        if (key, value) not in ((cv2.CAP_PROP_FRAME_WIDTH, 1920), (cv2.CAP_PROP_FRAME_HEIGHT, 1080)):
            self.values[key] = float(value)

    def get(self, key: int) -> float:
        return self.values[key]

    def release(self) -> None:
        self.released = True


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUpCamera:
    camera = MadeUpCamera()
    monkeypatch.setattr(device_module, "_problem", lambda device: None)
    monkeypatch.setattr(device_module, "open_capture", lambda target, api: camera)
    return camera


def test_what_a_uri_asks_of_a_camera_is_set_with_the_format_first(made_up: MadeUpCamera) -> None:
    uri = "v4l2:///dev/video0?width=1280&height=720&fps=30&format=mjpg&raw=1"
    device_module.open_device(parse_source(uri)).close()
    assert made_up.order[0] == cv2.CAP_PROP_FOURCC
    assert made_up.values[cv2.CAP_PROP_FRAME_WIDTH] == 1280
    assert made_up.values[cv2.CAP_PROP_CONVERT_RGB] == 0
    assert made_up.released


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("width=1920&height=1080", "does not do that width: got 640, expected 1920"),
        ("fps=30", "does not do that fps: got 10, expected 30"),
    ],
)
def test_what_a_camera_does_not_do_is_an_error(made_up: MadeUpCamera, query: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        device_module.open_device(parse_source(f"v4l2:///dev/video0?{query}"))
    assert "v4l2-ctl" in str(caught.value)
    assert made_up.released


def test_a_camera_that_is_unplugged_and_comes_back(
    opened: list[tuple[object, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[SourceError | None] = [None, SourceError("no camera /dev/video3"), None]
    monkeypatch.setattr(device_module, "_problem", lambda device: problems.pop(0))
    events: list[SourceEvent] = []
    with open_camera("3", policy="all", on_event=events.append) as source:
        frames = list(itertools.islice(source, 6))
        assert [frame.index for frame in frames] == list(range(6))
        assert [colour_of(frame.image) for frame in frames] == ["red", "green", "blue"] * 2
        assert source.reconnects == 1
    assert len(opened) == 2
    told = [(event.state, event.reason, event.attempt) for event in events[:5]]
    assert told == [
        ("connecting", "", 0),
        ("streaming", "64x48, 15 fps", 0),
        ("reconnecting", "unplugged, or its driver stopped", 1),
        ("reconnecting", "no camera /dev/video3", 2),
        ("streaming", "64x48, 15 fps", 0),
    ]
    assert events[-1].state == "closed"
