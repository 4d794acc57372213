"""Numbered cameras: USB and other Video4Linux devices."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from edgecnn.camera.capture import CaptureReader
from edgecnn.camera.images import natural_key
from edgecnn.camera.opencv import import_cv2, open_capture, quiet
from edgecnn.camera.uri import SourceUri
from edgecnn.errors import SourceError

__all__ = ["camera_devices", "open_device"]


def camera_devices() -> list[str]:
    """The /dev/video* that exist, in order of their numbers. Not every one is a camera that gives frames."""
    return [os.fspath(path) for path in sorted(Path("/dev").glob("video[0-9]*"), key=natural_key)]


def open_device(uri: SourceUri) -> CaptureReader:
    """Open a Video4Linux camera, with the size, rate and format that its URI asks for.

    Raises:
        SourceError: there is none, it may not be opened, is in use, or has not what is asked for.
    """
    cv2 = import_cv2()
    if (problem := _problem(uri.target)) is not None:
        raise problem
    device = os.path.realpath(uri.target)  # of /dev/v4l/by-id/…; looked up anew each time it is plugged in
    capture = open_capture(int(re.sub(r"\D", "", device)), cv2.CAP_V4L2)
    if capture is None:
        raise SourceError(
            f"{device} gives no video",
            got="OpenCV cannot open it",
            expected="a camera that no other program uses",
            remedy=f"`fuser {device}` names the program that has it; here: {', '.join(camera_devices())}",
        )
    try:
        _configure(capture, uri)
    except SourceError:
        capture.release()
        raise
    return CaptureReader(capture, name=uri.name, lost="unplugged, or its driver stopped")


def _configure(capture: Any, uri: SourceUri) -> None:
    """Set what the URI asks for. The format comes first: sizes and rates depend on it."""
    cv2 = import_cv2()
    asked = uri.parameters
    wanted: list[tuple[str, int, float]] = []
    if "format" in asked:
        wanted.append(("format", cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*asked["format"])))
    for name, key in (
        ("width", cv2.CAP_PROP_FRAME_WIDTH),
        ("height", cv2.CAP_PROP_FRAME_HEIGHT),
        ("fps", cv2.CAP_PROP_FPS),
        ("raw", cv2.CAP_PROP_CONVERT_RGB),
    ):
        if name in asked:
            wanted.append((name, key, not asked["raw"] if name == "raw" else asked[name]))
    with quiet():
        for _, key, value in wanted:
            capture.set(key, value)
        got = {name: (capture.get(key), value) for name, key, value in wanted}
    for name, (value, expected) in got.items():
        if abs(value - expected) > (0.05 * expected if name == "fps" else 0.5):
            shown = _letters(value) if name == "format" else f"{value:g}"
            raise SourceError(
                f"{uri.name} does not do that {name}",
                got=shown,
                expected=asked["format"] if name == "format" else f"{asked[name]:g}",
                remedy=f"`v4l2-ctl --device {uri.target} --list-formats-ext` lists what it does",
            )


def _letters(code: float) -> str:
    """A format's four letters from its number."""
    return int(code).to_bytes(4, "little").decode("ascii", "replace") if 0 < code < 2**32 else "none"


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
