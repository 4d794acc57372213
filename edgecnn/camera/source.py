"""Frames, and where they come from.

A Reader is one kind of source: a file, a device, a list. It is small, so that what wraps a reader (a
thread that keeps the latest frame, a reconnect) is a reader again. A Source is what the user holds: it
numbers the frames of any reader, and gives all of them one life cycle.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera.events import Events, State, Subscriber
from edgecnn.errors import ClosedError

__all__ = ["Capture", "Frame", "MemoryReader", "Reader", "Skipped", "Source"]

CLOSE_S = 0.5
"""How long closing waits for a read that is under way."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        image: (H, W, 3) uint8 BGR, OpenCV's order, or the camera's own bytes where the URI asks for them
            (`edgecnn.camera_input` has their shapes); belongs to whoever holds the frame.
        index: its number in the source, from 0; dropped frames are counted, skipped ones are not.
        captured_at: when it was there, in seconds of `time.monotonic()`.
        source: where it is from, without credentials: the image's path, the video's, the camera's URI.
        path: the image file, where the source is image files.
        dropped: frames that the source let go between the one before and this.
        source_time: seconds by the stream's own clock, from wherever that begins; None where it has none.
    """

    image: NDArray[np.uint8]
    index: int
    captured_at: float
    source: str
    path: Path | None = None
    dropped: int = 0
    source_time: float | None = None

    @property
    def age_ms(self) -> float:
        """Milliseconds since it was captured; grows as time passes."""
        return (monotonic() - self.captured_at) * 1e3


class Capture(NamedTuple):
    """What a reader gives: a frame that has no number yet. The fields are Frame's."""

    image: NDArray[np.uint8]
    captured_at: float
    source: str
    path: Path | None = None
    dropped: int = 0
    source_time: float | None = None


class Skipped(NamedTuple):
    """An image that could not be read, and why."""

    path: Path
    reason: str


class Reader(Protocol):
    """What a kind of source must be able to do. Called by one thread at a time."""

    @property
    def name(self) -> str:
        """What was opened, without credentials."""

    @property
    def live(self) -> bool:
        """Whether it goes on when nobody reads, so that what is not read grows old."""

    @property
    def fps(self) -> float | None:
        """Frames per second; None where there is no such thing (image files) or it is not known."""

    @property
    def frame_count(self) -> int | None:
        """How many frames there should be; None where unknown or endless. A video may only estimate it."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """What could not be read so far."""

    def read(self) -> Capture | None:
        """The next frame, waiting for it; None at the end.

        Raises:
            SourceError: there should have been a frame.
        """

    def close(self) -> None:
        """Let go of files and devices. Called once."""


class Source:
    """An open source: a context manager, and an iterator of frames. May be closed from another thread.

    Args:
        reader: what to read; closed together with the source.
        policy: what the reader does with frames that nobody takes; see `edgecnn.camera.policy`.
        events: where the reader tells its state; a source that does not change its state needs none.
        interrupt: makes the read that another thread waits for return; may be called at any time.
        pixel_format: what the frames' bytes are.

    Attributes:
        name, live, frame_count: the reader's.
        policy: `latest`, `all` or `queue=N`.
        dropped: frames let go so far.
        pixel_format: `bgr`, another one of `edgecnn.camera_input`, `raw` for a device's own; None: not known.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        policy: str = "all",
        events: Events | None = None,
        interrupt: Callable[[], None] | None = None,
        pixel_format: str | None = None,
    ) -> None:
        self._reader = reader
        self.pixel_format = pixel_format
        self.name = reader.name
        self.live = reader.live
        self.frame_count = reader.frame_count
        self.policy = policy
        self.dropped = 0
        self._events = events or Events(reader.name)
        self._interrupt = interrupt
        self._next_index = 0
        self._ended = False
        self._closed = False
        self._released = False
        self._lock = threading.Lock()  # of the fields; never held while something is waited for
        self._reading = threading.Lock()  # releasing a capture while it reads would crash the process

    @property
    def fps(self) -> float | None:
        """Frames per second, None where not known; may be another after a reconnect."""
        return self._reader.fps

    @property
    def skipped(self) -> Sequence[Skipped]:
        """The images that could not be read so far, and why."""
        return self._reader.skipped

    @property
    def state(self) -> State:
        """What it is doing now; see `edgecnn.camera.events`."""
        return self._events.state

    @property
    def reconnects(self) -> int:
        """How often it has streamed again after a silence or an error."""
        return self._events.reconnects

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback` with each SourceEvent from now on, in the thread in which it happens."""
        self._events.subscribe(callback)

    def unsubscribe(self, callback: Subscriber) -> None:
        """Take back one `subscribe`; does nothing where there was none."""
        self._events.unsubscribe(callback)

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """The next frame, waiting for it; with the policy `latest`, one newer than the last.

        Raises:
            StopIteration: the source has ended, or was closed meanwhile.
            SourceError: there should have been a frame.
            ClosedError: the source is closed.
        """
        with self._reading:
            if self._closed:
                raise ClosedError(f"{self.name} is closed", remedy="Open it again")
            try:
                capture = None if self._ended else self._reader.read()
                if capture is None:
                    self._ended = True
                    self._events.say("closed", "its end")
            finally:
                if self._closed:  # meanwhile, by someone who did not wait
                    self._release()
            if capture is None or self._closed:
                raise StopIteration
            self.dropped += capture.dropped
            self._next_index += capture.dropped + 1
            image, captured_at, source, path, dropped, source_time = capture
            return Frame(image, self._next_index - 1, captured_at, source, path, dropped, source_time)

    def close(self) -> None:
        """Let go of the reader, within a second. A second call does nothing.

        A thread that waits for a frame then gets none. Where it is stuck in a read that nothing can
        interrupt (a network disk that is gone), it lets go of the reader itself, once the read returns.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._events.say("closed")
        if self._interrupt is not None:
            self._interrupt()
        if self._reading.acquire(timeout=CLOSE_S):
            try:
                self._release()
            finally:
                self._reading.release()

    def _release(self) -> None:
        with self._lock:
            if self._released:
                return
            self._released = True
        self._reader.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        """Threads do not keep a camera open that nobody has: `for frame in open_camera(0): … break`."""
        if not getattr(self, "_closed", True) and self._interrupt is not None:
            with contextlib.suppress(RuntimeError):  # the interpreter ends, and the threads with it
                # a thread of its own, since this one may hold any lock at this moment
                threading.Thread(target=self.close, name=f"close {self.name}", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Source {self.name}, {self.state}>"


class MemoryReader:
    """A reader of images in memory: for tests, for benchmarks without a decoder, for frames of one's own.

    Args:
        images: (H, W, 3) uint8 BGR each; may be a generator that never ends.
        name: what to call it.
        fps: frames per second to claim.
        live: what to claim.
    """

    def __init__(
        self,
        images: Iterable[NDArray[np.uint8]],
        *,
        name: str = "memory",
        fps: float | None = None,
        live: bool = False,
    ) -> None:
        self.name = name
        self.live = live
        self.fps = fps
        self.frame_count = len(images) if isinstance(images, Sequence) else None
        self.skipped: tuple[Skipped, ...] = ()
        self._images = iter(images)

    def read(self) -> Capture | None:
        """See `Reader.read`; captured at the moment of the call."""
        image = next(self._images, None)
        return None if image is None else Capture(image, monotonic(), self.name)

    def close(self) -> None:
        """Nothing to let go of."""
