"""What only the owner of the process may do: its signals, and what C libraries write on its terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Literal

__all__ = ["StopRequest", "Terminated", "native_stderr_muted", "stop_on_signals"]


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a service manager says when enough was done, and no failure."""


class StopRequest:
    """What the user, or a service manager, has asked for by a signal.

    Attributes:
        asked: whether to stop.
        terminated: whether it was not Ctrl-C that asked, so that nobody waits for what is now missing.
        reload: whether to finish the files, and begin anew.
        on_request: called from another thread after a signal has asked for something, to wake a thread
            that waits for a camera.
    """

    def __init__(self) -> None:
        self.asked = False
        self.terminated = False
        self.reload = False
        self.on_request: Callable[[], object] = lambda: None
        self._on_terminal = _has_terminal()  # asked now: once it is closed, it is no more there
        self._phase: Literal["opening", "running", "finishing"] = "opening"

    def open(self) -> None:
        """From now on a signal interrupts at once, with KeyboardInterrupt or Terminated."""
        self._phase, self.reload, self.on_request = "opening", False, lambda: None

    def hold(self) -> None:
        """From now on the first signal asks, and only the second interrupts, for a camera that hangs."""
        self._phase = "running"

    def finish(self) -> None:
        """From now on, let nothing interrupt what is left to do."""
        self._phase = "finishing"

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if number == signal.SIGHUP and not self._on_terminal:
            self.reload = True
        elif self._phase == "opening" or (self._phase == "running" and self.asked):
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
        else:
            self.asked = True
            self.terminated = self.terminated or number != signal.SIGINT


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGHUP into requests, which a loop honours between two frames.

    So nothing is torn: no frame is half written. SIGHUP asks to begin anew; where the process has a terminal,
    it says that this was closed, and stops like SIGTERM. One that is ignored (`nohup`) stays so.
    """
    request = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    former = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wake() -> None:
        # In a thread, since a handler runs in the middle of anything, and could wait for a lock that is held.
        while reader.recv(1):
            request.on_request()

    waker = threading.Thread(target=wake, name="edgecnn-signals", daemon=True)
    waker.start()
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN or number != signal.SIGHUP:
                signal.signal(number, request)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(former)
        writer.close()
        waker.join(timeout=2)
        reader.close()


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


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
