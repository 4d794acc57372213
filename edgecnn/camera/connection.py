"""One connection to a source: opened and read in a thread that can be left behind.

A read of a camera that hangs cannot be interrupted, and letting go of its capture meanwhile would crash the
process. So the thread that reads owns the reader: left behind, it lets go of it once its read returns, and
whatever that read gave is thrown away. What hung is old: a decoder that is given up hands out what it still
had in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from edgecnn.camera.source import Capture, Reader

__all__ = ["Connection"]


class Connection:
    """Opens a reader and hands over what it reads, until it ends, fails, hangs or is left.

    Args:
        connect: opens the reader; may take long.
        opened: is given the reader once it is open.
        deliver: is given each frame; may wait for someone to take it.
        name: the thread's.

    Attributes:
        frames: frames handed over.
        done: the reader has ended or failed, and was closed.
        error: why it failed; None where it ended.
        first_frame_at: when the first frame was there, in seconds of `time.monotonic()`; 0 before.
    """

    def __init__(
        self,
        connect: Callable[[], Reader],
        *,
        opened: Callable[[Reader], None],
        deliver: Callable[[Connection, Capture], None],
        name: str,
    ) -> None:
        self.frames = 0
        self.done = False
        self.error: Exception | None = None
        self.first_frame_at = 0.0
        self._connect = connect
        self._opened = opened
        self._deliver = deliver
        self._left = False
        self._waits_since: float | None = monotonic()  # for the camera; None while it waits for the user
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def watch(self, open_s: float, stall_s: Callable[[], float]) -> bool:
        """Wait until it is over.

        Args:
            open_s: how long opening may take, the first frame included.
            stall_s: how long a frame may take after that.

        Returns:
            False where it hung; it is then left.
        """
        with self._changed:
            while not self.done and not self._left:
                remaining = stall_s() if self.frames else open_s
                if self._waits_since is not None:
                    remaining += self._waits_since - monotonic()
                if remaining <= 0:
                    self._left = True
                    return False
                self._changed.wait(min(remaining, 60.0))
            return True

    def leave(self) -> None:
        """Take nothing more from it. Its thread ends, and lets go of the reader, when its read returns."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for its thread, unless that is what calls."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        error: Exception | None = None
        reader: Reader | None = None
        try:
            reader = self._connect()
            if self._may_go_on(None):
                self._opened(reader)
                self._read(reader)
        except Exception as caught:  # whatever it is, it ends this connection and not the thread that watches
            error = caught
        finally:
            if reader is not None:
                reader.close()
            with self._changed:
                self.error = error
                self.done = True
                self._changed.notify_all()

    def _read(self, reader: Reader) -> None:
        while self._may_go_on(monotonic()):
            capture = reader.read()
            if capture is None or not self._may_go_on(None):
                return
            if self.frames == 0:
                self.first_frame_at = capture.captured_at
            self._deliver(self, capture)
            self.frames += 1
            if self.frames == 1:  # from now on the other limit applies
                with self._changed:
                    self._changed.notify_all()

    def _may_go_on(self, waits_since: float | None) -> bool:
        """Note since when it waits for the camera; False where it was left."""
        with self._changed:
            self._waits_since = waits_since
            return not self._left
