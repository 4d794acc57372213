"""What `edgecnn run` does once its options are known: open, run, finish; again after SIGHUP."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecnn import __version__
from edgecnn.cli.common import emit, logs_shown, say
from edgecnn.cli.ending import End, QuietStdout, Watch, close_quietly, timer, until_closed
from edgecnn.cli.model_options import ModelOptions
from edgecnn.cli.part_options import PartOptions
from edgecnn.cli.results import counted, print_line, summary
from edgecnn.cli.statistics import monitored
from edgecnn.cli.systemd import ServiceManager
from edgecnn.cli.terminal import StopRequest, native_stderr_muted, stop_on_signals
from edgecnn.errors import EdgeCNNError
from edgecnn.telemetry import Telemetry

if TYPE_CHECKING:
    from edgecnn.camera import Sink, Source
    from edgecnn.metrics import MetricsServer
    from edgecnn.pipeline import Output, Pipeline

__all__ = ["RunOptions", "serve"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the user said; see `edgecnn run --help`."""

    models: dict[str, str]  # by the user's names for them, or the files' own
    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    policy: str | None
    reconnect: int | None
    stall: float | None
    deadline: float | None
    track: bool
    frames: int | None
    duration: float | None
    model_options: ModelOptions
    parts: PartOptions
    stats: bool
    stats_every: float | None
    metrics: str | None
    log_level: str
    force: bool
    as_json: bool


def serve(options: RunOptions, again: Callable[[], RunOptions]) -> None:
    """Run until the sources end or somebody stops it; SIGHUP finishes the files and begins anew.

    Args:
        options: how to run.
        again: reads the options once more, for SIGHUP. Where it raises click.UsageError, the old ones stay.

    Raises:
        EdgeCNNError: as the parts, or interrupted by Ctrl-C, or something was given up meanwhile.
        BrokenPipeError: the program that read our stdout has gone.
    """
    manager = ServiceManager()
    with native_stderr_muted(), stop_on_signals() as stop:
        try:
            done = _run(options, stop, manager)
            while done.end == "reload" and not stop.asked:
                stop.open()  # what is asked from here on is asked of the new run
                _set_aside(options.sinks)
                try:
                    options = again()
                except click.UsageError as error:
                    say(f"SIGHUP: the options stay as they were: {error.format_message()}", logging.ERROR)
                done = _run(options, stop, manager)
        finally:
            manager.stopping()
    if done.end == "broken pipe":
        raise BrokenPipeError
    emit(done.report, options.as_json)
    if done.end == "interrupted":
        files = ", ".join(sink for sink in done.sinks if sink != "-")
        remedy = f"Those are in {files}" if files and done.frames else None
        raise EdgeCNNError(f"interrupted after {done.frames} frames", remedy=remedy)
    if done.failures:  # why, was said when it happened
        raise EdgeCNNError(f"given up: {', '.join(done.failures)}")


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A run that has been finished.

    Attributes:
        end: why it ended.
        frames: delivered.
        sinks: names of those that were given them.
        failures: what was given up → why.
        report: the JSON object.
    """

    end: End
    frames: int
    sinks: tuple[str, ...]
    failures: dict[str, str]
    report: dict[str, Any]


def _run(options: RunOptions, stop: StopRequest, manager: ServiceManager) -> _Done:
    """One run, until its files are finished."""
    from edgecnn.camera import open_sink
    from edgecnn.pipeline import Pipeline
    from edgecnn.tracking import ByteTrack

    telemetry = Telemetry()
    telemetry.read()  # loads are since the reading before
    with contextlib.ExitStack() as opened:
        opened.enter_context(logs_shown(logging.getLevelName(options.log_level.upper())))
        # What can be refused quickly comes first; loading a model may take long.
        cameras = [opened.enter_context(_open_camera(uri, options)) for uri in options.sources]
        live = any(camera.live for camera in cameras)
        sinks: list[Sink] = [
            QuietStdout()
            if uri == "-"
            else opened.enter_context(open_sink(uri, fps=cameras[0].fps, live=live, force=options.force))
            for uri in options.sinks
        ]
        models = {
            name: options.parts.apply(opened.enter_context(options.model_options.load(path)))
            for name, path in options.models.items()
        }
        first = next(iter(models.values()))
        watch = Watch(stop, sinks)
        stop.hold()
        for sink in sinks:
            opened.callback(watch.finish, sink)  # the first time while signals are still held back
        opened.callback(stop.finish)
        pipeline = opened.enter_context(
            Pipeline(
                cameras,
                models if len(models) > 1 else first,
                sinks=sinks,
                deadline_ms=options.deadline,
                tracker=ByteTrack if options.track else None,
                on_event=watch.on_event,
            )
        )
        stop.on_request = lambda: close_quietly(pipeline)
        if watch.over:  # asked for while there was nothing to wake
            stop.on_request()
        opened.enter_context(timer(options.duration, watch.done))
        show = _show(options, pipeline, manager, opened, [camera.frame_count for camera in cameras])
        manager.ready()
        frames = 0
        for output in until_closed(pipeline):
            show(output)
            frames += 1
            if frames == options.frames or watch.over:
                break
        end = watch.end  # before signals are held back, of which some may come
        if end == "reload":
            manager.reloading()
    stats = pipeline.stats
    report = {
        "model": next(iter(options.models.values())),
        "backend": first.backend.name,
        "precision": first.precision,
        "source": cameras[0].name,
        **stats.to_dict(),
        "failures": watch.failures,
        "device": telemetry.read().to_dict(),
    }
    if any(isinstance(sink, QuietStdout) and sink.gone for sink in sinks):
        end = "broken pipe"
    else:
        say(summary(stats))
    names = tuple(sink.name for sink in sinks)
    return _Done(end=end, frames=frames, sinks=names, failures=watch.failures, report=report)


def _open_camera(uri: str, options: RunOptions) -> Source:
    from edgecnn.camera import open_camera
    from edgecnn.camera.live import STALL_S

    stall_s = STALL_S if options.stall is None else options.stall
    return open_camera(uri, policy=options.policy, reconnect=options.reconnect, stall_s=stall_s)


def _show(
    options: RunOptions,
    pipeline: Pipeline,
    manager: ServiceManager,
    opened: contextlib.ExitStack,
    counts: Sequence[int | None],
) -> Callable[[Output], None]:
    """Open what shows how it goes; returns what is called with each output."""
    model = pipeline.model
    wanted = options.stats or options.stats_every is not None
    if options.metrics is not None:
        opened.enter_context(_metrics(options.metrics, pipeline))
    title = f"{', '.join(pipeline.models)}: {model.precision}, {model.backend.name} on {model.backend.device}"
    opened.enter_context(
        monitored(lambda: pipeline.stats, manager, title=title, show=wanted, every_s=options.stats_every)
    )
    table = wanted and options.stats_every is None and sys.stderr.isatty()
    if not options.sinks and not (table and sys.stdout.isatty()):
        return lambda output: print_line(output, as_json=options.as_json)
    if wanted:
        return lambda output: None
    known = None if None in counts else sum(filter(None, counts))
    return opened.enter_context(counted(min(filter(None, (options.frames, known)), default=None)))


def _metrics(address: str, pipeline: Pipeline) -> MetricsServer:
    from edgecnn.metrics import MetricsServer

    model = pipeline.model
    info = {
        "version": __version__,
        "model": ", ".join(pipeline.models),
        "precision": model.precision,
        "backend": model.backend.name,
        "device": model.backend.device,
    }
    server = MetricsServer(lambda: pipeline.stats, address=address, telemetry=Telemetry(), info=info)
    say(f"metrics on {server.url}")
    return server


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
