"""`edgecnn run`: frames from a camera, a video or images through a model, into sinks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from edgecnn.cli.common import emit, example_help, force_option, json_option, progress_bar, say
from edgecnn.cli.model_options import ModelOptions, model_options
from edgecnn.cli.terminal import native_stderr_muted, stop_on_signals
from edgecnn.errors import EdgeCNNError

if TYPE_CHECKING:
    from edgecnn.pipeline import Output, PipelineStats
    from edgecnn.results import Result

__all__ = ["command"]


@click.command(
    "run",
    epilog=example_help(
        """
edgecnn run model.onnx --source 0                            # a USB camera, one line a frame
edgecnn run model.onnx --source clip.mp4 --sink out.mp4 --sink out.jsonl
edgecnn run model.onnx --source photos/ --sink annotated/    # a picture each
edgecnn run model.onnx --source 'photos/**/*.jpg' --sink - | jq .result
edgecnn run foreign.onnx --task classification --preset imagenet --labels imagenet --source photo.jpg
"""
    ),
)
@click.argument("model")
@click.option("--source", required=True, help="Camera's number, image, folder, 'pattern' or video.")
@click.option(
    "--sink", "sinks", multiple=True, help="Where results go, see above; may be given several times."
)
@click.option("--frames", type=click.IntRange(1), help="Stop after so many.")
@model_options
@force_option
@json_option
def command(
    *,
    model: str,
    source: str,
    sinks: tuple[str, ...],
    frames: int | None,
    model_options: ModelOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Run MODEL on the frames of a source.

    \b
    Sinks:
      -                     JSON lines on stdout
      FILE.jsonl            JSON lines
      FILE.mp4, .mkv, .avi  annotated video
      FILE.png, .jpg        one annotated picture
      FOLDER/               one annotated picture a frame

    Without a sink, one line a frame is printed. Ctrl-C finishes what was written: a video of the frames so
    far can be played.
    """
    from edgecnn.camera import open_camera, open_sink
    from edgecnn.pipeline import Pipeline

    with contextlib.ExitStack() as opened:
        opened.enter_context(native_stderr_muted())
        # What can be refused quickly comes first; loading a model may take long.
        camera = opened.enter_context(open_camera(source))
        targets = [opened.enter_context(open_sink(sink, fps=camera.fps, force=force)) for sink in sinks]
        loaded = opened.enter_context(model_options.load(model))
        total = min(filter(None, (frames, camera.frame_count)), default=None)
        stop = opened.enter_context(stop_on_signals())
        finishing = opened.enter_context(contextlib.ExitStack())
        for target in targets:
            finishing.push(target)  # closed twice, the first time while signals are still held back
        finishing.callback(stop.finish)
        pipeline = opened.enter_context(Pipeline(camera, loaded, sinks=targets))
        show = _print_line(as_json) if not sinks else opened.enter_context(_counter(total))
        done, interrupted = 0, False
        for output in pipeline:
            show(output)
            done += 1
            if done == frames:
                break
            if stop.asked:
                interrupted = True
                break
    report = {
        "model": model,
        "backend": loaded.backend.name,
        "precision": loaded.precision,
        "source": camera.name,
        **pipeline.stats.to_dict(),
        "sinks": [target.name for target in targets],
    }
    say(_summary(pipeline.stats))
    emit(report, as_json)
    if interrupted:
        kept = ", ".join(target.name for target in targets if target.name != "-")
        raise EdgeCNNError(
            f"interrupted after {done} frames", remedy=f"Those are in {kept}" if kept and done else None
        )


def _print_line(as_json: bool) -> Callable[[Output], None]:
    """One line a frame, on stderr where stdout is JSON."""

    def show(output: Output) -> None:
        frame = output.frame
        click.echo(f"{frame.index:6}  {frame.source}  {_describe(output.result)}", err=as_json)

    return show


@contextlib.contextmanager
def _counter(total: int | None) -> Any:
    """Progress instead, where the results go elsewhere."""
    done = 0
    with progress_bar() as progress:

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
