"""A video file at the speed of life: how a recording stands in for a camera."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgecnn.camera.source import Capture, Reader, Skipped

__all__ = ["Playback"]


class Playback:
    """Gives a reader's frames no sooner than its rate says; see `edgecnn.camera.source.Reader`.

    Args:
        reader: what is played; its frame rate must be known.
        fps: frames per second.
    """

    def __init__(self, reader: Reader, fps: float) -> None:
        self.name = reader.name
        self.live = reader.live
        self.fps: float | None = fps
        self.frame_count = reader.frame_count
        self._reader = reader
        self._period = 1 / fps
        self._due: float | None = None

    @property
    def skipped(self) -> Sequence[Skipped]:
        """The reader's."""
        return self._reader.skipped

    def read(self) -> Capture | None:
        """See `Reader.read`."""
        capture = self._reader.read()
        now = time.monotonic()
        self._due = now if self._due is None else self._due + self._period
        time.sleep(max(0.0, self._due - now))
        return None if capture is None else capture._replace(captured_at=time.monotonic())

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()
