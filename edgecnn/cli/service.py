"""What `edgecnn run` does once its options are known: open, run, finish; again after SIGHUP."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgecnn import __version__
from edgecnn.cli.common import emit, logs_shown, progress_bar, say
from edgecnn.cli.model_options import ModelOptions
from edgecnn.cli.statistics import monitored
from edgecnn.cli.systemd import ServiceManager
from edgecnn.cli.terminal import StopRequest, native_stderr_muted, stop_on_signals
from edgecnn.errors import ClosedError, EdgeCNNError
from edgecnn.progress import no_progress
from edgecnn.telemetry import Telemetry

if TYPE_CHECKING:
    from edgecnn.metrics import MetricsServer
    from edgecnn.pipeline import Output, Pipeline, PipelineStats
    from edgecnn.results import Result

__all__ = ["RunOptions", "serve"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the user said; see `edgecnn run --help`."""

    model: str
    source: str
    sinks: tuple[str, ...]
    frames: int | None
    duration: float | None
    model_options: ModelOptions
    stats: bool
    stats_every: float | None
    metrics: str | None
    log_level: str
    force: bool
    as_json: bool

    @property
    def wants_stats(self) -> bool:
        """Whether statistics are shown while it runs."""
        return self.stats or self.stats_every is not None


def serve(options: RunOptions, again: Callable[[], RunOptions]) -> None:
    """Run until the source ends or somebody stops it; SIGHUP finishes the files and begins anew.

    Args:
        options: how to run.
        again: reads the options once more, for SIGHUP. Where it raises click.UsageError, the old ones stay.

    Raises:
        EdgeCNNError: as the parts, or interrupted by Ctrl-C.
    """
    manager = ServiceManager()
    with native_stderr_muted(), stop_on_signals() as stop:
        try:
            done = _run(options, stop, manager)
            while done.end == "reload" and not stop.asked:
                _set_aside(options.sinks)
                try:
                    options = again()
                except click.UsageError as error:
                    say(f"SIGHUP: the options stay as they were: {error.format_message()}", logging.ERROR)
                stop.open()
                done = _run(options, stop, manager)
        finally:
            manager.stopping()
    emit(done.report, options.as_json)
    if done.end == "interrupted":
        raise EdgeCNNError(f"interrupted after {done.frames} frames", remedy=done.kept)


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A run that has been finished.

    Attributes:
        end: why it ended: by itself or because enough was done, by SIGTERM, by Ctrl-C, by SIGHUP.
        frames: delivered.
        kept: where the results are, for the user.
        report: the JSON object.
    """

    end: Literal["complete", "stopped", "interrupted", "reload"]
    frames: int
    kept: str | None
    report: dict[str, Any]


def _run(options: RunOptions, stop: StopRequest, manager: ServiceManager) -> _Done:
    """One run, until its files are finished."""
    from edgecnn.camera import open_camera, open_sink
    from edgecnn.pipeline import Pipeline

    with contextlib.ExitStack() as opened:
        opened.enter_context(logs_shown(logging.getLevelName(options.log_level.upper())))
        telemetry = Telemetry()
        telemetry.read()  # loads are since the reading before
        # What can be refused quickly comes first; loading a model may take long.
        camera = opened.enter_context(open_camera(options.source))
        targets = [
            opened.enter_context(open_sink(sink, fps=camera.fps, force=options.force))
            for sink in options.sinks
        ]
        loaded = opened.enter_context(options.model_options.load(options.model))
        total = min(filter(None, (options.frames, camera.frame_count)), default=None)
        stop.hold()
        finishing = opened.enter_context(contextlib.ExitStack())
        for target in targets:
            finishing.push(target)  # closed twice, the first time while signals are still held back
        finishing.callback(stop.finish)
        pipeline = opened.enter_context(Pipeline(camera, loaded, sinks=targets))
        if options.metrics is not None:
            opened.enter_context(_metrics(options, pipeline))
        table = options.wants_stats and options.stats_every is None and sys.stderr.isatty()
        if not targets and not (table and sys.stdout.isatty()):
            show = _print_line(options.as_json)
        else:
            show = opened.enter_context(_counter(total, shown=not options.wants_stats))
        opened.enter_context(
            monitored(
                lambda: pipeline.stats,
                manager,
                title=f"{loaded.name} {loaded.precision}, {loaded.backend.name} on {loaded.backend.device}",
                show=options.wants_stats,
                every_s=options.stats_every,
            )
        )
        if camera.live:  # a file's next frame is there before anybody could be impatient
            stop.on_request = camera.close
        enough = opened.enter_context(_timer(options.duration, stop))
        manager.ready()
        frames = 0
        for output in _until_closed(pipeline, lambda: stop.asked or stop.reload or enough.is_set()):
            show(output)
            frames += 1
            if frames == options.frames or stop.asked or stop.reload or enough.is_set():
                break
        end: Any = "complete"
        if stop.asked:
            end = "stopped" if stop.terminated else "interrupted"
        elif stop.reload:
            end = "reload"
            manager.reloading()
    report = {
        "model": options.model,
        "backend": loaded.backend.name,
        "precision": loaded.precision,
        "source": camera.name,
        **pipeline.stats.to_dict(),
        "sinks": [target.name for target in targets],
        "device": telemetry.read().to_dict(),
    }
    say(_summary(pipeline.stats))
    kept = ", ".join(target.name for target in targets if target.name != "-")
    return _Done(
        end=end, frames=frames, kept=f"Those are in {kept}" if kept and frames else None, report=report
    )


def _until_closed(outputs: Iterable[Output], wanted: Callable[[], bool]) -> Iterator[Output]:
    """The outputs; the end too where somebody wanted it and has closed the camera."""
    try:
        yield from outputs
    except ClosedError:
        if not wanted():
            raise


@contextlib.contextmanager
def _timer(seconds: float | None, stop: StopRequest) -> Iterator[threading.Event]:
    """An event that is set after so many seconds, when whoever waits for a camera is woken."""
    enough = threading.Event()
    if seconds is None:
        yield enough
        return

    def end() -> None:
        enough.set()
        stop.on_request()

    timer = threading.Timer(seconds, end)
    timer.name, timer.daemon = "edgecnn-duration", True
    timer.start()
    try:
        yield enough
    finally:
        timer.cancel()
        timer.join(timeout=2)


def _set_aside(sinks: Sequence[str]) -> None:
    """Rename what is finished after the time, unless somebody (logrotate) has moved it away.

    `out.mp4` becomes `out.20261122T141736.mp4`, and is free to be begun anew.
    """
    now = time.strftime("%Y%m%dT%H%M%S")
    for sink in sinks:
        path = Path(sink)
        if path.is_dir() or path.is_file():
            target = path.with_name(f"{path.stem}.{now}{path.suffix}")
            try:
                if target.exists():  # two signals within a second
                    target = path.with_name(f"{path.stem}.{now}-{time.time_ns()}{path.suffix}")
                path.rename(target)
            except OSError as error:
                say(f"cannot set {sink} aside: {error.strerror}", logging.ERROR)


def _metrics(options: RunOptions, pipeline: Pipeline) -> MetricsServer:
    from edgecnn.metrics import MetricsServer

    model, address = pipeline.model, str(options.metrics)
    info = {
        "version": __version__,
        "model": model.name,
        "precision": model.precision,
        "backend": model.backend.name,
        "device": model.backend.device,
    }
    server = MetricsServer(lambda: pipeline.stats, address=address, telemetry=Telemetry(), info=info)
    say(f"metrics on {server.url}")
    return server


def _print_line(as_json: bool) -> Callable[[Output], None]:
    """One line a frame, on stderr where stdout is JSON."""

    def show(output: Output) -> None:
        frame = output.frame
        click.echo(f"{frame.index:6}  {frame.source}  {_describe(output.result)}", err=as_json)

    return show


@contextlib.contextmanager
def _counter(total: int | None, *, shown: bool) -> Any:
    """Progress instead, where the results go elsewhere."""
    done = 0
    with progress_bar() if shown else contextlib.nullcontext(no_progress) as progress:

        def show(output: Output) -> None:
            nonlocal done
            done += 1
            progress("run", done, total)

        yield show


def _describe(result: Result) -> str:
    """A result in a few words: the best class, or the start of its JSON."""
    from edgecnn.results import Classification

    if isinstance(result, Classification):
        best = result.best
        return f"{best.score:6.1%}  {best.label}"
    text = json.dumps(result.to_dict())
    return text if len(text) <= 100 else f"{text[:99]}…"


def _summary(stats: PipelineStats) -> str:
    parts = [f"{stats.frames} frames"]
    if stats.fps is not None:
        parts.append(f"in {stats.seconds:.1f} s, {stats.fps:.1f} fps")
    for name, count in (("skipped", stats.skipped), ("dropped", stats.dropped)):
        if count:
            parts.append(f"{count} {name}")
    stages = ", ".join(f"{name} {summary['p50']:.1f}" for name, summary in stats.stages_ms.items())
    return ", ".join(parts) + (f"; median ms: {stages}" if stages else "")
