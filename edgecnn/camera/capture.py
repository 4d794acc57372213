"""An opened `cv2.VideoCapture` as a reader: what devices, streams and pipelines have in common."""

from __future__ import annotations

from time import monotonic
from typing import Any

from edgecnn.camera.opencv import import_cv2, positive_number, quiet
from edgecnn.camera.pool import FramePool
from edgecnn.camera.source import Capture, Skipped
from edgecnn.errors import SourceError

__all__ = ["CaptureReader", "read_capture"]

DRAIN_S = 1.0
ENOUGH = 0.95  # of the frames that a file over the network announces; some containers only estimate them


def read_capture(capture: Any, name: str, pool: FramePool) -> Capture | None:
    """The next frame, or None where there is none.

    Returns:
        The image in an array that nobody else holds. Its source time is OpenCV's CAP_PROP_POS_MSEC: the
        presentation time of a file's or a stream's frame, the driver's time stamp of a Video4Linux camera's.
    """
    cv2 = import_cv2()
    with quiet():
        grabbed = capture.grab()  # decodes
        captured_at = monotonic()
        if not grabbed:
            return None
        position_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        there, image = capture.retrieve(pool.take())  # YUV → BGR
    if not there:
        return None
    pool.remember(image)
    source_time = position_ms / 1e3 if 0 <= position_ms < 1e15 else None
    return Capture(image, captured_at, name, source_time=source_time)


class CaptureReader:
    """A live capture; see `edgecnn.camera.source.Reader`. Its end is an error, unless it is a file's.

    Args:
        capture: an opened `cv2.VideoCapture`; belongs to the reader.
        name: what was opened, without credentials.
        live: whether it goes on when nobody reads.
        lost: what it means when there is no frame.
        frame_count: how many frames there are, where that is known.
    """

    def __init__(
        self, capture: Any, *, name: str, lost: str, live: bool = True, frame_count: int | None = None
    ) -> None:
        cv2 = import_cv2()
        self.name = name
        self.live = live
        self.frame_count = frame_count
        self.fps = positive_number(capture.get(cv2.CAP_PROP_FPS), at_most=1000)
        self.skipped: tuple[Skipped, ...] = ()
        self._capture: Any = capture
        self._lost = lost
        self._count = 0
        self._pool = FramePool()

    def read(self) -> Capture | None:
        """See `Reader.read`."""
        capture = read_capture(self._capture, self.name, self._pool)
        if capture is not None:
            self._count += 1
        elif self.live:
            raise SourceError(f"{self.name} gives no more frames", got=self._lost)
        elif self.frame_count is not None and self._count < ENOUGH * self.frame_count:
            raise SourceError(
                f"{self.name} ends early",
                got=f"{self._count} of {self.frame_count} frames, then {self._lost}",
            )
        return capture

    def drain(self) -> None:
        """Let go of the frames that came while it was opened: the next one had to be waited for.

        FFmpeg looks at about a second of a stream before it gives the first frame. A stream that is always
        faster than its rate says is drained for DRAIN_S at most.
        """
        wait = 0.5 / max(10.0, min(self.fps or 30.0, 60.0))
        end = monotonic() + DRAIN_S
        with quiet():
            while (start := monotonic()) < end:
                if not self._capture.grab() or monotonic() - start > wait:
                    return

    def close(self) -> None:
        """Let go of the device or the connection."""
        self._capture.release()
