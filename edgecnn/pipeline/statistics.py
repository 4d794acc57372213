"""How a pipeline is doing: numbers that cost next to nothing to collect, and a snapshot of them.

Each thread of a pipeline writes to recorders of its own, so collecting takes no lock. All memory is there
from the start: what a service remembers does not grow with its days.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from edgecnn.timing import percentiles_ms

__all__ = [
    "STAGES",
    "PipelineStats",
    "Rate",
    "SinkStats",
    "SourceStats",
    "Window",
    "rss_mb",
]

STAGES = ("capture", "preprocess", "infer", "postprocess", "deliver")

WINDOW = 8192
"""Percentiles are of that many newest frames."""

RATE_S = 10.0
"""Rates are of that many last seconds."""


@dataclass(frozen=True, kw_only=True)
class SourceStats:
    """One source.

    Attributes:
        name: without credentials.
        state: `connecting`, `streaming`, `stalled`, `reconnecting` or `closed`.
        frames: taken from it so far.
        dropped: frames that it let go before that.
        skipped: images that could not be read.
        reconnects: how often it was opened again.
    """

    name: str
    state: str
    frames: int
    dropped: int
    skipped: int
    reconnects: int


@dataclass(frozen=True, kw_only=True)
class SinkStats:
    """One sink.

    Attributes:
        name: without credentials.
        written: outputs that it took.
        dropped: outputs that it was too slow for.
        write_ms: `p50`, `p90`, `p99`, `mean` of its writes, drawing included; None before the first one.
        failure: why it takes no more, or None.
    """

    name: str
    written: int
    dropped: int
    write_ms: dict[str, float] | None
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class PipelineStats:
    """What a pipeline has done so far.

    Attributes:
        frames: frames delivered.
        skipped: images that could not be read.
        dropped: frames that were not delivered, for whatever reason; those under way are not among them.
        dropped_by: the same by reason: `source` (before the pipeline got them), `pipeline` (a newer one was
            there), `deadline` (too old).
        seconds: from asking for the first frame until the last one was delivered.
        fps_in, fps_out: frames a second in the last ten seconds, from the sources and to the caller; None
            before the first two.
        latency_ms: `p50`, `p90`, `p99`, `mean` of `Latency.total_ms`; None before the first frame.
        age_ms: the same of a frame's age when it was delivered.
        stages_ms: the same for each of `STAGES`; empty before the first frame. `deliver` is handing over to
            the sinks, whose own times are in `sinks`.
        sources, sinks: one entry each, in order.
        failures: name of a sink, or of one source among several, → why it was given up.
        reconnects: of all sources.
        rss_mb: memory of the process in 10⁶ bytes; None where the system does not say.
    """

    frames: int
    skipped: int
    dropped: int
    dropped_by: dict[str, int]
    seconds: float
    fps_in: float | None
    fps_out: float | None
    latency_ms: dict[str, float] | None
    age_ms: dict[str, float] | None
    stages_ms: dict[str, dict[str, float]]
    sources: tuple[SourceStats, ...] = ()
    sinks: tuple[SinkStats, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    reconnects: int = 0
    rss_mb: float | None = None

    @property
    def fps(self) -> float | None:
        """Frames delivered per second over the whole time, None before the first frame."""
        return self.frames / self.seconds if self.frames else None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, in which `sinks` and `sources` are lists of objects."""
        first = {
            "frames": self.frames,
            "skipped": self.skipped,
            "dropped": self.dropped,
            "fps": None if self.fps is None else round(self.fps, 2),
            "latency_ms": self.latency_ms,
            "stages_ms": self.stages_ms,
            "seconds": round(self.seconds, 3),
        }
        rest = {key: value for key, value in asdict(self).items() if key not in first}
        return first | rest | {"sources": list(rest["sources"]), "sinks": list(rest["sinks"])}


class Window:
    """The newest numbers of a series: written by one thread, read by any."""

    def __init__(self) -> None:
        self._values = array("d", bytes(8 * WINDOW))
        self.count = 0

    def add(self, value: float) -> None:
        """One more."""
        self._values[self.count % len(self._values)] = value
        self.count += 1

    def summary(self) -> dict[str, float] | None:
        """`p50`, `p90`, `p99`, `mean`; None before the first number."""
        known = min(self.count, len(self._values))
        return percentiles_ms(np.array(self._values)[:known]) if known else None


class Rate:
    """How often something happens: written by one thread, read by any."""

    def __init__(self) -> None:
        self.count = 0
        self._times = array("d", bytes(8 * 1024))

    def tick(self) -> None:
        """It happened."""
        self._times[self.count % len(self._times)] = monotonic()
        self.count += 1

    def per_second(self) -> float | None:
        """Over the last ten seconds, or as much of them as it remembers; None before the second time."""
        now, known = monotonic(), min(self.count, len(self._times))
        if self.count < 2:
            return None
        times = np.array(self._times)[:known]
        recent = times[times > now - RATE_S]
        if len(recent) == known:  # it began, or what is remembered begins, within them
            return round((known - 1) / max(now - float(recent.min()), 1e-9), 2)
        return round(len(recent) / RATE_S, 2)


def rss_mb() -> float | None:
    """Resident memory of this process in 10⁶ bytes, None where /proc does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
