"""The child process that runs TensorRT's compiler: `python -m edgecnn.export.tensorrt.worker`.

It reads a `protocol.Request` on stdin and answers with events on stdout. All that TensorRT says goes to
stderr, which the parent keeps in a file without a name: after a crash its end says where it happened.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgecnn.errors import BuildError, EdgeCNNError
from edgecnn.export.tensorrt.compilation import Compilation
from edgecnn.export.tensorrt.protocol import Failed, Request, encode

__all__ = ["main"]

_LOG_BYTES = (
    4 << 20
)  # a verbose log of TensorRT on a Jetson has tens of megabytes, and its end is what counts
_PATIENCE_S = 10.0


def main() -> int:
    """Serve one request; returns the exit code."""
    stdin = sys.stdin.buffer
    # TensorRT and what it loads may print to the process's stdout; the events go another way
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _offer_to_oom_killer()
    channel = _Channel(events)
    try:
        request = msgspec.json.decode(stdin.readline(), type=Request)
        model = request.model if request.model is not None else _read(stdin, request.model_bytes)
        stop = threading.Event()
        threading.Thread(target=_watch, args=(stdin, stop), daemon=True).start()
        channel.send(Compilation(request, channel.send, _note, stop).run(model))
    except EdgeCNNError as error:
        channel.send(
            Failed(
                error=type(error).__name__,
                what=error.what,
                got=error.got,
                expected=error.expected,
                remedy=error.remedy,
            )
        )
    except OSError as error:
        channel.send(Failed(error="OSError", what=str(error), number=error.errno))
    except MemoryError:
        channel.send(Failed(error="BuildError", what="out of memory while building"))
    return 0


class _Channel:
    """Events to the parent. TensorRT logs from its own threads too, so one at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: msgspec.Struct) -> None:
        line = encode(message)
        with self._lock:
            try:
                self._stream.write(line) if len(line) <= 4096 else _write_all(self._stream, line)
            except BrokenPipeError:  # nobody listens any more; `_watch` ends this process
                return


def _watch(stdin: BinaryIO, stop: threading.Event) -> None:
    """Wait for the parent to close the pipe, or to die; then stop the build, by its own means if it can."""
    while os.read(stdin.fileno(), 1 << 12):  # the buffer's lock would hang the interpreter's exit
        pass
    stop.set()
    time.sleep(_PATIENCE_S)
    os._exit(1)


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise BuildError("the model did not arrive whole", got=f"{len(data)} bytes", expected=str(count))
    return data


def _note(text: str) -> None:
    data = text.encode(errors="replace")
    if os.fstat(2).st_size > _LOG_BYTES:
        os.ftruncate(2, 0)
    os.write(2, data)


def _write_all(stream: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _offer_to_oom_killer() -> None:
    """If memory runs out, let the kernel end the compiler, not the program that asked for it."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:  # not Linux, or not allowed
        return


if __name__ == "__main__":
    code = main()
    os._exit(code)  # TensorRT's own clean-up has crashed before, and there is nothing left to say
