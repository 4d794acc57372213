"""A thread that can be waited for, and again after Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Worker"]


class Worker(threading.Thread):
    """A daemon thread: whoever forgets it can still leave the interpreter.

    `join` that Ctrl-C interrupts takes a running thread for one that has ended (python/cpython#89437), and an
    interpreter that ends while such a thread is in native code aborts. So `wait` asks the thread itself.
    """

    def __init__(self, name: str, target: Callable[..., object], *arguments: Any) -> None:
        super().__init__(target=target, args=arguments, name=f"edgecnn-{name}", daemon=True)
        self._has_ended = threading.Event()

    def run(self) -> None:
        """Do the work."""
        try:
            super().run()
        finally:
            self._has_ended.set()

    def wait(self, timeout: float) -> bool:
        """Whether it ends in so many seconds. True at once where it was not started, or is the caller."""
        if self.ident is None or self is threading.current_thread():
            return True
        if not self._has_ended.wait(max(0.0, timeout)):
            return False
        self.join()
        return True
