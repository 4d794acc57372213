"""`edgecnn compare`: how far two models agree on the same frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from edgecnn.cli.common import emit, example_help, json_option, print_table, progress_bar, say, threads_option
from edgecnn.cli.spec_options import SpecOptions, model_spec, spec_options

__all__ = ["command"]


@click.command(
    "compare",
    epilog=example_help(
        """
edgecnn compare model.onnx model.int8.onnx --data photos/
edgecnn compare model.onnx model.int8.onnx --data drive.mp4 --limit 50 --layers
"""
    ),
)
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    help="Folder or pattern of images, video, camera number, or .npy of uint8 (N, H, W, 3) RGB.",
)
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
    limit: int,
    layers: bool,
    threads: int | None,
    spec_options: SpecOptions,
    as_json: bool,
) -> None:
    """Run REFERENCE (taken as right) and MODEL on the same frames: SQNR, cosine, the task's own agreement."""
    from edgecnn.compare import compare
    from edgecnn.dataset import open_frames
    from edgecnn.model import load

    first_spec, second_spec = model_spec(reference, spec_options), model_spec(model, spec_options)
    frames = open_frames(data, limit=limit)
    with (
        load(reference, spec=first_spec, threads=threads) as first,
        load(model, spec=second_spec, threads=threads) as second,
        progress_bar() as progress,
    ):
        agreement = compare(first, second, frames, total=frames.count, progress=progress)
        report = agreement.to_dict()
        if layers:
            from edgecnn.export.layers import compare_layers

            layer_rows = compare_layers(reference, model, first.spec.image, frames, progress=progress)
            report["layers"] = [{"tensor": name, **entry.to_dict()} for name, entry in layer_rows]
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
        click.echo(f"{metric.replace('_', ' ')}: {value:.1%}", err=as_json)
    if layers:
        rows = [(entry["tensor"], *_numbers(entry)) for entry in report["layers"]]
        print_table("Layer by layer, in order", rows, ("tensor", "SQNR", "cosine"), as_json=as_json)
    emit({"reference": str(reference), "model": str(model), **report}, as_json)


def _numbers(entry: Mapping[str, float | None]) -> tuple[str, str]:
    sqnr_db, cosine = entry["sqnr_db"], entry["cosine"]
    return (
        "identical" if sqnr_db is None else f"{sqnr_db:.1f} dB",
        "–" if cosine is None else f"{cosine:.5f}",  # one of the two is all zero
    )
