"""What ends a run before its sources do, noticed by whichever thread."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from edgecnn.camera.line_sinks import StdoutSink
from edgecnn.camera.sink import StopRequested
from edgecnn.cli.common import say
from edgecnn.cli.terminal import StopRequest
from edgecnn.errors import ClosedError, OutputError

if TYPE_CHECKING:
    from edgecnn.camera import Sink
    from edgecnn.pipeline import Output, Pipeline

__all__ = ["End", "QuietStdout", "Watch", "close_quietly", "timer", "until_closed"]

End = Literal["complete", "stopped", "interrupted", "reload", "broken pipe"]
"""`complete`: by itself, or enough was done; `stopped`: by SIGTERM; `interrupted`: by Ctrl-C; `reload`: by
SIGHUP; `broken pipe`: the program that read our stdout has gone."""


class QuietStdout(StdoutSink):
    """Takes no offence when the program that reads our stdout has gone: `edgecnn run … | head`."""

    gone = False

    def _write(self, output: Output) -> None:
        try:
            super()._write(output)
        except BrokenPipeError as error:
            self.gone = True
            raise StopRequested from error


class Watch:
    """Takes note of signals, of failures, and of enough.

    Attributes:
        failures: what was given up → why.
    """

    def __init__(self, stop: StopRequest, sinks: Sequence[Sink]) -> None:
        self.failures: dict[str, str] = {}
        self._stop = stop
        self._sinks = sinks
        self._enough = False

    @property
    def over(self) -> bool:
        """Whether nothing more is wanted."""
        return self._enough or self._stop.asked or self._stop.reload

    @property
    def end(self) -> End:
        """Why it has ended by now."""
        if self._stop.asked:
            return "stopped" if self._stop.terminated else "interrupted"
        return "reload" if self._stop.reload else "complete"

    def done(self) -> None:
        """Enough was done."""
        self._enough = True
        self._stop.on_request()

    def on_event(self, event: object) -> None:
        """Take note of a failure. When nobody is left who would take a result, it was the last."""
        from edgecnn.pipeline import Failure

        if not isinstance(event, Failure):
            return
        self.failures[event.name] = event.reason
        if self._sinks and all(sink.name in self.failures for sink in self._sinks):
            # not here, where the sink's own thread would wait for itself
            threading.Thread(target=self.done, name="edgecnn-end", daemon=True).start()

    def finish(self, sink: Sink) -> None:
        """Close a sink; one that cannot be finished concerns no other."""
        if sink.name in self.failures:
            return  # it is closed, or hangs
        try:
            sink.close()
        except OutputError as error:
            self.failures[sink.name] = str(error)
            say(f"{sink.name} failed: {error}", logging.ERROR)


def until_closed(pipeline: Pipeline) -> Iterator[Output]:
    """The outputs, until another thread closes the pipeline, whether one is waited for or not."""
    with contextlib.suppress(ClosedError):
        yield from pipeline


def close_quietly(pipeline: Pipeline) -> None:
    """Close it, for whoever waits for it."""
    with contextlib.suppress(Exception):  # whoever opened it closes it too, and is told what is wrong
        pipeline.close()


@contextlib.contextmanager
def timer(seconds: float | None, call: Callable[[], None]) -> Iterator[None]:
    """Calls a function after so many seconds, unless the block has ended."""
    if seconds is None:
        yield
        return
    alarm = threading.Timer(seconds, call)
    alarm.name, alarm.daemon = "edgecnn-duration", True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
