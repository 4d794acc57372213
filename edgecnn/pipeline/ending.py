"""How a pipeline ends: by its owner, by the garbage collector, or with the interpreter."""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from edgecnn.errors import OutputError
from edgecnn.interrupts import interrupts_deferred
from edgecnn.pipeline.delivery import SinkWriter
from edgecnn.pipeline.stages import Stages
from edgecnn.pipeline.worker import Worker

__all__ = ["shut", "shut_at_exit", "shut_elsewhere"]

_log = logging.getLogger(__name__)

SINKS_S = 30.0  # how long `close` waits for sinks to write what they were given
STAGES_S = 5.0  # … for the stages: an inference cannot be interrupted
FOREIGN_S = 0.25  # … for a source of the caller's, who alone can end a wait for its next frame


def shut(
    stages: Stages,
    writers: Sequence[SinkWriter],
    delivering: threading.RLock,
    opened: contextlib.ExitStack,
    foreign: bool,
) -> BaseException | None:
    """End everything. It knows nothing of the Pipeline, which may be gone, and may be called again.

    Returns:
        Why a sink could not be finished, if one could not.
    """
    stages.halt()
    opened.close()
    deadline = monotonic() + SINKS_S
    delivered = delivering.acquire(timeout=SINKS_S / 2)  # a sink that hangs may hold it up
    for writer in writers:
        writer.end()
    if delivered:
        delivering.release()
    if not stages.join(STAGES_S, capture_s=FOREIGN_S if foreign else STAGES_S):
        _log.info("a source or an inference has not ended yet, and is left to itself")
    late = [writer for writer in writers if not writer.join(max(0.0, deadline - monotonic()))]
    for writer in late:
        error = OutputError(f"{writer.sink.name} was not finished", got=f"nothing for {SINKS_S:.0f} s")
        writer.give_up(error)
    return next((writer.unfinished for writer in writers if writer.unfinished is not None), None)


def shut_at_exit(shut: Callable[[], object]) -> None:
    """Shut, whoever is impatient: an interpreter that ends under a thread in native code aborts."""
    with contextlib.suppress(KeyboardInterrupt), interrupts_deferred():
        shut()


def shut_elsewhere(shut: Callable[[], object], at_exit: Callable[[], object]) -> None:
    """Shut in a thread: the garbage collector may have interrupted one that holds a channel's lock."""

    def shut_once() -> None:
        shut()
        atexit.unregister(at_exit)

    Worker("collected", shut_once).start()
