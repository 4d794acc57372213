"""`edgecnn run`: frames from a camera, a video or images through a model, into sinks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgecnn.cli.common import example_help, force_option, json_option
from edgecnn.cli.config import config_option
from edgecnn.cli.model_options import ModelOptions, model_options
from edgecnn.cli.part_options import PartOptions, part_options
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


class _Policy(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """`latest`, `all` or `queue=N`."""

    name = "POLICY"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:
        from edgecnn.camera.policy import parse_policy

        try:
            return parse_policy(str(value)).name
        except ValueError as error:
            self.fail(f"{error}.", param, context)


_NAMED = re.compile(r"([A-Za-z_][\w-]*)=(.+)", re.DOTALL)


def _models(words: Sequence[str]) -> dict[str, str]:
    """`FILE …` or `NAME=FILE …` → files by name. A file that is really called so needs no name."""
    models: dict[str, str] = {}
    for word in words:
        named = None if Path(word).exists() else _NAMED.fullmatch(word)
        name, file = named.groups() if named else (Path(word).stem, word)
        if name in models:
            raise click.UsageError(f"two models are called {name}; say NAME=FILE")
        models[name] = file
    return models


def _help() -> str:
    from edgecnn.camera import sink_help, uri

    sources = [line[2:] for line in (uri.__doc__ or "").splitlines() if line.startswith("    ")]
    width = max(len(form) for form, _ in sink_help())
    sinks = [f"  {form:{width}}  {meaning}" for form, meaning in sink_help()]
    listed = "\n".join(["\b", "Sources:", *sources, "", "\b", "Sinks:", *sinks])
    return f"""Run MODEL on the frames of cameras, videos or images.

{listed}

Both may be given several times: cameras take turns, and every sink gets every result. Several models run on
each frame. Without a sink, one line a frame is printed.

Ctrl-C and SIGTERM finish what was written: a video of the frames so far can be played. SIGHUP does so too,
sets it aside, reads --config again, and begins anew. docs/service.md has more.

Exit codes: 0 the sources have ended, enough was done, or SIGTERM; 1 an error, Ctrl-C, or a sink that failed
on the way; 2 wrong usage, --config included.
"""


@click.command(
    "run",
    cls=_Run,
    help=_help(),
    epilog=example_help(
        """
edgecnn run model.onnx --source 0                            # a USB camera, one line a frame
edgecnn run model.onnx --source clip.mp4 --sink out.mp4 --sink out.jsonl
edgecnn run model.onnx --source photos/ --sink annotated/    # a picture each
edgecnn run model.onnx --source 'photos/**/*.jpg' --sink - | jq .result
edgecnn run model.onnx --source rtsp://one --source rtsp://two --sink http://:8080 --stats
edgecnn run animals=a.onnx colours=b.onnx --source test:// --sink - | jq .results
edgecnn run foreign.onnx --task classification --preset imagenet --labels imagenet --source photo.jpg
edgecnn run detector.onnx --source 0 --track --sink http://:8080
edgecnn run detector.onnx --source slide.png --tile 640x640 --sink found.png
edgecnn run --config app.toml --metrics 9100                 # as a service: docs/service.md
"""
    ),
)
@click.argument("model", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--source",
    "sources",
    multiple=True,
    required=True,
    metavar="URI",
    help="Where frames come from, see above.",
)
@click.option("--sink", "sinks", multiple=True, metavar="URI", help="Where results go, see above.")
@click.option(
    "--policy",
    type=_Policy(),
    help="Of frames that come faster than they are used: latest (cameras' default), all (files'), queue=N.",
)
@click.option(
    "--deadline", type=click.FloatRange(0, min_open=True), metavar="MS", help="Drop frames that are older."
)
@click.option(
    "--reconnect",
    type=click.IntRange(0),
    metavar="TRIES",
    help="Before a lost camera is given up.  [default: for ever]",
)
@click.option(
    "--stall",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Without a frame, after which a camera is opened again.",
)
@click.option("--track", is_flag=True, help="Objects keep an id from frame to frame (edgecnn[track]).")
@click.option("--frames", type=click.IntRange(1), help="Stop after so many.")
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Stop after so many."
)
@click.option(
    "--stats", is_flag=True, help="How it goes: a live table; a line every 10 s where there is no terminal."
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
    default="info",
    show_default=True,
    help="What to tell on stderr.",
)
@config_option
@part_options
@model_options
@force_option
@json_option
def command(
    *, model: tuple[str, ...], model_options: ModelOptions, parts: PartOptions, **options: Any
) -> RunOptions:
    """Read the options; `_Run.invoke` runs them. The text of --help is `_help`'s."""
    files = _models(model)
    if len(files) > 1 and model_options.spec.any_given:
        raise click.UsageError(
            "--task, --preset and the like are for one model; export each with its own spec"
        )
    return RunOptions(models=files, model_options=model_options, parts=parts, **options)
