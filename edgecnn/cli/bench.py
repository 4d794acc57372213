"""`edgecnn bench`: how fast a model is on this machine."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

from edgecnn.cli.common import (
    Size,
    emit,
    example_help,
    json_option,
    print_table,
    printable,
    progress_bar,
    say,
)
from edgecnn.cli.model_options import ModelOptions, model_options
from edgecnn.cli.terminal import native_stderr_muted

if TYPE_CHECKING:
    from edgecnn.bench import BenchReport

__all__ = ["command"]

DISTINCT_FRAMES = 32  # 1080p: 200 MB; more would measure the memory


@click.command(
    "bench",
    epilog=example_help(
        """
edgecnn bench model.onnx
edgecnn bench model.onnx --source clip.mp4 --frames 1000
edgecnn bench model.onnx --threads 1 --size 720x1280 --json | tail -1 | jq .latency_ms
"""
    ),
)
@click.argument("model")
@click.option(
    "--frames", "count", type=click.IntRange(1), default=200, show_default=True, help="How many to time."
)
@click.option(
    "--warmup", type=click.IntRange(0), default=20, show_default=True, help="How many to run before, untimed."
)
@click.option(
    "--source",
    help=f"Real frames: images, a video, a camera; the first {DISTINCT_FRAMES} of them. [default: synthetic]",
)
@click.option("--size", type=Size(), help="Of the synthetic frames. [default: 1080x1920]")
@model_options
@json_option
def command(
    *,
    model: str,
    count: int,
    warmup: int,
    source: str | None,
    size: tuple[int, int] | None,
    model_options: ModelOptions,
    as_json: bool,
) -> None:
    """Time MODEL, stage by stage, and note the state of the machine.

    Frames lie in memory before the clock starts. Without --source they are synthetic, with the structure of
    photographs; use real ones for a model whose postprocessing depends on what it finds.
    """
    from edgecnn.bench import benchmark, synthetic_frames
    from edgecnn.camera import mask_credentials, open_camera

    if source is not None and size is not None:
        raise click.UsageError("--size is for synthetic frames; those of --source have their own.")
    with native_stderr_muted(), progress_bar() as progress:
        start = perf_counter()
        loaded = model_options.load(model, progress)
        load_ms = (perf_counter() - start) * 1e3
        with loaded:
            if source is None:
                frames = synthetic_frames(size_hw=size or (1080, 1920))
                used = "synthetic, 1/f noise, seed 0"
            else:
                with open_camera(source) as camera:
                    frames = [frame.image for frame in itertools.islice(camera, min(DISTINCT_FRAMES, count))]
                used = mask_credentials(source)
            report = benchmark(loaded, frames, count=count, warmup=warmup, source=used, progress=progress)
    report = replace(report, load_ms=round(load_ms, 1), model_bytes=Path(model).stat().st_size)
    _show(report, as_json)
    emit(report.to_dict(), as_json)


def _show(report: BenchReport, as_json: bool) -> None:
    def cells(summary: dict[str, float]) -> list[str]:
        return [f"{summary[name]:.2f}" for name in ("p50", "p90", "p99", "mean")]

    rows = [[name, *cells(summary)] for name, summary in report.stages_ms.items()]
    rows.append(["frame to result", *cells(report.latency_ms)])
    title = f"{report.model}, {report.precision}, {report.backend} on {report.backend_device}"
    print_table(title, rows, ["ms", "p50", "p90", "p99", "mean"], as_json=as_json)
    used, device = report.frames_used, report.device
    sizes = [f"{height}x{width}" for height, width in used["sizes_hw"]]
    several = " …" if len(sizes) > 3 else ""
    versions = [f"{name} {version}" for name, version in device["versions"].items() if version]
    state = [f"{label} {_known(device[key], unit)}" for label, key, unit in _STATE]
    lines = [
        f"{report.fps:.1f} frames a second; {report.frames} frames timed, {report.warmup} before",
        f"frames: {used['source']}, {used['distinct']} distinct, {', '.join(sizes[:3])}{several}",
        f"loaded in {report.load_ms:.0f} ms from {(report.model_bytes or 0) / 1e6:.1f} MB; "
        f"at most {report.peak_rss_mb:.0f} MB of memory",
        f"{device['board'] or device['cpu'] or 'unknown CPU'}, {device['cores']} cores, {device['os']}",
        ", ".join(versions),
        "state: " + ", ".join(state),
    ]
    for line in lines:
        click.echo(printable(line), err=as_json)
    if device["throttled"]:
        say("the machine slowed down for heat meanwhile: these times are not those of a cool one")


_STATE = (
    ("power mode", "power_mode", ""),
    ("governor", "governor", ""),
    ("clock", "frequency_mhz", " MHz"),
    ("temperature", "temperature_c", " °C"),
    ("throttled", "throttled", ""),
)


def _known(value: object, unit: str) -> str:
    return "unknown" if value is None else f"{value}{unit}"
