"""Pipeline: what the user holds. The threads are in `stages`, the sinks' in `delivery`.

    with edgecnn.Pipeline("clip.mp4", model, sinks=["out.mp4"]) as pipeline:
        for output in pipeline:
            print(output.frame.index, output.result.best, output.latency.total_ms)
    print(pipeline.stats.fps)

The threads start with the first frame that is asked for. The sinks are given what whoever iterates is given,
neither more nor less: who stops after five frames has a video of five.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from time import perf_counter
from types import TracebackType

from edgecnn.camera import CallbackSink, Sink, Source, open_camera, open_sink
from edgecnn.camera.events import SourceEvent
from edgecnn.camera.sink import StopRequested
from edgecnn.channel import Ended, Keep
from edgecnn.errors import ClosedError, OutputError, SpecError
from edgecnn.pipeline.cascade import Cascade
from edgecnn.pipeline.delivery import Failure, Failures, SinkWriter
from edgecnn.pipeline.ending import shut, shut_at_exit, shut_elsewhere
from edgecnn.pipeline.following import Following, check_followed
from edgecnn.pipeline.output import Output
from edgecnn.pipeline.stages import Stages, keep_of
from edgecnn.pipeline.statistics import STAGES, PipelineStats, Rate, SourceStats, Window, rss_mb
from edgecnn.pipeline.work import check_frames, checked_models
from edgecnn.pipeline.worker import Worker
from edgecnn.tiling import AnyModel
from edgecnn.tracking import Tracker

__all__ = ["Pipeline"]

SourceLike = str | os.PathLike[str] | int | Source


class Pipeline:
    """Runs models on the frames of one or several sources, and gives the outputs to sinks and to the caller.

    Capture, preprocessing, inference, postprocessing and each sink have threads of their own. A camera's
    newest frame is taken; those that came too fast are dropped and counted. Of files, every frame comes once,
    in order. Several cameras take turns. Iterate over it, in a `for` or an `async for`, or call `run`.

    What it opens itself, from a URI, it closes; a Source, Model or Sink that it is given stays the caller's,
    though frames that were read ahead are gone. Closing finishes the sinks, so that after Ctrl-C a video of
    the frames so far can be played. Safe from any thread; a signal handler must start one to close it.

    Args:
        source: a Source or the URI of one, or a sequence of them.
        model: a loaded model, or one in tiles (`edgecnn.tiling`); or several by name, each a model or a
            Cascade upon one before it. Models run at the same time on the same frame, and `Output.results`
            has what each found.
        sinks: Sinks, URIs of some, or functions that take an Output. One that fails is closed and reported,
            and everything else goes on.
        force: sinks opened here may write over what is there.
        deadline_ms: frames that are older are dropped before anything else is done with them.
        tracker: makes a Tracker, such as `edgecnn.tracking.ByteTrack`; called for each camera and each model.
            Objects then have `track_ids`.
        on_event: called with each SourceEvent and Failure, from the thread in which it happens.

    Attributes:
        sources, models, sinks: as used; `source` and `model` are the first ones.

    Raises:
        SourceError, OutputError, BackendUnavailableError: as `open_camera` and `open_sink`.
        SpecError: models that do not fit together, or not to the source's frames; nothing to track.
    """

    def __init__(
        self,
        source: SourceLike | Sequence[SourceLike],
        model: AnyModel | Mapping[str, AnyModel | Cascade],
        *,
        sinks: Sequence[str | os.PathLike[str] | Sink | Callable[[Output], object]] = (),
        force: bool = False,
        deadline_ms: float | None = None,
        tracker: Callable[[], Tracker] | None = None,
        on_event: Callable[[SourceEvent | Failure], None] | None = None,
    ) -> None:
        self.models = checked_models(model)
        models = [one for one in self.models.values() if not isinstance(one, Cascade)]
        self.model = models[0]
        if tracker is not None:
            check_followed([one.spec for one in models])
        wanted = [source] if isinstance(source, (str, os.PathLike, int, Source)) else list(source)
        given = [one for one in wanted if isinstance(one, Source)]
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as opened_sinks:
            self.sources = [
                one if isinstance(one, Source) else opened.enter_context(open_camera(one, on_event=on_event))
                for one in wanted
            ]
            if not self.sources:
                raise SpecError("a pipeline needs a source", got="none")
            for one in self.sources:
                check_frames(one, self.model)
            self.source = self.sources[0]
            failures = Failures(on_event)
            following = None if tracker is None else Following(tracker, self.sources)
            stages = Stages(
                self.sources, self.models, deadline_ms=deadline_ms, failures=failures, following=following
            )
            fps, live = self.source.fps, any(one.live for one in self.sources)
            keep: Keep = "newest" if any(keep_of(one) == "newest" for one in self.sources) else "all"
            writers: list[SinkWriter] = []
            for sink in sinks:
                owned = isinstance(sink, (str, os.PathLike))
                if isinstance(sink, (str, os.PathLike)):
                    sink = opened_sinks.enter_context(open_sink(sink, fps=fps, live=live, force=force))
                elif callable(sink):
                    sink = CallbackSink(sink)
                if sink.name in (other.sink.name for other in writers):
                    raise OutputError(f"the sink {sink.name} is given twice")
                writers.append(SinkWriter(sink, owned=owned, keep=keep, failures=failures, stop=stages.halt))
            opened_sinks.pop_all()  # their writers close them
            self._opened = opened.pop_all()
        self.sinks = [writer.sink for writer in writers]
        self._stages, self._writers, self._failures = stages, writers, failures
        if on_event is not None:
            for one in given:
                one.subscribe(on_event)
                self._opened.callback(one.unsubscribe, on_event)  # the source may outlive us
        # All sinks get an output, in the order of the callers, or none does. A sink may close the pipeline.
        self._delivering = threading.RLock()
        # One that nobody closes is closed when the interpreter ends, or before, when it is collected.
        self._shut = functools.partial(shut, stages, writers, self._delivering, self._opened, bool(given))
        self._at_exit = functools.partial(shut_at_exit, self._shut)
        atexit.register(self._at_exit)
        self._collected = weakref.finalize(self, shut_elsewhere, self._shut, self._at_exit)
        self._collected.atexit = False
        self._times = {name: Window() for name in STAGES}
        self._latency, self._age, self._out = Window(), Window(), Rate()
        self._started = self._finished = 0.0
        self._asked: Future[Output | None] | None = None
        self._waiting: list[Callable[[], None]] = []  # for what was asked
        self._closed = False

    @property
    def stats(self) -> PipelineStats:
        """What was done so far; from any thread, also after closing."""
        frames = self._out.count  # first: what is read later may have grown, and was captured before
        sources = tuple(
            SourceStats(
                name=source.name,
                state=source.state,
                frames=rate.count,
                dropped=source.dropped,
                skipped=len(source.skipped),
                reconnects=source.reconnects,
            )
            for source, rate in zip(self.sources, self._stages.captured, strict=True)
        )
        dropped_by = {
            "source": sum(source.dropped for source in sources),
            "pipeline": self._stages.dropped,
            "deadline": sum(self._stages.late.values()),
        }
        rates = [rate.per_second() for rate in self._stages.captured]
        stages_ms = {name: window.summary() for name, window in self._times.items()}
        return PipelineStats(
            frames=frames,
            skipped=sum(source.skipped for source in sources),
            dropped=sum(dropped_by.values()),
            dropped_by=dropped_by,
            seconds=self._finished - self._started if frames else 0.0,
            fps_in=None if all(rate is None for rate in rates) else round(sum(filter(None, rates)), 2),
            fps_out=self._out.per_second(),
            latency_ms=self._latency.summary(),
            age_ms=self._age.summary(),
            stages_ms={name: summary for name, summary in stages_ms.items() if summary is not None},
            sources=sources,
            sinks=tuple(writer.stats for writer in self._writers),
            failures=dict(self._failures.by_name),
            reconnects=sum(source.reconnects for source in sources),
            rss_mb=rss_mb(),
        )

    def __iter__(self) -> Iterator[Output]:
        """The outputs, until the end or until the pipeline is closed. Raises as `__next__`."""
        self._check_open()
        return self._until_closed()

    def _until_closed(self) -> Iterator[Output]:
        while True:
            try:
                output = next(self, None)
            except ClosedError:
                if not self._closed:  # the model is, or the source
                    raise
                return
            if output is None:
                return
            yield output

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the pipeline is closed", remedy="Make another one")

    def __next__(self) -> Output:
        """The next output, which has been handed to all sinks.

        Raises:
            StopIteration: the sources have ended, a sink asked to stop, or the pipeline was closed meanwhile.
            SourceError, InputError, InferenceError: as the source and the model, after all results that there
                were. Of several sources, the first one's error, when none is left.
            ClosedError: the pipeline is closed.
        """
        self._check_open()
        with self._delivering:
            if not self._started:
                self._started = perf_counter()
                for writer in self._writers:
                    writer.start()
                self._stages.start()
            try:
                output = self._stages.outputs.get()[1]
                while self._stages.too_late([output.frame], "deliver"):
                    output = self._stages.outputs.get()[1]
            except Ended:
                raise StopIteration from None
            start = perf_counter()
            for writer in self._writers:
                writer.put(output)
            self._finished = perf_counter()
            delivered_ms = (self._finished - start) * 1e3
            for window, ms in zip(self._times.values(), (*output.latency[:-1], delivered_ms), strict=True):
                window.add(ms)
            self._latency.add(output.latency.total_ms)
            self._age.add(output.frame.age_ms)
            self._out.tick()
            return output

    def run(self, on_output: Callable[[Output], object] | None = None) -> PipelineStats:
        """Run to the end, or until the pipeline is closed, calling `on_output` with each output.

        What `on_output` raises stops nothing: it is reported once for each place that raises, and counts as a
        failure. StopRequested ends the run.

        Returns:
            The statistics.

        Raises as iterating.
        """
        with contextlib.suppress(StopRequested):
            for output in self:
                if on_output is not None:
                    self._call(on_output, output)
        return self.stats

    def _call(self, on_output: Callable[[Output], object], output: Output) -> None:
        try:
            on_output(output)
        except StopRequested:
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._failures.report(f"callback {place.name}, {place.filename}:{place.lineno}", error)

    def __aiter__(self) -> Pipeline:
        return self

    async def __anext__(self) -> Output:
        """As `__next__`, without keeping the event loop from other work.

        A wait that is cancelled, as by `asyncio.timeout`, loses nothing: the next one gets that output.
        """
        if self._asked is None:
            self._asked, self._waiting = Future(), []
            self._asked.add_done_callback(functools.partial(_tell_all, self._waiting))
            Worker("async", _fulfil, self._asked, self).start()
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not arrived.done():  # as it is when the wait was cancelled
                arrived.set_result(None)

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(wake)

        asked, waiting = self._asked, self._waiting
        waiting.append(tell)
        try:
            if asked.done():
                wake()
            await arrived
        finally:  # a camera may be away for days, and each wait for it be cancelled after a second
            waiting.remove(tell)
        self._asked = None
        output = asked.result()
        if output is None:
            raise StopAsyncIteration
        return output

    def close(self) -> None:
        """End all threads, finish the sinks and close the sources, as far as they were opened here.

        What the sinks were given, they write. From any thread; a second call does nothing.

        Raises:
            OutputError: a sink cannot be finished; the others are.
        """
        self._closed = True
        if not self._collected.alive:
            return
        unfinished = self._shut()  # Ctrl-C may interrupt it: then it is tried again
        self._collected.detach()
        atexit.unregister(self._at_exit)
        if unfinished is not None:
            raise unfinished

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tell_all(waiting: Sequence[Callable[[], None]], _: object) -> None:
    for tell in tuple(waiting):
        tell()


def _fulfil(asked: Future[Output | None], pipeline: Pipeline) -> None:
    """Give the next output, None at the end, or the error."""
    try:
        asked.set_result(next(pipeline, None))
    except BaseException as error:
        asked.set_exception(error)
