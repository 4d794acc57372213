"""Which frames of a live source are old although they have only just arrived.

While a server is frozen or the network is gone, frames lie somewhere on the way; afterwards they arrive all
at once. To the user each would look new. After a gap, a frame is therefore new only if

- by the stream's own clock it is no later than frames were before the gap, or,
- where the stream has no clock, it is not the first and did not follow the one before at once.

Frames are doubted for a second at most, unless they are catching up: a stream's clock may be another one
after a gap.
"""

from __future__ import annotations

from collections import deque

from edgecnn.camera.source import Capture

__all__ = ["Backlog"]

GAP_S = 0.5
GAP_INTERVALS = 3.0  # a gap is longer than that many usual intervals, too
LATE_S = 0.25
DOUBT_S = 1.0
LONGEST_S = 2.0  # what a longer pause counts as, in the average of the intervals
KNOWN_DELAYS = 100


class Backlog:
    """Looks at each frame of one connection, in order."""

    def __init__(self) -> None:
        self._last_at: float | None = None
        self._began = False  # the last frame was the first after a gap
        self._interval = 0.0  # seconds between frames, averaged over about ten
        self._delays: deque[float] = deque(maxlen=KNOWN_DELAYS)  # arrival minus the stream's own time
        self._doubted_until: float | None = None
        self._delay_then = 0.0  # when the doubt began, or was prolonged

    def is_stale(self, capture: Capture) -> bool:
        """Whether the frame lay on the way during a gap."""
        at = capture.captured_at
        waited = 0.0 if self._last_at is None else at - self._last_at
        self._last_at = at
        delay = None if capture.source_time is None else at - capture.source_time
        begins = 0 < GAP_INTERVALS * self._interval < waited > GAP_S
        two_gaps, self._began = begins and self._began, begins
        if begins:
            self._doubted_until, self._delay_then = at + DOUBT_S, delay or 0.0
        elif self._doubted_until is not None and at > self._doubted_until:
            self._doubt_again_or_end(at, delay)
        if self._doubted_until is not None and self._is_late(delay, waited, begins):
            if two_gaps:  # a stream that became slower
                self._learn(waited)
            return True
        self._doubted_until = None
        self._learn(waited)
        if delay is not None:
            self._delays.append(delay)
        return False

    def _is_late(self, delay: float | None, waited: float, begins: bool) -> bool:
        if delay is not None and self._delays:
            return delay - min(self._delays) > LATE_S
        return begins or waited < 0.5 * self._interval

    def _doubt_again_or_end(self, at: float, delay: float | None) -> None:
        """Frames that catch up with their clock are still old ones; those that do not have another clock."""
        if delay is not None and delay < self._delay_then - LATE_S:
            self._doubted_until, self._delay_then = at + DOUBT_S, delay
        else:
            self._doubted_until = None
            self._delays.clear()

    def _learn(self, waited: float) -> None:
        if waited:
            self._interval += (min(waited, LONGEST_S) - self._interval) * (0.1 if self._interval else 1.0)
