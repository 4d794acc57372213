"""A window on this machine's screen.

It lives in a process of its own. OpenCV's windows belong to the first thread that made one, a second thread's
hang; and where there is no display, the library that draws them ends the whole process. There, both are an
error message here.
"""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import tempfile
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.camera.opencv import import_cv2
from edgecnn.camera.sink import BaseSink, StopRequested
from edgecnn.camera.window_process import CLOSED, HEADER, READY
from edgecnn.errors import OutputError

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["WindowSink"]

_INSTEAD = "Watch it in a browser instead: --sink http://:8080"
_OPEN_S = 20.0  # a slow board takes seconds to load OpenCV
_ANSWER_S = 5.0
_CLOSE_S = 1.0
_PIPE_BYTES = 1 << 20  # what Linux allows everyone; its usual 64 KB cost a switch of processes each


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
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        # The child imports what this process imports; a file in the current folder cannot shadow a module.
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - "" is the current folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgecnn.camera.window_process", title],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for us
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        fcntl.fcntl(self._to, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._opened = self._ready = self._closed_by_user = False
        self._sent_at = 0.0
        try:
            self._listen(_OPEN_S)
            if not self._ready:
                raise self._failure("a display that does not answer")
            self._opened = True
        except BaseException:
            self._end()
            raise

    def _write(self, output: Output) -> None:
        self._listen(0)
        if self._closed_by_user:
            raise StopRequested
        if not self._ready and monotonic() > self._sent_at + _ANSWER_S:
            raise self._failure(f"no answer for {_ANSWER_S:g} s")
        if self._ready:
            self._ready = False
            self._sent_at = monotonic()
            picture = np.ascontiguousarray(output.annotated)
            self._send(HEADER.pack(*picture.shape[:2]))
            self._send(picture.data.cast("B"))

    def _listen(self, timeout_s: float) -> None:
        """Take note of what the process has said."""
        while select.select([self._from], [], [], timeout_s)[0] and not self._closed_by_user:
            said = os.read(self._from, 64)
            if not said:
                raise self._failure(self._last_words())
            self._closed_by_user = CLOSED in said
            self._ready = READY in said
            timeout_s = 0

    def _send(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        deadline = self._sent_at + _ANSWER_S
        while rest:
            if not select.select([], [self._to], [], max(0.0, deadline - monotonic()))[1]:
                raise self._failure(f"no answer for {_ANSWER_S:g} s")
            try:
                rest = rest[os.write(self._to, rest) :]
            except BrokenPipeError:
                self._listen(0)  # says why
                if self._closed_by_user:
                    raise StopRequested from None
                raise self._failure(self._last_words()) from None

    def _failure(self, got: str) -> OutputError:
        what = "the window has gone" if self._opened else "cannot open a window"
        return OutputError(what, got=got, remedy=_INSTEAD)

    def _last_words(self) -> str:
        """Of a process that ended. Qt says a lot; the first line about a display is what matters."""
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines()]
        about = [line for line in lines if "display" in line or "OpenCV" in line]
        return (about or lines[-1:] or ["a process that ended"])[0]

    def _finish(self) -> None:
        self._end()

    def _abandon(self, error: OSError) -> None:
        self._end()

    def _end(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()
