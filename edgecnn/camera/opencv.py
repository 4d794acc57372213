"""OpenCV as the cameras and sinks use it: imported late, and kept from writing on the user's terminal.

Three things write there on their own: OpenCV's logger, FFmpeg's, and the image libraries (libpng, libjpeg)
directly. The first is silenced around our own calls and put back; the second reads the environment once,
when OpenCV first uses FFmpeg, so it is set before that; the third only the owner of the process can
redirect (`edgecnn.cli.terminal`). Whoever sets OPENCV_LOG_LEVEL or OPENCV_FFMPEG_LOGLEVEL sees everything
but what would show a password.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from edgecnn.errors import BackendUnavailableError, SourceError
from edgecnn.interrupts import interrupts_deferred

__all__ = ["import_cv2", "open_capture", "positive_number", "quiet"]

_AV_LOG_QUIET = "-8"
_SILENT = 0


def import_cv2() -> Any:
    """The module `cv2`. Raises BackendUnavailableError where it is missing or cannot be loaded."""
    if "OPENCV_FFMPEG_DEBUG" not in os.environ:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _AV_LOG_QUIET)
    try:
        with interrupts_deferred():
            import cv2
    except ImportError as error:
        raise BackendUnavailableError(
            "OpenCV is not installed",
            got=str(error),
            remedy="pip install 'edgecnn[cpu]'; on a Jetson use JetPack's own build, which has the camera: "
            "python3 -m venv --system-site-packages",
        ) from error
    return cv2


_quiet_lock = threading.Lock()
_quiet_users = 0
_level_before = 0


@contextlib.contextmanager
def quiet(*, secret: bool = False) -> Iterator[None]:
    """Silence OpenCV's logger meanwhile. Its level belongs to the process, so threads inside are counted.

    Args:
        secret: even where OPENCV_LOG_LEVEL is set, because what it writes would show a password.
    """
    global _quiet_users, _level_before
    if "OPENCV_LOG_LEVEL" in os.environ and not secret:
        yield
        return
    logger = _logger()
    with _quiet_lock:
        if _quiet_users == 0:
            _level_before = logger.getLogLevel()
            logger.setLogLevel(_SILENT)
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                logger.setLogLevel(_level_before)


def open_capture(
    target: str | int, api: int, parameters: Sequence[int] = (), *, name: str | None = None
) -> Any | None:
    """An opened `cv2.VideoCapture`, or None where OpenCV cannot open it.

    Args:
        target: path, address or number.
        api: OpenCV's `CAP_…` constant; explicit, since OpenCV's own guess may try a sequence of images.
        parameters: pairs of a `CAP_PROP_…` constant and its value. Live streams pass CAP_PROP_N_THREADS,
            because each decoder thread holds a frame back; files keep FFmpeg's default, which is fastest.
        name: the target for messages, where it holds credentials.
    """
    cv2 = import_cv2()
    with quiet(secret=name is not None and name != target):
        try:
            capture = cv2.VideoCapture(target, api, list(parameters))
        except (cv2.error, UnicodeEncodeError) as error:
            if name is not None:  # the library's message may show the target
                raise SourceError(f"cannot open {name}", got=f"OpenCV's {type(error).__name__}") from None
            raise SourceError(f"cannot open {target!a}", got=str(error).splitlines()[0]) from error
        if capture.isOpened():
            return capture
        capture.release()
    return None


def positive_number(value: float, *, at_most: float) -> float | None:
    """What a capture says of itself, or None where it is one of the values that mean it does not know.

    Seen in practice: 0, -1, NaN, and products of INT64_MIN.
    """
    return value if 0 < value <= at_most else None


def _logger() -> Any:
    """Where this OpenCV has getLogLevel and setLogLevel: `cv2` itself until 4.x, `cv2.utils.logging` in 5."""
    cv2 = import_cv2()
    return cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
