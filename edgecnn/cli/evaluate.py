"""`edgecnn evaluate`: how good a model is, on labelled data, by its task's known metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecnn.cli.common import emit, example_help, force_option, json_option, print_table, progress_bar, say
from edgecnn.cli.model_options import ModelOptions, model_options
from edgecnn.cli.part_options import PartOptions, part_options
from edgecnn.cli.terminal import native_stderr_muted

if TYPE_CHECKING:
    from edgecnn.evaluation import Evaluation, Scores

__all__ = ["command", "metric_cells"]


@click.command(
    "evaluate",
    epilog=example_help(
        """
edgecnn evaluate classifier.onnx --data test/
edgecnn evaluate detector.onnx --data annotations.json --images photos/ --plots plots/
edgecnn evaluate detector.onnx --data data.yaml --precision int8 --json
edgecnn evaluate detector.onnx --data annotations.json --tile 640x640
"""
    ),
)
@click.argument("model")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Labelled data: a folder a class, COCO's JSON, YOLO's labels, masks; docs/evaluation.md has all.",
)
@click.option("--images", type=click.Path(path_type=Path), help="The images, where they are elsewhere.")
@click.option("--limit", type=click.IntRange(min=1), help="Images to use at most, evenly spaced.")
@click.option(
    "--plots", type=click.Path(path_type=Path), help="A folder for pictures: curves, the confusion matrix."
)
@part_options
@model_options
@force_option
@json_option
def command(
    *,
    model: str,
    data: Path,
    images: Path | None,
    limit: int | None,
    plots: Path | None,
    parts: PartOptions,
    model_options: ModelOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Run MODEL on labelled images, and say how good it is: mAP, IoU, top-1 …

    Numbers in brackets are the interval in which 95 of 100 data sets like this one would put the metric.
    """
    from edgecnn.evaluation import evaluate, open_labelled
    from edgecnn.evaluation.plots import check_plots, write_plots

    if plots is not None:
        check_plots(plots, force=force)
    with native_stderr_muted(), progress_bar() as progress, model_options.load(model, progress) as loaded:
        looking = parts.apply(loaded)
        labelled = open_labelled(data, looking.spec, images=images, limit=limit)
        found = evaluate(looking, labelled, progress=progress)
    _show(model, found, as_json)  # first: what has been computed is not lost where a plot cannot be written
    written = [] if plots is None else write_plots(found, plots, force=force)
    for path in written:
        say(f"written: {path}")
    report = {"model": model, "data": str(data), **found.to_dict(), "plots": [str(path) for path in written]}
    emit(report, as_json)


def metric_cells(scores: Scores, metric: str) -> tuple[str, str]:
    """A metric's value and its interval, for a table."""
    if metric not in scores.metrics:
        return "–", ""
    ends = scores.intervals.get(metric)
    return f"{scores.metrics[metric]:.4f}", "" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def _show(model: str, found: Evaluation, as_json: bool) -> None:
    for path, reason in found.skipped:
        say(f"skipped: {path}: {reason}")
    rows = [(name, *metric_cells(found, name)) for name in found.metrics]
    title = f"{model}: {found.task} on {found.images} images"
    print_table(title, rows, ("metric", "value", "95 %"), as_json=as_json)
    for name, scores in {"": found, **found.parts}.items():
        if not scores.per_class:
            continue
        columns = list(dict.fromkeys(column for values in scores.per_class.values() for column in values))
        cells = [
            (label, *(f"{values[column]:.4g}" if column in values else "–" for column in columns))
            for label, values in scores.per_class.items()
        ]
        header = ("class", *(column.replace("_", " ") for column in columns))
        print_table(f"{name}: by class" if name else "By class", cells, header, as_json=as_json)
