"""From a camera to results: capture → infer → sinks, one frame after the other.

    with edgecnn.Pipeline("clip.mp4", model, sinks=["out.mp4"]) as pipeline:
        for output in pipeline:
            print(output.frame.index, output.result.best, output.latency.total_ms)
    print(pipeline.stats.fps)

A frame's time is accounted for in five stages: `capture` (waiting for the source), `preprocess`, `infer`,
`postprocess`, and `deliver` (drawing, and all sinks). Its latency is another thing: from the moment it was
captured until its result was there.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic, perf_counter
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera import Frame, Sink, Source, open_camera, open_sink
from edgecnn.errors import ClosedError, OutputError
from edgecnn.model import Model
from edgecnn.results import Result
from edgecnn.timing import percentiles_ms

__all__ = ["STAGES", "Latency", "Output", "Pipeline", "PipelineStats"]

STAGES = ("capture", "preprocess", "infer", "postprocess", "deliver")

WINDOW = 8192
"""Percentiles are of that many newest frames, so that a service's memory does not grow with its days."""


class Latency(NamedTuple):
    """Where one frame's time went, in milliseconds.

    Attributes:
        capture_ms: waiting for the source, decoding included.
        preprocess_ms, infer_ms, postprocess_ms: in the model.
        total_ms: from `frame.captured_at` until the result was there: how old the result is.
    """

    capture_ms: float
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float
    total_ms: float


@dataclass(frozen=True, eq=False)
class Output:
    """One frame and what the model found in it.

    Attributes:
        result: what was found.
        frame: the frame; its image is as the camera gave it.
        latency: where the time went.
    """

    result: Result
    frame: Frame
    latency: Latency
    _draw: Callable[[NDArray[np.uint8], Result], None] | None = field(default=None, repr=False)

    @cached_property
    def annotated(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR: a copy of the frame with the result on it, drawn when first asked for."""
        picture = _as_bgr(self.frame.image)
        if self._draw is not None:
            self._draw(picture, self.result)
        return picture

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of one frame, as JSON-lines sinks write it.

        `captured_at` is in seconds of the monotonic clock; `age_ms` is how old the frame was with its result.
        """
        return {
            "index": self.frame.index,
            "source": self.frame.source,
            "captured_at": round(self.frame.captured_at, 6),
            "age_ms": round(self.latency.total_ms, 3),
            "dropped": self.frame.dropped,
            "result": self.result.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class PipelineStats:
    """What a pipeline has done so far.

    Attributes:
        frames: frames delivered.
        skipped: images that could not be read.
        dropped: frames that the source let go.
        seconds: from asking for the first frame until the last one was delivered.
        latency_ms: `p50`, `p90`, `p99`, `mean` of `Latency.total_ms`; None before the first frame.
        stages_ms: the same for each of `STAGES`; empty before the first frame.
    """

    frames: int
    skipped: int
    dropped: int
    seconds: float
    latency_ms: dict[str, float] | None
    stages_ms: dict[str, dict[str, float]]

    @property
    def fps(self) -> float | None:
        """Frames per second, None before the first frame."""
        return self.frames / self.seconds if self.frames else None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "frames": self.frames,
            "skipped": self.skipped,
            "dropped": self.dropped,
            "fps": None if self.fps is None else round(self.fps, 2),
            "latency_ms": self.latency_ms,
            "stages_ms": self.stages_ms,
            "seconds": round(self.seconds, 3),
        }


class Pipeline:
    """Runs a model on every frame of a source and gives the outputs to sinks and to whoever iterates.

    What it opens itself, from a URI, it closes; a Source, Model or Sink that it is given stays the caller's.
    Closing finishes the sinks, so that after Ctrl-C a video of the frames so far can be played.

    Args:
        source: a Source, or the URI of one.
        model: a loaded model.
        sinks: Sinks, or URIs of some.
        force: sinks opened here may write over what is there.

    Attributes:
        source, model, sinks: as used.

    Raises:
        SourceError, OutputError, BackendUnavailableError: as `open_camera` and `open_sink`.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | int | Source,
        model: Model,
        *,
        sinks: Sequence[str | os.PathLike[str] | Sink] = (),
        force: bool = False,
    ) -> None:
        with contextlib.ExitStack() as opened:
            self.source = source if isinstance(source, Source) else opened.enter_context(open_camera(source))
            self.model = model
            self.sinks: list[Sink] = []
            for sink in sinks:
                if isinstance(sink, (str, os.PathLike)):
                    sink = opened.enter_context(open_sink(sink, fps=self.source.fps, force=force))
                if sink.name in (other.name for other in self.sinks):
                    raise OutputError(f"the sink {sink.name} is given twice")
                self.sinks.append(sink)
            self._opened = opened.pop_all()
        # A row a frame: STAGES, then total_ms. Tuples, since a NumPy row costs 20 µs when caches are cold.
        self._times: deque[tuple[float, ...]] = deque(maxlen=WINDOW)
        self._frames = 0
        self._started = 0.0
        self._finished = 0.0
        self._closed = False

    @property
    def stats(self) -> PipelineStats:
        """What was done so far; also after closing."""
        summaries = [percentiles_ms(column) for column in zip(*list(self._times), strict=True)]
        return PipelineStats(
            frames=self._frames,
            skipped=len(self.source.skipped),
            dropped=self.source.dropped,
            seconds=self._finished - self._started if self._frames else 0.0,
            latency_ms=summaries[-1] if summaries else None,
            stages_ms=dict(zip(STAGES, summaries, strict=False)),
        )

    def __iter__(self) -> Iterator[Output]:
        return self

    def __next__(self) -> Output:
        """The next frame's output, which all sinks have taken.

        Raises:
            StopIteration: the source has ended.
            SourceError, InputError, InferenceError, OutputError: as the source, the model and the sinks.
            ClosedError: the pipeline is closed.
        """
        if self._closed:
            raise ClosedError("the pipeline is closed", remedy="Make another one")
        asked = perf_counter()
        self._started = self._started or asked
        frame = next(self.source)
        captured = perf_counter()
        result, times = self.model.timed(frame.image)
        latency = Latency((captured - asked) * 1e3, *times, (monotonic() - frame.captured_at) * 1e3)
        output = Output(result, frame, latency, self.model.task.draw)
        ready = perf_counter()
        for sink in self.sinks:
            sink.write(output)
        self._finished = perf_counter()
        self._times.append((*latency[:-1], (self._finished - ready) * 1e3, latency.total_ms))
        self._frames += 1
        return output

    def close(self) -> None:
        """Finish the sinks and close the source, as far as they were opened here. A second call does nothing.

        Raises:
            OutputError: a sink cannot be finished; the others are.
        """
        if not self._closed:
            self._closed = True
            self._opened.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy as (H, W, 3): grey frames get three channels, transparency is left out."""
    if image.ndim == 2:
        image = image[:, :, np.newaxis]
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return np.array(image[:, :, :3], order="C")
