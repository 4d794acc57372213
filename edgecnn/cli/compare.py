"""`edgecnn compare`: how far two models agree on the same frames; where they have labels, which is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from edgecnn.cli.common import (
    emit,
    example_help,
    json_option,
    print_table,
    printable,
    progress_bar,
    say,
    threads_option,
)
from edgecnn.cli.evaluate import metric_cells
from edgecnn.cli.spec_options import SpecOptions, model_spec, spec_options

if TYPE_CHECKING:
    from edgecnn.camera.source import Skipped
    from edgecnn.dataset import FrameSet
    from edgecnn.evaluation import Evaluation, LabelledSet
    from edgecnn.spec import ModelSpec

__all__ = ["command"]


@click.command(
    "compare",
    epilog=example_help(
        """
edgecnn compare model.onnx model.int8.onnx --data photos/
edgecnn compare model.onnx model.int8.onnx --data drive.mp4 --limit 50 --layers
edgecnn compare detector.onnx detector.int8.onnx --data annotations.json
"""
    ),
)
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    help="Folder or pattern of images, video, camera number, .npy of uint8 (N, H, W, 3) RGB; "
    "or labelled data, as for `evaluate`.",
)
@click.option("--images", type=click.Path(path_type=Path), help="Of labelled data, where they are elsewhere.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Frames to use at most, evenly spaced.",
)
@click.option("--layers", is_flag=True, help="Also layer by layer: where the error comes in.")
@threads_option
@spec_options
@json_option
def command(
    reference: Path,
    model: Path,
    data: str,
    images: Path | None,
    limit: int,
    layers: bool,
    threads: int | None,
    spec_options: SpecOptions,
    as_json: bool,
) -> None:
    """Run REFERENCE (taken as right) and MODEL on the same frames: SQNR, cosine, the task's own agreement.

    Where the data carry labels, also how good each of the two is.
    """
    from edgecnn.compare import compare
    from edgecnn.evaluation import evaluate
    from edgecnn.model import load

    first_spec, second_spec = model_spec(reference, spec_options), model_spec(model, spec_options)
    with (
        load(reference, spec=first_spec, threads=threads) as first,
        load(model, spec=second_spec, threads=threads) as second,
        progress_bar() as progress,
    ):
        frames = _open(data, images, first.spec, limit)
        agreement = compare(first, second, frames, total=frames.count, progress=progress)
        report = agreement.to_dict()
        if layers:
            from edgecnn.export.layers import compare_layers

            layer_rows = compare_layers(reference, model, first.spec.image, frames, progress=progress)
            report["layers"] = [{"tensor": name, **entry.to_dict()} for name, entry in layer_rows]
        both: tuple[Evaluation, ...] = ()
        if isinstance(frames, _Images):
            both = tuple(evaluate(one, frames.labelled, progress=progress) for one in (first, second))
    for path, reason in frames.skipped:
        say(f"skipped: {path}: {reason}")
    rows = [(name, *_numbers(entry)) for name, entry in report["outputs"].items()]
    print_table(
        f"{model} against {reference} on {agreement.images} frames",
        rows,
        ("output", "SQNR", "cosine"),
        as_json=as_json,
    )
    for metric, value in agreement.metrics.items():
        click.echo(printable(f"{metric.replace('_', ' ')}: {value:.1%}"), err=as_json)
    if both:
        report["labels"] = _show_metrics(*both, as_json=as_json)
    if layers:
        rows = [(entry["tensor"], *_numbers(entry)) for entry in report["layers"]]
        print_table("Layer by layer, in order", rows, ("tensor", "SQNR", "cosine"), as_json=as_json)
    emit({"reference": str(reference), "model": str(model), **report}, as_json)


class _Images:
    """The images of labelled data."""

    def __init__(self, labelled: LabelledSet) -> None:
        self.labelled = labelled
        self.count = labelled.count

    @property
    def skipped(self) -> list[Skipped]:
        return self.labelled.skipped

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self.labelled.images()


def _open(data: str, images: Path | None, spec: ModelSpec, limit: int) -> FrameSet | _Images:
    """Labelled data where these are such; else frames alone. Raises DataError for labels that are damaged."""
    from edgecnn.dataset import open_frames
    from edgecnn.evaluation import open_if_labelled

    labelled = open_if_labelled(data, spec, images=images, limit=limit)
    return open_frames(data, limit=limit) if labelled is None else _Images(labelled)


def _show_metrics(first: Evaluation, second: Evaluation, *, as_json: bool) -> dict[str, object]:
    shared = [name for name in first.metrics if name in second.metrics]
    differences = {name: second.metrics[name] - first.metrics[name] for name in shared}
    rows = [
        (name, metric_cells(first, name)[0], metric_cells(second, name)[0], f"{differences[name]:+.4f}")
        for name in shared
    ]
    header = ("metric", "reference", "model", "difference")
    print_table(f"By the labels of {first.images} images", rows, header, as_json=as_json)
    found = {"reference": dict(first.metrics), "model": dict(second.metrics), "difference": differences}
    return {"images": first.images, **found}


def _numbers(entry: Mapping[str, float | None]) -> tuple[str, str]:
    sqnr_db, cosine = entry["sqnr_db"], entry["cosine"]
    return (
        "identical" if sqnr_db is None else f"{sqnr_db:.1f} dB",
        "–" if cosine is None else f"{cosine:.5f}",  # one of the two is all zero
    )
