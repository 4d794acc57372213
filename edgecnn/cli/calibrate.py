"""`edgecnn calibrate`: frames → ranges → a calibrated model with its measured accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgecnn.cli.common import (
    emit,
    example_help,
    force_option,
    json_option,
    print_table,
    progress_bar,
    say,
    threads_option,
)
from edgecnn.cli.spec_options import SpecOptions, model_spec, spec_options

if TYPE_CHECKING:
    from edgecnn.calibration import CalibrationResult

__all__ = ["command"]

_FOR_FRAMES = (
    "rounding", "min_sqnr", "min_agreement", "max_drop", "target", "limit", "eval_data", "report", "threads",
)  # fmt: skip


@click.command(
    "calibrate",
    epilog=example_help(
        """
edgecnn calibrate model.onnx --data photos/ -o model.calibrated.onnx --report report.html
edgecnn calibrate model.onnx --data drive.mp4 --limit 300 --eval-data other-day.mp4 -o model.calibrated.onnx
edgecnn calibrate foreign.onnx --preset imagenet --data frames.npy -o model.calibrated.onnx
edgecnn calibrate model.onnx --data photos/ --method minmax --rounding nearest -o quick.onnx
edgecnn calibrate model.onnx --ranges calibration.cache -o model.calibrated.onnx
edgecnn calibrate model.onnx --ranges quantized-elsewhere.onnx --data photos/ -o model.calibrated.onnx
edgecnn calibrate model.onnx --data photos/ --min-sqnr 25 --min-agreement 0.985 -o mixed.onnx
edgecnn calibrate model.onnx --data photos/ --max-drop top1=0.5 --target tensorrt -o for-jetson.onnx
"""
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", help="Folder or pattern of images, video, camera number, or .npy of uint8 (N, H, W, 3) RGB."
)
@click.option(
    "--ranges",
    type=click.Path(path_type=Path),
    help="Take the ranges of this file: TensorRT's calibration cache, a quantized ONNX model, or what "
    "`edgecnn table` wrote. Without --data nothing is measured, and weights are rounded as there.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The calibrated model.")
@click.option(
    "--method",
    type=click.Choice(["auto", "minmax", "entropy", "percentile", "mse"]),
    default="auto",
    show_default=True,
    help="How a range is chosen; auto: for each tensor the way that disturbs least what is computed from it.",
)
@click.option(
    "--rounding",
    type=click.Choice(["second-order", "nearest", "adaround"]),
    default="second-order",
    show_default=True,
    help="How weights are rounded; second-order: such that each layer's output changes least; adaround: also "
    "by gradient descent, which takes ten times as long and PyTorch.",
)
@click.option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="Keep layers in float until the outputs have this SQNR, in ONNX Runtime and on TensorRT's grid.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Keep layers in float until the task's agreement with FP32, such as top1_agreement, is that high.",
)
@click.option(
    "--max-drop",
    multiple=True,
    metavar="METRIC=POINTS",
    help="Keep layers in float until a metric of the task, such as top1 or map_50_95, is no more points of a "
    "hundred below FP32's, against the labels of the frames where there are any. Several are possible.",
)
@click.option(
    "--target",
    type=click.Choice(["onnxruntime", "tensorrt"]),
    help="Where --min-sqnr, --min-agreement and --max-drop must hold, if not on both.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    default=512,
    show_default=True,
    help="Frames to use at most, evenly spaced.",
)
@click.option("--eval-data", help="Frames to measure accuracy on; without it a fifth of --data is held out.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="A page (HTML) that shows all of it, with plots."
)
@threads_option
@spec_options
@force_option
@json_option
def command(
    model: Path,
    data: str | None,
    ranges: Path | None,
    output: Path,
    method: Any,
    rounding: Any,
    min_sqnr: float | None,
    min_agreement: float | None,
    max_drop: tuple[str, ...],
    target: Any,
    limit: int,
    eval_data: str | None,
    report: Path | None,
    threads: int | None,
    spec_options: SpecOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Find the ranges of MODEL's tensors and the steps of its weights for INT8, and measure what INT8 costs.

    The calibrated model is the float model with the quantization table and the accuracy report in it;
    build any precision from it.
    """
    from edgecnn.calibration import Budget, calibrate

    budget = Budget(
        min_sqnr_db=min_sqnr, min_agreement=min_agreement, max_drop=_drops(max_drop), target=target
    )
    if target and not budget:
        raise click.UsageError("--target: only with --min-sqnr, --min-agreement or --max-drop")
    if ranges is not None and method != "auto":
        raise click.UsageError("--method: not with --ranges, which has them")
    if data is None:
        if ranges is None:
            raise click.UsageError("Missing option '--data', or '--ranges'.")
        if needless := [f"--{name.replace('_', '-')}" for name in _FOR_FRAMES if _is_given(name)]:
            raise click.UsageError(f"{', '.join(needless)}: only with --data")
        _import(model, ranges, output, spec_options, force, as_json)
        return
    with progress_bar() as progress:
        result = calibrate(
            model,
            data,
            output,
            method=method,
            rounding=rounding,
            budget=budget or None,
            limit=limit,
            evaluation_data=eval_data,
            spec=model_spec(model, spec_options),
            threads=threads,
            report=report,
            ranges=ranges,
            force=force,
            progress=progress,
        )
    _show(result, as_json)
    if result.budget_met is False:
        raise SystemExit(1)


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source not in (ParameterSource.DEFAULT, None)


def _import(
    model: Path, ranges: Path, output: Path, options: SpecOptions, force: bool, as_json: bool
) -> None:
    from edgecnn.calibration.interchange import import_ranges

    found = import_ranges(model, ranges, output, spec=model_spec(model, options), force=force)
    for warning in found.warnings:
        say(f"warning: {warning}")
    say("warning: the accuracy was not measured: give frames with --data")
    if not as_json:
        covered = found.layers - len(found.missing)
        click.echo(
            f"{found.path}: ranges of {len(found.table.activations)} tensors, "
            f"for {covered} of {found.layers} layers"
        )
    emit(found.to_dict(), as_json)


def _drops(texts: tuple[str, ...]) -> dict[str, float]:
    """`METRIC=POINTS` → points of each metric."""
    drops = {}
    for text in texts:
        name, _, points = text.partition("=")
        try:
            drops[name] = float(points)
        except ValueError as error:
            raise click.BadParameter(
                f"{text}: expected METRIC=POINTS, such as top1=0.5", param_hint="--max-drop"
            ) from error
    return drops


def _show(result: CalibrationResult, as_json: bool) -> None:
    for path, reason in result.skipped:
        say(f"skipped: {path}: {reason}")
    for warning in result.warnings:
        say(f"warning: {warning}")
    table, accuracy, plain = result.table, result.accuracy, result.plain
    reports = [accuracy, result.symmetric] + ([] if plain is None else [plain])
    rows = [
        (f"{name}: SQNR", *(_decibels(report.outputs[name].sqnr_db) for report in reports))
        for name in accuracy.outputs
    ]
    rows += [
        (f"{name}: cosine", *(_cosine(report.outputs[name].cosine) for report in reports))
        for name in accuracy.outputs
    ]
    rows += [
        (metric.replace("_", " "), *(f"{report.metrics[metric]:.1%}" for report in reports))
        for metric in accuracy.metrics
    ]
    if result.layers:
        better = sum(layer.shrinkage is not None for layer in result.layers)
        rows.append(("layers that second-order rounding helped", f"{better} of {len(result.layers)}", "", ""))
    rows += [
        (
            f"{one.name}, {one.extent}" + ("" if one.accepted else ": not taken"),
            "",
            f"{one.gain_db:+.1f} dB" + ("" if one.gain_error_db is None else f" ± {one.gain_error_db:.1f}"),
            "",
        )
        for one in result.adjustments
    ]
    rows += [
        (f"{metric}: points below FP32", *(f"{points:.2f}" for points in drops), "")
        for metric, drops in result.drops.items()
    ]
    if result.int8_share is not None:
        rows.append(("multiplications in INT8", f"{result.int8_share:.1%}", "", ""))
        rows.append(("layers in float", f"{len(table.kept_in_float)}", "", ""))
    print_table(
        f"{result.path}: {table.method} ranges of {len(table.activations)} tensors "
        f"from {table.frames} frames; INT8 against FP32 on {accuracy.images} held-out frames",
        rows,
        ("", "INT8", "on TensorRT's grid", "largest magnitudes, nearest steps")[: len(reports) + 1],
        as_json=as_json,
    )
    for name, reason in table.kept_in_float.items():
        click.echo(f"in float: {name} – {reason}", err=as_json)
    emit(
        {
            "path": str(result.path),
            "method": table.method,
            "rounding": table.rounding,
            "frames": table.frames,
            "diversity": table.diversity,
            "tensors": len(table.activations),
            "weights": len(table.weights),
            "skipped": [{"path": str(path), "reason": reason} for path, reason in result.skipped],
            "warnings": list(result.warnings),
            "accuracy": accuracy.to_dict(),
            "symmetric": result.symmetric.to_dict(),
            "plain": plain.to_dict() if plain is not None else None,
            "layers": [layer.to_dict() for layer in result.layers],
            "adjustments": [one.to_dict() for one in result.adjustments],
            "kept_in_float": dict(table.kept_in_float),
            "int8_share": result.int8_share,
            "budget": str(result.budget) if result.budget else None,
            "budget_met": result.budget_met,
            "chosen_on_same_frames": result.chosen_on_same_frames,
            "drops": {metric: list(drops) for metric, drops in result.drops.items()},
            "sensitivity": [layer.to_dict() for layer in result.sensitivity],
            "tradeoff": [point.to_dict() for point in result.tradeoff],
        },
        as_json,
    )


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"


def _decibels(value: float | None) -> str:
    return "identical" if value is None else f"{value:.1f} dB"
