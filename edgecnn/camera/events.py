"""What a source is doing, and who is told when that changes.

    connecting ──▶ streaming ──▶ stalled ──▶ reconnecting ──▶ streaming …
                       └──────────────────────▲    └──▶ closed

`stalled` is a source that is silent, `reconnecting` one that is being opened again, after a silence or an
error. `closed` is the last state: closed by its owner, at its end, or given up.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

__all__ = ["Events", "SourceEvent", "State", "Subscriber"]

_log = logging.getLogger(__name__)

State = Literal["connecting", "streaming", "stalled", "reconnecting", "closed"]


@dataclass(frozen=True)
class SourceEvent:
    """A source's new state.

    Attributes:
        state: see the module's docstring.
        at: when, in seconds of `time.monotonic()`.
        source: the source's name, without credentials.
        reason: why, or what is there now: `no frame for 3 s`, `640x480, 30 fps`.
        attempt: with `reconnecting`: the number of the try that follows, from 1.
    """

    state: State
    at: float
    source: str
    reason: str = ""
    attempt: int = 0


Subscriber = Callable[[SourceEvent], None]


class Events:
    """A source's state, and those who want to know.

    Args:
        source: the source's name.
        state: the state to begin with; nobody is told of it.

    Attributes:
        state: the state now.
        reconnects: how often it has streamed again after a silence or an error.
    """

    def __init__(self, source: str, state: State = "streaming") -> None:
        self.source = source
        self.state: State = state
        self.reconnects = 0
        self._lock = threading.Lock()
        self._subscribers: list[Subscriber] = []
        self._failed: list[Subscriber] = []

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback` with each event from now on, in the thread in which it happens, and so briefly.

        An exception in it is logged, the first time, and concerns nobody else.
        """
        with self._lock:
            self._subscribers.append(callback)

    def unsubscribe(self, callback: Subscriber) -> None:
        """Take back one `subscribe`."""
        with self._lock, contextlib.suppress(ValueError):
            self._subscribers.remove(callback)

    def say(self, state: State, reason: str = "", *, attempt: int = 0) -> None:
        """Enter a state and tell everyone. After `closed` there is no other."""
        with self._lock:
            if self.state == "closed":
                return
            if state == "streaming" and self.state in ("stalled", "reconnecting"):
                self.reconnects += 1
            self.state = state
            subscribers = tuple(self._subscribers)
        event = SourceEvent(state, monotonic(), self.source, reason, attempt)
        for callback in subscribers:
            self._tell(callback, event)

    def _tell(self, callback: Subscriber, event: SourceEvent) -> None:
        try:
            callback(event)
        except Exception:
            if callback not in self._failed:
                self._failed.append(callback)
                _log.exception("%s: a subscriber to its events failed; it stays subscribed", self.source)
