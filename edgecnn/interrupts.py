"""Ctrl-C while a compiled extension is imported: it waits until the import has ended.

An exception inside an extension's initialization leaves it half made: `import onnx` then crashes the
process, and `import onnxruntime` fails as if it were not installed.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["interrupts_deferred"]


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the block has ended.

    Outside of the main thread, which alone gets them, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in numbers
        if callable(signal.getsignal(number))  # one that is ignored, or ends the process, does no harm
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
