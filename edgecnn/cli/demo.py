"""`edgecnn demo`: the whole path on a real CNN, real photos and a real video."""

from __future__ import annotations

from pathlib import Path

import click

from edgecnn.cli.common import emit, example_help, force_option, json_option, print_table, progress_bar

__all__ = ["command"]


@click.command("demo", epilog=example_help("edgecnn demo\nedgecnn demo --output /tmp/demo --json"))
@click.option(
    "-o",
    "--output",
    default="demo-output",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for what it writes.",
)
@force_option
@json_option
def command(output: Path, force: bool, as_json: bool) -> None:
    """Export, calibrate, build and run a real CNN on real photos.

    EfficientNet-Lite0 with its ImageNet weights, on photos and a video that it was not calibrated with.

    Needs the packages of edgecnn[cpu,export,demo]; nothing is downloaded.
    """
    from edgecnn.demo import run_demo

    with progress_bar() as progress:
        result = run_demo(output, force=force, progress=progress)
    rows = [
        (
            entry.image,
            f"{entry.fp32_label} {entry.fp32_score:.0%}",
            f"{entry.label} {entry.score:.0%}",
            entry.true_label or "",
        )
        for entry in result.predictions
    ]
    print_table(
        "Photos that calibration did not see",
        rows,
        ("", "FP32", "INT8", "ImageNet's label"),
        as_json=as_json,
        align="left",
    )
    rows = [
        (
            name.upper(),
            f"{entry['latency_ms']['p50']:.2f} ms",
            f"{entry['fps']:.0f}",
            f"{entry['file_mb']:.1f} MB",
        )
        for name, entry in result.precisions.items()
    ]
    print_table(
        "Frames of the video, from frame to classes", rows, ("", "p50", "frames/s", "file"), as_json=as_json
    )
    agreement = result.agreement
    click.echo(
        f"INT8 against FP32 on {agreement.images} frames that calibration did not see: "
        f"SQNR {agreement.worst_sqnr_db:.1f} dB, "
        + ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in agreement.metrics.items()),
        err=as_json,
    )
    click.echo("Written: " + ", ".join(str(path) for path in result.artifacts), err=as_json)
    emit(result.to_dict(), as_json)
