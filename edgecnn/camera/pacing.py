"""When frames come at any rate, and what takes them has an even one."""

from __future__ import annotations

__all__ = ["LONGEST_PAUSE_S", "Places"]

LONGEST_PAUSE_S = 2.0
"""A longer silence of a camera is shortened to this: an outage of an hour is not an hour of one picture."""


class Places:
    """The places of a video that has an even rate, for frames that come when they come.

    Args:
        fps: places a second.
    """

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._start: float | None = None  # captured_at of place 0
        self._next = 0  # the first place that holds nothing yet

    def until(self, captured_at: float) -> int:
        """How many places the frame before this one fills: 0 where this one takes its place."""
        if self._start is None:
            self._start = captured_at
        place = round((captured_at - self._start) * self._fps)
        longest = max(1, round(LONGEST_PAUSE_S * self._fps))
        if place - self._next > longest:
            self._start += (place - self._next - longest) / self._fps
            place = self._next + longest
        count = max(0, place - self._next)
        self._next += count
        return count
