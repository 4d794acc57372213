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
from collections.abc import Iterator, Sequence
from time import monotonic, perf_counter
from types import TracebackType

from edgecnn.camera import Sink, Source, open_camera, open_sink
from edgecnn.errors import ClosedError, OutputError
from edgecnn.model import Model
from edgecnn.pipeline.output import Latency, Output
from edgecnn.pipeline.statistics import STAGES, PipelineStats, Rate, SourceStats, Window, rss_mb

__all__ = ["Pipeline"]


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
        self._stages = {name: Window() for name in STAGES}
        self._latency, self._age = Window(), Window()
        self._in, self._out = Rate(), Rate()
        self._started = 0.0
        self._finished = 0.0
        self._closed = False

    @property
    def stats(self) -> PipelineStats:
        """What was done so far; also after closing."""
        stages_ms = {name: window.summary() for name, window in self._stages.items()}
        state = "closed" if self._closed else "streaming"
        source = SourceStats(
            name=self.source.name,
            state=getattr(self.source, "state", state),
            frames=self._in.count,
            dropped=self.source.dropped,
            skipped=len(self.source.skipped),
            reconnects=getattr(self.source, "reconnects", 0),
        )
        return PipelineStats(
            frames=self._out.count,
            skipped=source.skipped,
            dropped=source.dropped,
            dropped_by={"source": source.dropped, "pipeline": 0, "deadline": 0},
            seconds=self._finished - self._started if self._out.count else 0.0,
            fps_in=self._in.per_second(),
            fps_out=self._out.per_second(),
            latency_ms=self._latency.summary(),
            age_ms=self._age.summary(),
            stages_ms={name: summary for name, summary in stages_ms.items() if summary is not None},
            sources=(source,),
            reconnects=source.reconnects,
            rss_mb=rss_mb(),
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
        self._in.tick()
        captured = perf_counter()
        result, times = self.model.timed(frame.image)
        latency = Latency((captured - asked) * 1e3, *times, (monotonic() - frame.captured_at) * 1e3)
        output = Output(result, frame, latency, self.model.task.draw)
        ready = perf_counter()
        for sink in self.sinks:
            sink.write(output)
        self._finished = perf_counter()
        for window, value in zip(
            self._stages.values(), (*latency[:-1], (self._finished - ready) * 1e3), strict=True
        ):
            window.add(value)
        self._latency.add(latency.total_ms)
        self._age.add(frame.age_ms)
        self._out.tick()
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
