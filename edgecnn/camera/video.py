"""Video files, decoded by OpenCV's FFmpeg."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from edgecnn.camera.capture import read_capture
from edgecnn.camera.opencv import import_cv2, open_capture, positive_number
from edgecnn.camera.pool import FramePool
from edgecnn.camera.source import Capture, Skipped
from edgecnn.camera.uri import display_path
from edgecnn.errors import SourceError

__all__ = ["VideoReader"]

_log = logging.getLogger(__name__)


class VideoReader:
    """A video file; see `edgecnn.camera.source.Reader`.

    `frame_count` is what the container announces. MP4, MOV and AVI write the number down; for the others
    OpenCV multiplies duration and frame rate, which a variable rate or a longer sound track puts off. So a
    video that ends early is logged as a warning, with both numbers, and never as more than they show.

    Attributes:
        width, height: as the container says, in pixels.
    """

    live = False

    def __init__(self, path: str | os.PathLike[str], *, name: str | None = None) -> None:
        cv2 = import_cv2()
        self.name = name or display_path(path)
        self.skipped: tuple[Skipped, ...] = ()
        file = Path(path)
        self._start = _first_bytes(file, self.name)
        if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
            raise SourceError(
                f"cannot open {self.name}",
                got=f"an OpenCV {cv2.__version__} without FFmpeg",
                remedy="edgecnn doctor lists what it has",
            )
        # absolute, so that FFmpeg does not take `clip:1.mp4` for an address
        capture = open_capture(os.fspath(file.absolute()), cv2.CAP_FFMPEG)
        if capture is None:
            raise _not_a_video(self.name, self._start, file.stat().st_size)
        self._capture: Any = capture
        self.fps = positive_number(capture.get(cv2.CAP_PROP_FPS), at_most=1000)
        count = positive_number(capture.get(cv2.CAP_PROP_FRAME_COUNT), at_most=1e9)
        self.frame_count = None if count is None else round(count)
        self.width, self.height = (
            int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        self._decoded = 0
        self._pool = FramePool()

    def read(self) -> Capture | None:
        """See `Reader.read`. Raises SourceError where not one frame can be decoded."""
        capture = read_capture(self._capture, self.name, self._pool)
        if capture is None:
            self._report_end()
            return None
        self._decoded += 1
        return capture

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def _report_end(self) -> None:
        if self._decoded == 0:
            raise SourceError(
                f"no frame of {self.name} can be decoded",
                got=f"{self.width}x{self.height}, {self.frame_count} frames announced",
            )
        if self.frame_count is None:
            return
        missing = self.frame_count - self._decoded
        if _counts_frames(self._start):
            if missing > 0:
                _log.warning(
                    "%s ends early: got %d of the %d frames that it announces; it is damaged or cut off",
                    self.name, self._decoded, self.frame_count,
                )  # fmt: skip
        elif missing > max(2, 0.02 * self.frame_count):
            _log.warning(
                "%s may be cut off: got %d frames, expected about %d by its duration",
                self.name,
                self._decoded,
                self.frame_count,
            )


def _first_bytes(file: Path, name: str) -> bytes:
    try:
        with file.open("rb") as opened:
            start = opened.read(16)
    except OSError as error:
        raise SourceError(f"cannot open {name}", got=str(error.strerror)) from error
    if not start:
        raise SourceError(f"cannot open {name}", got="an empty file", expected="an image or a video")
    return start


def _counts_frames(start: bytes) -> bool:
    """Whether the container holds the number of its frames: ISO media (MP4, MOV) and AVI."""
    return start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") or (
        start[:4] == b"RIFF" and start[8:12] == b"AVI "
    )


def _not_a_video(name: str, start: bytes, size: int) -> SourceError:
    if _counts_frames(start):
        return SourceError(
            f"cannot open {name}", got=f"a video of {size} bytes without an index",
            remedy="It was cut off while it was recorded or copied; copy it again, or repair it with untrunc",
        )  # fmt: skip
    return SourceError(
        f"cannot open {name}",
        got=f"{size} bytes that start with {start[:8]!r}",
        expected="an image or a video that OpenCV reads",
    )
