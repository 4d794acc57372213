"""The newest item, for any number of watchers: none of them has a queue, and none holds up the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

__all__ = ["Feed"]


class Feed:
    """Hands the newest item to everyone who watches. A watcher that is slow misses those in between."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item = b""
        self._number = 0
        self._watchers = 0
        self._closed = False

    @property
    def watched(self) -> bool:
        """Whether anyone watches: else there is no need to make an item."""
        return self._watchers > 0

    def put(self, item: bytes) -> None:
        """Replace the item."""
        with self._changed:
            self._item = item
            self._number += 1
            self._changed.notify_all()

    def watch(self, patience_s: float) -> Iterator[bytes | None]:
        """Items that are put from now on, the newest each time; None after each `patience_s` without one."""
        with self._changed:
            self._watchers += 1
            seen = self._number
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._number != seen, patience_s)  # noqa: B023
                    if self._closed:
                        return
                    item = None if self._number == seen else self._item
                    seen = self._number
                yield item
        finally:
            with self._changed:
                self._watchers -= 1

    def close(self) -> None:
        """Let go of everyone who watches."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
