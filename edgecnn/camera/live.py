"""Reads in a thread, so that frames are fresh, and connects again, so that they go on.

Two threads: one reads (`edgecnn.camera.connection`), one watches it. The one that watches notices when no
frame comes, leaves the connection, waits, and makes another. What was read waits in a channel, where the
policy says what becomes of frames that nobody takes.

How soon frames are back after the camera is: its address is asked first, which fails within a second while
the network is gone (`edgecnn.camera.network`), tries are at most MAX_DELAY_S apart, and one that is under way
when a frozen server wakes up succeeds.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from edgecnn.camera.backlog import Backlog
from edgecnn.camera.connection import Connection
from edgecnn.camera.events import Events
from edgecnn.camera.policy import Policy
from edgecnn.camera.source import CLOSE_S, Capture, Reader, Skipped
from edgecnn.camera.uri import mask_credentials
from edgecnn.channel import Channel, Ended
from edgecnn.errors import EdgeCNNError, SourceError

__all__ = ["LiveReader"]

_log = logging.getLogger(__name__)

STALL_S = 3.0
OPEN_S = 10.0

MIN_DELAY_S = 0.1
MAX_DELAY_S = 1.0
"""Shortest and longest wait before a try. Longer ones would spare little: a try against nothing is cheap."""

MAX_HUNG = 4
"""Connections that were left and have not returned; with more, none is made."""


class LiveReader:
    """Hands over what another thread reads, and keeps that going; see `edgecnn.camera.source.Reader`.

    Args:
        connect: opens the reader; called again for each connection.
        events: is told what happens.
        policy: says of the first reader which frames wait for the user.
        reconnect: tries before giving up; None: for ever; 0: the first loss is the end.
        stall_s: a live source that gives no frame for so long has stalled.
        open_s: how long opening may take, the first frame included.

    Attributes:
        policy: the policy that was chosen.

    Raises:
        SourceError: the first connection fails. Only a source that was there once is waited for.
    """

    def __init__(
        self,
        connect: Callable[[], Reader],
        *,
        events: Events,
        policy: Callable[[Reader], Policy],
        reconnect: int | None = None,
        stall_s: float = STALL_S,
        open_s: float = OPEN_S,
    ) -> None:
        self.name = events.source
        self._connect = connect
        self._events = events
        self._choose_policy = policy
        self._tries = reconnect
        self._stall_s = stall_s
        self._open_s = open_s
        self._reader: Reader  # the newest that was open
        self._channel: Channel[tuple[int, Capture]]
        self._backlog = Backlog()
        self._shape: tuple[int, ...] = ()
        self._count = 0  # frames that were read, whatever became of them
        self._given = 0  # of those, the number of the one that follows the last that was given
        self._failure: Exception | None = None
        self._started = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._hung: list[Connection] = []
        self._thread = threading.Thread(target=self._supervise, name=f"watch {self.name}", daemon=True)
        self._thread.start()
        try:
            self._started.wait()
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if self._failure is not None:
            raise self._failure
        self.live = self._reader.live
        self.frame_count = self._reader.frame_count

    @property
    def fps(self) -> float | None:
        """The newest connection's frames per second."""
        return self._reader.fps

    @property
    def skipped(self) -> Sequence[Skipped]:
        """What the newest connection could not read."""
        return self._reader.skipped

    def read(self) -> Capture | None:
        """See `Reader.read`."""
        try:
            number, capture = self._channel.get()
        except Ended:
            return None
        dropped = number - self._given
        self._given = number + 1
        return capture._replace(dropped=dropped)

    def interrupt(self) -> None:
        """Take nothing more; a read that waits returns None."""
        with self._lock:
            self._closing.set()
            if self._connection is not None:
                self._connection.leave()
        if self._started.is_set() and self._failure is None:
            self._channel.close()

    def close(self) -> None:
        """End the threads. One that is stuck in its camera is left behind after CLOSE_S."""
        self.interrupt()
        if self._connection is not None:
            self._connection.join(CLOSE_S)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)

    def _supervise(self) -> None:
        self._events.say("connecting")
        attempt = 0
        while (connection := self._begin()) is not None:
            in_time = connection.watch(self._open_s, self._longest_wait)
            if self._closing.is_set():
                break
            if in_time and connection.error is None:
                self._channel.end()  # Source says that it is closed, once its last frame was taken
                break
            reason = self._reason(connection, hung=not in_time)
            if not self._started.is_set():
                self._failure = connection.error or SourceError(f"{self.name} does not answer", got=reason)
                self._events.say("closed", reason)
                self._started.set()
                break
            if connection.frames:
                _log.warning("%s: %s", self.name, reason)
                if not in_time:
                    self._events.say("stalled", reason)
                if monotonic() - connection.first_frame_at >= self._stall_s:
                    attempt = 0
            if not self._reader.live or (self._tries is not None and attempt >= self._tries):
                self._events.say("closed", reason)
                self._channel.end(self._lost(connection, reason, attempt))
                break
            attempt += 1
            if self.policy.keep == "newest":  # what waits is from before the loss
                with contextlib.suppress(TimeoutError, Ended):
                    self._channel.get(timeout=0)
            self._events.say("reconnecting", reason, attempt=attempt)
            delay = min(MAX_DELAY_S, MIN_DELAY_S * 2.0 ** min(attempt - 1, 10))
            self._closing.wait(delay * random.uniform(0.5, 1))  # so that many cameras do not come at once

    def _begin(self) -> Connection | None:
        if self._connection is not None and not self._connection.done:
            self._hung.append(self._connection)
        while True:  # a driver in which every connection hangs must not eat up the machine
            self._hung = [connection for connection in self._hung if not connection.done]
            if len(self._hung) < MAX_HUNG or self._closing.wait(MAX_DELAY_S):
                break
        with self._lock:
            if self._closing.is_set():
                return None
            self._backlog = Backlog()
            self._connection = Connection(
                self._connect, opened=self._opened, deliver=self._deliver, name=f"read {self.name}"
            )
            return self._connection

    def _opened(self, reader: Reader) -> None:
        self._reader = reader
        if not self._started.is_set():
            self.policy = self._choose_policy(reader)
            self._channel = Channel(self.policy.size, keep=self.policy.keep)
            self._started.set()

    def _deliver(self, connection: Connection, capture: Capture) -> None:
        shape = capture.image.shape
        if connection.frames == 0 or shape != self._shape:
            self._say_streaming(shape)
        self._count += capture.dropped + 1
        if self.policy.keep == "newest" and self._backlog.is_stale(capture):
            return
        with contextlib.suppress(Ended):  # closed meanwhile
            self._channel.put((self._count - 1, capture))

    def _say_streaming(self, shape: tuple[int, ...]) -> None:
        size, before = (f"{of[1]}x{of[0]}" if of else "" for of in (shape, self._shape))
        rate = f", {self.fps:g} fps" if self.fps else ""
        change = f", was {before}" if before not in ("", size) else ""
        self._shape = shape
        if self._events.state != "connecting":
            _log.info("%s: streaming again, %s%s%s", self.name, size, rate, change)
        self._events.say("streaming", f"{size}{rate}{change}")

    def _longest_wait(self) -> float:
        if not self._reader.live:
            return math.inf
        return max(self._stall_s, 3 / self.fps if self.fps else 0.0)

    def _reason(self, connection: Connection, *, hung: bool) -> str:
        if hung:
            return (
                f"no frame for {self._longest_wait():g} s"
                if connection.frames
                else f"nothing within {self._open_s:g} s"
            )
        error = connection.error
        return mask_credentials((error.got or error.what) if isinstance(error, EdgeCNNError) else repr(error))

    def _lost(self, connection: Connection, reason: str, attempts: int) -> Exception:
        if attempts == 0 and connection.error is not None:
            return connection.error
        tried = f", after {attempts} tries to connect again" if attempts else ""
        return SourceError(f"{self.name} gives no more frames", got=f"{reason}{tried}")
