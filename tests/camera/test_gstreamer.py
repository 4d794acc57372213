"""Pipelines as text, and played by Debian's OpenCV, which has GStreamer.

A Jetson's camera and decoder are not here: their pipelines are compared as text and have not been run.
"""

from __future__ import annotations

import re

import cv2
import pytest

from edgecnn.camera import open_camera
from edgecnn.camera.gstreamer import csi_pipeline, own_pipeline, rtsp_pipeline
from edgecnn.camera.policy import ALL, LATEST
from edgecnn.errors import BackendUnavailableError
from tests import gstreamer_cameras, rtsp_server

BGR = "videoconvert ! video/x-raw,format=BGR"
NEWEST = "appsink drop=true max-buffers=1 sync=false"
EVERY = "appsink drop=false max-buffers=8 sync=false"

needs_gstreamer = pytest.mark.skipif(
    gstreamer_cameras.missing() is not None, reason=str(gstreamer_cameras.missing())
)


# Text


def test_a_jetsons_camera() -> None:
    assert csi_pipeline("0", {}) == (
        "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),format=NV12 ! nvvidconv flip-method=0"
        f" ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! {NEWEST}"
    )
    asked = {"width": 1920, "height": 1080, "fps": 29.97, "flip": 2, "raw": True}
    assert csi_pipeline("1", asked, ALL) == (
        "nvarguscamerasrc sensor-id=1"
        " ! video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,framerate=30000/1001"
        f" ! nvvidconv flip-method=2 ! video/x-raw,format=NV12 ! {EVERY}"
    )
    assert "framerate=60/1 " in csi_pipeline("0", {"fps": 60.0})


def test_an_rtsp_stream() -> None:
    assert rtsp_pipeline(
        'rtsp://a:"b\\c@cam/1', decoder="avdec_h264", transport=None, latency_ms=None, stall_s=3
    ) == (
        'rtspsrc location="rtsp://a:\\"b\\\\c@cam/1" protocols=tcp latency=0 drop-on-latency=true'
        " timeout=3500000 tcp-timeout=3500000 ! application/x-rtp,media=video ! decodebin"
        f" ! videoconvert ! video/x-raw,format=BGR ! {NEWEST}"
    )
    jetson = rtsp_pipeline(
        "rtsp://cam/1", decoder="nvv4l2decoder", transport="udp", latency_ms=100, stall_s=1, policy=ALL
    )
    assert "protocols=udp latency=100 " in jetson
    assert jetson.endswith(
        f"decodebin ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! {EVERY}"
    )


@pytest.mark.parametrize(
    ("text", "policy", "expected", "live"),
    [
        ("v4l2src", None, f"v4l2src ! videoconvert ! video/x-raw,format=BGR ! {NEWEST}", True),
        ("v4l2src", ALL, f"v4l2src ! videoconvert ! video/x-raw,format=BGR ! {EVERY}", True),
        ("a ! appsink", LATEST, f"a ! {NEWEST}", True),
        ("appsink x=1 drop=false", None, "appsink x=1 drop=false max-buffers=1 sync=false", True),
        ("a ! tee name=t ! appsink t. ! fakesink", None, f"a ! tee name=t ! {NEWEST} t. ! fakesink", True),
        ("filesrc location=a ! decodebin", None, f"filesrc location=a ! decodebin ! {BGR} ! {EVERY}", False),
        ("videotestsrc num-buffers=3 ! appsink", None, f"videotestsrc num-buffers=3 ! {EVERY}", False),
    ],
)  # fmt: skip
def test_a_pipeline_of_ones_own(text: str, policy: object, expected: str, live: bool) -> None:
    made, is_live = own_pipeline(text, policy)  # type: ignore[arg-type]
    assert is_live == live
    assert made == expected


@pytest.mark.skipif(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer")
@pytest.mark.parametrize("uri", ["csi://0", "gst:videotestsrc", "rtsp://user:secret@cam/1?latency=100"])
def test_an_opencv_without_gstreamer_says_so(uri: str) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        open_camera(uri)
    assert re.search(r"needs GStreamer: got an OpenCV [\d.]+ without it", str(caught.value))
    assert "--system-site-packages" in str(caught.value)
    assert "secret" not in str(caught.value)


# Played


@needs_gstreamer
def test_every_frame_of_a_finite_pipeline() -> None:
    found, printed = gstreamer_cameras.run("pipeline", "gst:videotestsrc num-buffers=12 pattern=ball")
    assert (found["live"], found["policy"], found["fps"]) == (False, "all", 30)
    assert found["indexes"] == list(range(12))
    assert found["shapes"] == [[240, 320, 3]]
    assert found["changes"] == 12
    assert printed.count("\n") == 1  # nothing of GStreamer's or OpenCV's own


@needs_gstreamer
def test_a_live_pipeline() -> None:
    found, _ = gstreamer_cameras.run("pipeline", "gst:videotestsrc is-live=true pattern=ball ! videorate")
    assert (found["live"], found["policy"], len(found["indexes"])) == (True, "latest", 30)
    assert found["changes"] == 30


@needs_gstreamer
def test_raw_frames_of_ones_own_appsink() -> None:
    uri = "gst:videotestsrc num-buffers=3 ! video/x-raw,format=NV12,width=64,height=48 ! appsink"
    found, _ = gstreamer_cameras.run("pipeline", uri)
    assert found["shapes"] == [[72, 64]]


@needs_gstreamer
@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("gst:nosuchsrc ! videoconvert", "no GStreamer element nosuchsrc"),
        ("gst:videotestsrc ! ! x", "no GStreamer element x"),
        (
            "gst:rtspsrc location=rtsp://u5er:s3cr3t@[::1]:9/x user-pw=s3cr3t",
            "cannot open gst:",
        ),
        ("csi://0", "no GStreamer element nvarguscamerasrc, nvvidconv"),
    ],
)
def test_pipelines_that_cannot_be_played(uri: str, said: str) -> None:
    # whoever asks OpenCV for all its messages does not ask for passwords
    found, printed = gstreamer_cameras.run("pipeline", uri, OPENCV_LOG_LEVEL="VERBOSE")
    assert found["type"] == "SourceError"
    assert said in found["message"]
    assert "s3cr3t" not in printed


@needs_gstreamer
@pytest.mark.skipif(rtsp_server.missing() is not None, reason=str(rtsp_server.missing()))
@pytest.mark.parametrize("query", ["", "?transport=udp&latency=50"])
def test_an_rtsp_server_that_is_killed_and_frozen(query: str) -> None:
    found, printed = gstreamer_cameras.run("rtsp", query)
    assert found["reconnects"] == 2
    assert all(age is not None and age < 1.0 for age in found["ages"])
    assert "640x480, 30 fps, was 320x240" in found["reasons"]
    assert found["close_s"] < 1
    assert "s3cr3t" not in printed
