"""Numbered cameras: USB and other Video4Linux devices."""

from __future__ import annotations

import os
import re
from pathlib import Path
from time import monotonic
from typing import Any

from edgecnn.camera.images import natural_key
from edgecnn.camera.opencv import import_cv2, open_capture, positive_number, quiet
from edgecnn.camera.source import Capture, Skipped
from edgecnn.errors import SourceError

__all__ = ["DeviceReader", "camera_devices"]


def camera_devices() -> list[str]:
    """The /dev/video* that exist, in order of their numbers. Not every one is a camera that gives frames."""
    return [os.fspath(path) for path in sorted(Path("/dev").glob("video[0-9]*"), key=natural_key)]


class DeviceReader:
    """A Video4Linux camera; see `edgecnn.camera.source.Reader`.

    Args:
        device: `/dev/videoN`.
        name: what the user called it.
    """

    live = True
    frame_count = None

    def __init__(self, device: str, *, name: str | None = None) -> None:
        cv2 = import_cv2()
        self.name = name or device
        self.skipped: tuple[Skipped, ...] = ()
        if (problem := _problem(device)) is not None:
            raise problem
        capture = open_capture(int(re.sub(r"\D", "", device)), cv2.CAP_V4L2)
        if capture is None:
            raise SourceError(
                f"{device} gives no video",
                got="OpenCV cannot open it",
                expected="a camera that no other program uses",
                remedy=f"`fuser {device}` names the program that has it; here: {', '.join(camera_devices())}",
            )
        self._capture: Any = capture
        self.fps = positive_number(capture.get(cv2.CAP_PROP_FPS), at_most=1000)

    def read(self) -> Capture | None:
        """See `Reader.read`; never None, since a camera does not end."""
        with quiet():
            grabbed = self._capture.grab()
            captured_at = monotonic()
            image = self._capture.retrieve()[1] if grabbed else None
        if image is None:
            raise SourceError(
                f"camera {self.name} gives no more frames", got="unplugged, or its driver stopped"
            )
        return Capture(image, captured_at, self.name)

    def close(self) -> None:
        """Let other programs have the camera."""
        self._capture.release()


def _problem(device: str) -> SourceError | None:
    """Why the device cannot be a camera, found out before OpenCV fails without saying."""
    if not Path(device).exists():
        return SourceError(
            f"no camera {device}", got=f"{', '.join(camera_devices()) or 'no /dev/video* at all'}"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return SourceError(
            f"no permission for {device}", remedy="sudo usermod -aG video $USER, then log in again"
        )
    return None
