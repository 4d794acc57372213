"""Sinks: where outputs go. `edgecnn.camera.sink_opening` has the list of them, docs/sinks.md what each does.

A sink refuses what is there already as soon as it is opened, and creates its file with the first output:
a run that gives nothing leaves nothing. Closing makes the file whole, also after Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

from edgecnn.camera.uri import display_path
from edgecnn.errors import ClosedError, OutputError

if TYPE_CHECKING:
    from edgecnn.pipeline import Output

__all__ = ["BaseSink", "CallbackSink", "MemorySink", "Sink", "StopRequested", "refuse_source"]


class StopRequested(Exception):
    """Raised by `Sink.write`: whoever looks at the results wants no more of them, so the run should end."""


class Sink(Protocol):
    """Takes outputs. `write` is called by one thread; `close` may be called by another, after the last write.

    Attributes:
        name: what it writes to, without credentials.
        lossy: it shows outputs rather than keeps them, so it is given the newest one and may miss others.
    """

    name: str
    lossy: bool

    def write(self, output: Output) -> None:
        """Take one output. A picture is `output.annotated`, which is drawn once for all sinks.

        Raises:
            OutputError: it cannot be written. The sink is then closed, and holds what the class says.
            ClosedError: the sink is closed.
            StopRequested: the run should end, as when its window is closed. Nothing is wrong.
        """

    def close(self) -> None:
        """Finish what was written, so that others can read it. A second call does nothing.

        Raises:
            OutputError: it cannot be finished.
        """

    def __enter__(self) -> Sink:
        """The sink."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, also after an error: what was written is finished."""


_Sink = TypeVar("_Sink", bound="BaseSink")


class BaseSink:
    """The life cycle of a sink, for classes that say how to `_write`, perhaps `_finish` and `_abandon`."""

    name = ""
    lossy = False
    _closed = False

    def write(self, output: Output) -> None:
        """See `Sink.write`."""
        if self._closed:
            raise ClosedError(f"the sink {self.name} is closed", remedy="Open it again")
        try:
            self._write(output)
        except OSError as error:  # ours among them
            self._closed = True
            self._abandon(error)
            raise

    def close(self) -> None:
        """See `Sink.close`."""
        if not self._closed:
            self._closed = True
            self._finish()

    def __enter__(self: _Sink) -> _Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, output: Output) -> None:
        """Take one output. Raises OutputError, after which the sink is closed."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Finish the file. Called once, unless a write failed."""

    def _abandon(self, error: OSError) -> None:
        """Let go after a failed write."""


class MemorySink(BaseSink):
    """Keeps outputs in a list: for tests, and for looking at a run afterwards.

    Attributes:
        outputs: what was written, in order.
    """

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.outputs: list[Output] = []

    @property
    def closed(self) -> bool:
        """Whether the sink is closed."""
        return self._closed

    def _write(self, output: Output) -> None:
        self.outputs.append(output)


class CallbackSink(BaseSink):
    """Gives each output to a function.

    Args:
        function: called with the output, in the sink's thread. What it raises becomes OutputError, after
            which it is not called again; StopRequested ends the run.
        name: for messages; the function's own where None.
    """

    def __init__(self, function: Callable[[Output], object], *, name: str | None = None) -> None:
        self._function = function
        self.name = name or _name_of(function)

    def _write(self, output: Output) -> None:
        try:
            self._function(output)
        except StopRequested:
            raise
        except Exception as error:
            raise OutputError(
                f"the callback {self.name} failed", got=f"{type(error).__name__}: {error}"
            ) from error


def _name_of(function: Callable[..., object]) -> str:
    """Its name, and of a lambda, which has none, where it stands."""
    name = str(getattr(function, "__qualname__", type(function).__name__))
    code = getattr(function, "__code__", None)
    if code is not None and "<lambda>" in name:
        return f"lambda in {Path(code.co_filename).name}:{code.co_firstlineno}"
    return name


def refuse_source(target: Path, output: Output) -> None:
    """Keep a sink from the file that its frames come from, even with `force`. Raises OutputError."""
    source = output.frame.path or Path(output.frame.source)
    try:
        same = target.samefile(source)
    except OSError:
        return  # one of them is no file
    if same:
        raise OutputError(f"cannot write {display_path(target)}", got="the file that the frames come from")
