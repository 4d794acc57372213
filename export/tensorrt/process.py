"""The parent's side: run the worker, pass on its progress, and put whatever becomes of it into words.

    Request ─▶ stdin ┐                        ┌ stdout ─▶ events ─▶ progress, warnings, the result
                     └── worker (TensorRT) ───┤
    closing = stop                            └ stderr ─▶ a file without a name: the end of TensorRT's log

The worker is in a session of its own, so Ctrl-C reaches this process alone, which then stops the worker:
closing the pipe cancels through TensorRT's progress monitor; what does not end then is terminated, and then
killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import msgspec

import edgecnn.errors
from edgecnn.errors import BuildError, EdgeCNNError
from edgecnn.export.tensorrt.flavours import child_environment, facts_of
from edgecnn.export.tensorrt.protocol import Failed, Finished, Logged, Progressed, Request, decode, encode
from edgecnn.progress import Progress, no_progress

__all__ = ["Outcome", "run_worker"]

_CANCEL_S = 5.0  # between two looks at the progress monitor TensorRT may measure kernels for seconds
_TERMINATE_S = 2.0
_TAIL_BYTES = 16 << 10
_TAIL_LINES = 5

# Said of every network of its kind, and nothing that a reader could act on.
_NOISE = re.compile(
    r"Converting conv (activation|weight) scales to fp32"
    r"|Thread context has not been set"
    r"|Error code 35|cudaError 35"  # no driver: compiling for RTX needs none
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the worker said: its result, and TensorRT's warnings, each once."""

    finished: Finished
    warnings: tuple[str, ...]


def run_worker(request: Request, model: bytes | None, *, progress: Progress = no_progress) -> Outcome:
    """Compile in a child process; it has ended when this returns or raises, whatever happens.

    Raises:
        BuildError: the compiler refused, failed, crashed or was killed.
        BackendUnavailableError: the library cannot be imported there.
        OSError: the plan could not be written.
    """
    with tempfile.TemporaryFile(mode="ab+") as log:
        process = _start(log)
        try:
            messages, last = _converse(process, request, model, progress)
        except BaseException:
            _stop(process)
            raise
        code = _stop(process)
        if isinstance(last, Finished):
            return Outcome(finished=last, warnings=_relevant(messages, ("WARNING",)))
        if last is None:
            raise _crashed(request.flavour, code, messages, log)
        raise _failure(last, request.flavour, messages)


def _start(log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgecnn.export.tensorrt.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd="/",
        env={**child_environment(), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def _converse(
    process: subprocess.Popen[bytes], request: Request, model: bytes | None, progress: Progress
) -> tuple[list[Logged], Finished | Failed | None]:
    """Send the request and read events up to the last; None where the worker ended without one."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it died; what follows says of what
        process.stdin.write(encode(request))
        if model is not None:
            process.stdin.write(model)
        process.stdin.flush()
    messages: list[Logged] = []
    for line in process.stdout:
        try:
            event = decode(line)
        except msgspec.MsgspecError:  # half a line: it died while it wrote
            break
        if isinstance(event, Progressed):
            progress("compiling", event.done, event.total)
        elif isinstance(event, Logged):
            messages.append(event)
        else:
            return messages, event
    return messages, None


def _stop(process: subprocess.Popen[bytes]) -> int:
    """End the worker, gently at first; returns its exit code."""
    try:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        for patience, end in ((_CANCEL_S, process.terminate), (_TERMINATE_S, process.kill)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(patience)
            end()
        return process.wait()
    finally:
        if process.poll() is None:  # a second Ctrl-C while waiting
            process.kill()
            process.wait()


def _crashed(flavour: str, code: int, messages: Sequence[Logged], log: IO[bytes]) -> BuildError:
    title = facts_of(flavour).title
    tail = _tail(log)
    if code == -signal.SIGKILL:
        return BuildError(
            f"{title}'s compiler was killed, most likely because the machine ran out of memory",
            got=tail,
            remedy="Close other programs, give a smaller workspace_bytes (--workspace), or add swap",
        )
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        what = f"{title}'s compiler crashed ({name})"
        remedy = "This is a bug there: try another precision, or another version of it"
        return BuildError(what, got=tail, remedy=remedy)
    return BuildError(f"{title}'s compiler ended without a result (exit code {code})", got=tail)


def _failure(failed: Failed, flavour: str, messages: Sequence[Logged]) -> Exception:
    if failed.number is not None:
        return OSError(failed.number, os.strerror(failed.number))
    kind: type[EdgeCNNError] = getattr(edgecnn.errors, failed.error)  # the worker's errors are of our tree
    if failed.what:
        return kind(failed.what, got=failed.got, expected=failed.expected, remedy=failed.remedy)
    said = _relevant(messages, ("ERROR", "INTERNAL_ERROR"))
    title = facts_of(flavour).title
    return BuildError(f"{title} cannot build this network", got="; ".join(said) or "no message")


def _relevant(messages: Sequence[Logged], severities: Sequence[str]) -> tuple[str, ...]:
    """What TensorRT said that a reader can act on: each once, on one line, without where in its source."""
    texts = (
        _readable(item.text)
        for item in messages
        if item.severity in severities and not _NOISE.search(item.text)
    )
    return tuple(dict.fromkeys(text for text in texts if text))


def _readable(text: str) -> str:
    line = " ".join(text.split())
    line = re.sub(r"^I?\w+::\w+: Error Code \d+: ", "", line)
    return re.sub(r"\s+In \S+ at \S+:\d+(?=\)|$)", "", line)


def _tail(log: IO[bytes]) -> str:
    """The last lines of what the worker and TensorRT printed, on one line."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _TAIL_BYTES))
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return " | ".join(line.strip()[:300] for line in lines[-_TAIL_LINES:]) or "no message"
