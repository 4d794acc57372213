from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from edgecnn.camera import device as device_module
from edgecnn.camera import open_camera
from edgecnn.camera.device import camera_devices
from edgecnn.errors import BackendUnavailableError, SourceError


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
