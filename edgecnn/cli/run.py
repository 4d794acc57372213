"""`edgecnn run`: frames from a camera, a video or images through a model, into sinks."""

from __future__ import annotations

from typing import Any

import click

from edgecnn.cli.common import example_help, force_option, json_option
from edgecnn.cli.config import config_option
from edgecnn.cli.model_options import ModelOptions, model_options
from edgecnn.cli.service import RunOptions, serve

__all__ = ["command"]


class _Run(click.Command):
    """Runs what the function below makes of the options, which can be read again."""

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        context.meta[__name__] = list(words)
        return super().parse_args(context, words)

    def invoke(self, context: click.Context) -> None:
        def again() -> RunOptions:
            new = self.make_context(context.info_name, list(words), parent=context.parent)
            options: RunOptions = click.Command.invoke(self, new)
            return options

        words = context.meta[__name__]
        serve(super().invoke(context), again)


@click.command(
    "run",
    cls=_Run,
    epilog=example_help(
        """
edgecnn run model.onnx --source 0                            # a USB camera, one line a frame
edgecnn run model.onnx --source clip.mp4 --sink out.mp4 --sink out.jsonl
edgecnn run model.onnx --source photos/ --sink annotated/    # a picture each
edgecnn run model.onnx --source 'photos/**/*.jpg' --sink - | jq .result
edgecnn run foreign.onnx --task classification --preset imagenet --labels imagenet --source photo.jpg
edgecnn run --config app.toml --duration 3600                # as a service: docs/service.md
"""
    ),
)
@click.argument("model")
@click.option("--source", required=True, help="Camera's number, image, folder, 'pattern' or video.")
@click.option(
    "--sink", "sinks", multiple=True, help="Where results go, see above; may be given several times."
)
@click.option("--frames", type=click.IntRange(1), help="Stop after so many.")
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Stop after so many."
)
@click.option(
    "--stats", is_flag=True, help="How it does: a live table on a terminal, elsewhere a line every 10 s."
)
@click.option(
    "--stats-every",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="A line so often, instead of a table.",
)
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="The same for Prometheus, at http://HOST:PORT/metrics.  [default host: 127.0.0.1]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="What to tell on stderr.",
)
@config_option
@model_options
@force_option
@json_option
def command(*, model_options: ModelOptions, **options: Any) -> RunOptions:
    """Run MODEL on the frames of a source.

    \b
    Sinks:
      -                     JSON lines on stdout
      FILE.jsonl            JSON lines
      FILE.mp4, .mkv, .avi  annotated video
      FILE.png, .jpg        one annotated picture
      FOLDER/               one annotated picture a frame

    Without a sink, one line a frame is printed. Ctrl-C and SIGTERM finish what was written: a video of the
    frames so far can be played. SIGTERM then exits with 0, Ctrl-C with 1. SIGHUP sets what was written aside,
    reads --config again, and begins anew.
    """
    return RunOptions(model_options=model_options, **options)
