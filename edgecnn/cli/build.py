"""`edgecnn build`: lower for a target, compile, and say what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecnn.cli.camera_options import camera_options
from edgecnn.cli.common import (
    by_reason,
    emit,
    example_help,
    force_option,
    json_option,
    print_table,
    printable,
    progress_bar,
    say,
    threads_option,
)
from edgecnn.cli.engine_options import ENGINE_TARGETS, EngineOptions, engine_options
from edgecnn.cli.spec_options import SpecOptions, model_spec, spec_options

if TYPE_CHECKING:
    from edgecnn.camera_input import CameraInput
    from edgecnn.export import BuildResult

__all__ = ["command"]


@click.command(
    "build",
    epilog=example_help(
        """
edgecnn build model.calibrated.onnx --precision int8 --target onnxruntime -o model.int8.onnx
edgecnn build model.calibrated.onnx --precision auto --min-agreement 0.97 --data photos/ -o model.best.onnx
edgecnn build model.calibrated.onnx --precision int8 --target tensorrt -o model.engine
edgecnn build model.calibrated.onnx --target tensorrt --data photos/ -o model.engine
edgecnn build model.onnx --precision fp16 --target tensorrt-rtx --compute-capability 8.6 -o model.engine
edgecnn build model.onnx --precision fp16 --target tensorrt --camera 1920x1080 --pixel-format nv12 \\
    -o model.engine
"""
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "int8", "auto"]), default="auto", show_default=True,
    help="`auto` measures and keeps the fastest that agrees as asked.",
)  # fmt: skip
@click.option(
    "--target",
    type=click.Choice(["onnxruntime", *ENGINE_TARGETS]),
    default="onnxruntime",
    show_default=True,
    help="What runs it.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The built model.")
@click.option(
    "--min-agreement", type=click.FloatRange(0, 1), default=0.95, show_default=True,
    help="With auto: how often the result must be FP32's.",
)  # fmt: skip
@click.option("--data", help="Frames to measure this build's accuracy on; as for calibrate.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Frames of --data to use at most.",
)
@click.option(
    "--module",
    metavar="JETSON",
    help="TensorRT, auto, without a GPU here: the Jetson to estimate for, such as orin-nano-8gb.",
)
@threads_option
@camera_options
@engine_options
@spec_options
@force_option
@json_option
def command(
    model: Path,
    precision: Any,
    target: Any,
    output: Path,
    min_agreement: float,
    data: str | None,
    limit: int,
    module: str | None,
    threads: int | None,
    camera: CameraInput | None,
    engine_options: EngineOptions,
    spec_options: SpecOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Build MODEL for a target, in a precision or in the best one.

    INT8 needs a calibrated model. What the target makes of the graph is read back and shown.
    """
    engine_options.refuse_for(target)
    for name, value, targets in (
        ("threads", threads, ("onnxruntime",)),
        ("module", module, ENGINE_TARGETS if precision == "auto" else ()),
    ):
        if value is not None and target not in targets:
            raise click.UsageError(f"--{name}: not with --target {target} --precision {precision}")
    from edgecnn.dataset import open_frames
    from edgecnn.export import BuildResult, build

    with progress_bar() as progress:
        result = build(
            model,
            output,
            precision=precision,
            target=target,
            options=engine_options.resolve() if target in ENGINE_TARGETS else None,
            module=module,
            data=open_frames(data, limit=limit) if data is not None else None,
            min_agreement=min_agreement,
            spec=model_spec(model, spec_options),
            threads=threads,
            camera=camera,
            force=force,
            progress=progress,
        )
    if isinstance(result, BuildResult):
        _show(result, as_json)
    else:
        from edgecnn.cli.engine import show_engine

        show_engine(result, target, as_json)
    for warning in result.warnings:
        say(f"warning: {warning}")
    emit(result.to_dict(), as_json)


def _show(result: BuildResult, as_json: bool) -> None:
    rows = []
    for candidate in result.candidates:
        latency = f"{candidate.latency_ms['p50']:.2f} ms" if candidate.latency_ms else "–"
        outputs = (candidate.accuracy or {}).get("outputs", {})
        sqnr = [output["sqnr_db"] for output in outputs.values() if output["sqnr_db"] is not None]
        rows.append(
            (
                candidate.precision + (" ←" if candidate.precision == result.precision else ""),
                f"{candidate.size_bytes / 1e6:.1f} MB",
                latency,
                f"{min(sqnr):.1f} dB" if sqnr else "–",
                "–" if candidate.agreement is None else f"{candidate.agreement:.1%}",
                ", ".join(f"{count} {name}" for name, count in candidate.convolutions.items()),
            )
        )
    header = ("precision", "file", "inference p50", "SQNR", "agreement", "convolutions")
    print_table(f"{result.path}: {result.precision} ({result.reason})", rows, header, as_json=as_json)
    kept = next((c.kept_fp32 for c in result.candidates if c.precision == result.precision), {})
    for line in by_reason(kept):
        click.echo(printable(f"  in FP32: {line}"), err=as_json)
