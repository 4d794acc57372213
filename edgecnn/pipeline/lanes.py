"""Several channels, one a camera, that are read in turn: no camera waits while another one is served twice.

What a full channel does is its own decision (`edgecnn.channel`); here is only whose turn it is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import Generic, TypeVar

from edgecnn.channel import Channel, Ended, Keep

__all__ = ["Lanes"]

Item = TypeVar("Item")


class Lanes(Generic[Item]):
    """One channel a camera. Any number of threads may put and get.

    Args:
        keeps: what each of them keeps when it is full.
        sizes: how many items wait in each of them at most; one where None.
    """

    def __init__(self, keeps: Sequence[Keep], sizes: Sequence[int] | None = None) -> None:
        self._channels: list[Channel[Item]] = [
            Channel(size, keep=keep) for size, keep in zip(sizes or [1] * len(keeps), keeps, strict=True)
        ]
        self._turn = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    @property
    def dropped(self) -> int:
        """Items that made room for newer ones."""
        return sum(channel.dropped for channel in self._channels)

    def put(self, lane: int, item: Item) -> None:
        """Hand an item over; as `Channel.put`."""
        self._channels[lane].put(item)
        self.wake()

    def get(
        self, timeout: float | None = None, among: Callable[[], Collection[int]] | None = None
    ) -> tuple[int, Item]:
        """Take an item from the lane whose turn it is, or the next one that has any.

        Args:
            timeout: seconds to wait; without end where None.
            among: the lanes that may have their turn, asked again after each `wake`; all where None.

        Returns:
            The lane and its oldest item.

        Raises:
            TimeoutError: none came in time.
            Ended: all lanes have ended and are empty, or are closed.
            BaseException: the same, and a lane was ended with an error: that of the first lane that was.
        """
        if len(self._channels) == 1:
            return 0, self._channels[0].get(timeout)
        deadline = None if timeout is None else monotonic() + timeout
        with self._lock:
            while True:
                over = 0
                allowed = range(len(self._channels)) if among is None else among()
                for step in range(len(self._channels)):
                    lane = (self._turn + step) % len(self._channels)
                    channel = self._channels[lane]
                    ended = channel.over  # asked before it is found empty: nothing comes after that
                    if not len(channel):  # not said by `get`: an error raised for each frame keeps them all
                        over += ended
                    elif lane in allowed:
                        with contextlib.suppress(Ended):  # closed at this moment
                            item = channel.get(timeout=0)
                            self._turn = lane + 1
                            return lane, item
                if over == len(self._channels):
                    raise next((error for channel in self._channels if (error := channel.error)), Ended())
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError
                self._changed.wait(left)

    def wake(self) -> None:
        """Let whoever waits in `get` look again."""
        if len(self._channels) > 1:
            with self._lock:
                self._changed.notify_all()

    def end(self, lane: int | None = None, error: BaseException | None = None) -> None:
        """Say that nothing more will be put into a lane, or any where None; as `Channel.end`."""
        for channel in self._channels if lane is None else [self._channels[lane]]:
            channel.end(error)
        self.wake()

    def close(self) -> None:
        """Let go of what is in them, and of everyone who waits."""
        for channel in self._channels:
            channel.close()
        self.wake()
