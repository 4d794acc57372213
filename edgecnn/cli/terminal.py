"""What only the owner of the process may do: its signals, and what C libraries write on its terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

__all__ = ["StopRequest", "native_stderr_muted", "stop_on_signals"]


class StopRequest:
    """What the user, or a service manager, has asked for by a signal.

    Attributes:
        asked: whether to stop.
    """

    def __init__(self) -> None:
        self.asked = False
        self._finishing = False

    def finish(self) -> None:
        """From now on, let nothing interrupt what is left to do."""
        self._finishing = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.asked and not self._finishing:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request, which a loop honours between two frames.

    So nothing is torn: no frame is half written. The second one raises KeyboardInterrupt at once, for a
    camera that hangs; after `finish` not even that, so that an impatient Ctrl-C does not cost a video.
    """
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def native_stderr_muted() -> Iterator[None]:
    """Keep off the terminal what C libraries print (`libpng warning: iCCP …`), and only that.

    Python's stderr still gets there. A library must not do this, since file descriptor 2 belongs to all of
    a process; EDGECNN_DEBUG leaves it alone.
    """
    if os.environ.get("EDGECNN_DEBUG"):
        yield
        return
    python_stderr = sys.stderr
    python_stderr.flush()
    terminal = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        if _writes_to_2(python_stderr):
            sys.stderr = open(  # noqa: SIM115 (closed below)
                terminal,
                "w",
                encoding=python_stderr.encoding,
                errors="backslashreplace",
                buffering=1,
                closefd=False,
            )
        os.dup2(null, 2)
        yield
    finally:
        if sys.stderr is not python_stderr:
            sys.stderr.close()
            sys.stderr = python_stderr
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(null)


def _writes_to_2(stream: object) -> bool:
    """Whether a stream ends in file descriptor 2; not so where a test has replaced it."""
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined,no-any-return]
    except (AttributeError, OSError, ValueError):
        return False
