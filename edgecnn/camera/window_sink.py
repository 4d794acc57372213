"""A window on this machine's screen.

It lives in a process of its own. OpenCV's windows belong to the first thread that made one, a second thread's
hang; and where there is no display, the library that draws them ends the whole process. There, both are an
error message here.
"""

from __future__ import annotations

import os
import select
import sys
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.camera.opencv import import_cv2
from edgecnn.camera.picture_process import PictureProcess
from edgecnn.camera.sink import BaseSink, StopRequested
from edgecnn.camera.window_process import CLOSED, HEADER, READY
from edgecnn.errors import OutputError

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["WindowSink"]

_INSTEAD = "Watch it in a browser instead: --sink http://:8080"
_OPEN_S = 20.0  # a slow board takes seconds to load OpenCV
_ANSWER_S = 5.0


class WindowSink(BaseSink):
    """Shows annotated frames. Closing the window, q or Esc ends the run.

    A picture that comes while the one before is still being drawn is left out.

    Args:
        title: of the window.

    Raises:
        OutputError: no display, or an OpenCV without windows.
    """

    lossy = True

    def __init__(self, title: str = "edgecnn") -> None:
        import_cv2()
        self.name = "window" if title == "edgecnn" else f"window:{title}"
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise OutputError(
                "cannot open a window",
                got="no display: neither DISPLAY nor WAYLAND_DISPLAY is set",
                remedy=_INSTEAD,
            )
        self._opened = self._ready = self._closed_by_user = False
        self._sent_at = 0.0
        # The child imports what this process imports; a file in the current folder cannot shadow a module.
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - "" is the current folder
        self._process = PictureProcess(
            [sys.executable, "-m", "edgecnn.camera.window_process", title],
            {"PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            self._listen(_OPEN_S)
            if not self._ready:
                raise self._failure("a display that does not answer")
            self._opened = True
        except BaseException:
            self._process.close()
            raise

    def _write(self, output: Output) -> None:
        self._listen(0)
        if self._closed_by_user:
            raise StopRequested
        if not self._ready:
            if monotonic() > self._sent_at + _ANSWER_S:
                raise self._failure(f"no answer for {_ANSWER_S:g} s")
            return
        self._ready = False
        self._sent_at = monotonic()
        picture = np.ascontiguousarray(output.annotated)
        try:
            self._process.send(HEADER.pack(*picture.shape[:2]), within_s=_ANSWER_S)
            self._process.send(picture.data.cast("B"), within_s=_ANSWER_S)
        except TimeoutError:
            raise self._failure(f"no answer for {_ANSWER_S:g} s") from None
        except BrokenPipeError:
            self._listen(0)
            if self._closed_by_user:
                raise StopRequested from None
            raise self._failure(self._last_words()) from None

    def _listen(self, timeout_s: float) -> None:
        """Take note of what the process has said. Raises OutputError where it has ended."""
        while not self._closed_by_user and select.select([self._process.stdout], [], [], timeout_s)[0]:
            said = os.read(self._process.stdout, 64)
            if not said:
                raise self._failure(self._last_words())
            self._closed_by_user = CLOSED in said
            self._ready = READY in said
            timeout_s = 0

    def _last_words(self) -> str:
        return self._process.last_words("display", "OpenCV")  # Qt says much else besides

    def _failure(self, got: str) -> OutputError:
        what = "the window has gone" if self._opened else "cannot open a window"
        return OutputError(what, got=got, remedy=_INSTEAD)

    def _finish(self) -> None:
        self._process.close()

    def _abandon(self, error: OSError) -> None:
        self._process.close()
