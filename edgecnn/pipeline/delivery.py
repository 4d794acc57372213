"""From the pipeline to a sink: a thread of its own for each, so that no sink waits for another.

What a sink cannot keep up with is decided by its channel: a viewer (`Sink.lossy`) is given the newest output
only; any other sink every one while frames come from files, and as many as it can write while they come from
a camera, which does not wait.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, perf_counter

from edgecnn.camera import Sink
from edgecnn.camera.sink import StopRequested
from edgecnn.channel import Channel, Ended, Keep
from edgecnn.errors import ClosedError
from edgecnn.pipeline.output import Output
from edgecnn.pipeline.statistics import SinkStats, Window
from edgecnn.pipeline.worker import Worker

__all__ = ["Failure", "Failures", "SinkWriter"]

_log = logging.getLogger(__name__)

QUEUE = 4  # outputs that wait for a sink: each may hold a frame


@dataclass(frozen=True)
class Failure:
    """A sink, a callback or one of several sources that failed, while the pipeline goes on.

    Attributes:
        name: of the sink or source, without credentials.
        error: what it raised.
        at: when, in seconds of `time.monotonic()`.
    """

    name: str
    error: BaseException
    at: float = field(default_factory=monotonic)

    @property
    def reason(self) -> str:
        """In one line."""
        text = " ".join(str(self.error).split())
        return text if isinstance(self.error, OSError) else f"{type(self.error).__name__}: {text}"


class Failures:
    """What failed, each name once: kept, logged, and told to whoever listens.

    Args:
        on_event: called with each Failure; what it raises is logged.
    """

    def __init__(self, on_event: Callable[[Failure], object] | None = None) -> None:
        self.by_name: dict[str, str] = {}
        self._on_event = on_event
        self._lock = threading.Lock()

    def report(self, name: str, error: BaseException) -> None:
        """Take note of a failure, unless there was one of that name."""
        failure = Failure(name, error)
        with self._lock:
            if name in self.by_name:
                return
            self.by_name[name] = failure.reason
        _log.error("%s failed: %s", name, failure.reason)
        _log.debug("%s failed here:", name, exc_info=error)
        if self._on_event is not None:
            try:
                self._on_event(failure)
            except Exception:
                _log.exception("the callback on_event failed")


class SinkWriter:
    """Writes to one sink until it fails, asks to stop, or nothing more comes.

    Args:
        sink: what to write to.
        owned: close it in the end; one that failed is closed in any case.
        keep: what is kept for it where it is not `lossy`.
        failures: where to report that it failed.
        stop: called when the sink asks that the run ends.

    Attributes:
        unfinished: what it raised when it was closed in the end, or None.
    """

    def __init__(
        self, sink: Sink, *, owned: bool, keep: Keep, failures: Failures, stop: Callable[[], None]
    ) -> None:
        self.sink = sink
        self.unfinished: BaseException | None = None
        self._owned = owned
        self._lossy = bool(getattr(sink, "lossy", False))
        self._failures = failures
        self._stop = stop
        self._channel: Channel[Output] = (
            Channel(1, keep="newest") if self._lossy else Channel(QUEUE, keep=keep)
        )
        self._times = Window()
        self._failed = False
        self._closed = False
        self._worker = Worker(f"sink-{sink.name}", self._run)

    @property
    def stats(self) -> SinkStats:
        """What it has done so far."""
        return SinkStats(
            name=self.sink.name,
            written=self._times.count,
            dropped=self._channel.dropped,
            write_ms=self._times.summary(),
            failure=self._failures.by_name.get(self.sink.name) if self._failed else None,
        )

    def start(self) -> None:
        """Start its thread."""
        self._worker.start()

    def put(self, output: Output) -> None:
        """Hand an output over; does nothing once the sink is given up."""
        with contextlib.suppress(Ended):
            self._channel.put(output)

    def end(self) -> None:
        """Say that nothing more comes. What a viewer has not shown yet, it does not need any more."""
        if self._lossy:
            self._channel.close()
        else:
            self._channel.end()

    def join(self, timeout: float) -> bool:
        """Wait until the sink has taken everything, and is closed if it is ours; whether that is so."""
        if self._worker.ident is None:
            self._finish()
            return True
        return self._worker.wait(timeout)

    def give_up(self, error: BaseException) -> None:
        """Report that it does not end."""
        self.unfinished = error
        self._channel.close()
        self._failures.report(self.sink.name, error)

    def _run(self) -> None:
        with contextlib.suppress(Ended):
            while True:
                self._write(self._channel.get())
        self._finish()

    def _write(self, output: Output) -> None:
        start = perf_counter()
        try:
            self.sink.write(output)
        except StopRequested:
            self._channel.close()
            self._stop()
        except ClosedError:  # by its owner, who knows
            self._channel.close()
        except BaseException as error:
            self._failed = True
            self._channel.close()
            self._failures.report(self.sink.name, error)
            self._finish()
        else:
            self._times.add((perf_counter() - start) * 1e3)

    def _finish(self) -> None:
        if self._closed or not (self._owned or self._failed):
            return
        self._closed = True
        try:
            self.sink.close()
        except Exception as error:
            if not self._failed:
                self.unfinished = error
                self._failures.report(self.sink.name, error)
