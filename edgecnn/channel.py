"""From one thread to the next: a bounded queue, and the one place where it is decided what a full one does.

    keep="all"      putting waits for room: nothing is lost, and a slow reader slows the writer
    keep="newest"   the oldest item makes room: the writer is never held up, and what is read is fresh

A channel ends in one of two ways. The writer says `end()`: what is in it is still read, then `get` raises
`Ended`, or the error that ended the writer. Either side says `close()`: nothing more is given or taken.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import Generic, Literal, TypeVar

__all__ = ["Channel", "Ended", "Keep"]

Item = TypeVar("Item")
Keep = Literal["all", "newest"]


class Ended(Exception):
    """Nothing more comes out of a channel, or nobody takes more."""


class Channel(Generic[Item]):
    """Hands items over. Any number of threads may put and get.

    Args:
        size: how many items wait in it at most; at least 1.
        keep: what happens when it is full; see the module's docstring.

    Attributes:
        dropped: items that made room for newer ones.
    """

    def __init__(self, size: int = 1, *, keep: Keep = "all") -> None:
        if size < 1:
            raise ValueError(f"a channel of size {size}: at least 1 is needed")
        self.size = size
        self.keep = keep
        self.dropped = 0
        self._items: deque[Item] = deque()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        # `with lock`, never `with condition`: Ctrl-C between taking and noting it would leave it locked
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> Item | None:
        """Hand an item over.

        Returns:
            The item that made room for it, for whoever wants its buffers back, or None.

        Raises:
            Ended: the channel is closed, or was ended.
        """
        with self._lock:
            if self.keep == "all":
                self._emptied.wait_for(lambda: self.over or len(self._items) < self.size)
            if self.over:
                raise Ended
            dropped = None
            if len(self._items) >= self.size:
                dropped = self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._filled.notify()
            return dropped

    def get(self, timeout: float | None = None) -> Item:
        """Take the oldest item, waiting for one.

        Args:
            timeout: seconds to wait; without end where None.

        Raises:
            TimeoutError: none came in time.
            Ended: the channel is closed, or was ended and is empty.
            BaseException: what the writer gave to `end`, once the channel is empty.
        """
        deadline = None if timeout is None else monotonic() + timeout
        with self._lock:
            while not self._items and not self.over:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._filled.wait(left)
            if not self._items:
                raise self.error or Ended()
            item = self._items.popleft()
            self._emptied.notify()
            return item

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more will be put, and with what error if any. Only the first call counts."""
        with self._lock:
            if not self.over:
                self._ended = True
                self._error = error
            self._wake()

    def close(self) -> None:
        """Let go of what is in it, and of everyone who waits."""
        with self._lock:
            self._closed = True
            self._items.clear()
            self._wake()

    @property
    def over(self) -> bool:
        """Whether nothing more will be put; what is in it may still be read."""
        return self._ended or self._closed

    @property
    def error(self) -> BaseException | None:
        """What the writer gave to `end`; None once the channel is closed."""
        return None if self._closed else self._error

    def _wake(self) -> None:
        self._filled.notify_all()
        self._emptied.notify_all()
