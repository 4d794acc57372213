"""What `build` and `inspect` do for the targets `tensorrt` and `tensorrt-rtx`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecnn.cli.common import emit, print_table, progress_bar, say
from edgecnn.cli.engine_options import EngineOptions
from edgecnn.cli.spec_options import SpecOptions, model_spec

if TYPE_CHECKING:
    from edgecnn.camera_input import CameraInput
    from edgecnn.export.tensorrt import CompileReport, Flavour

__all__ = ["build_command", "inspect_command"]


def build_command(
    model: Path,
    output: Path,
    *,
    target: str,
    precision: Any,
    options: EngineOptions,
    spec: SpecOptions,
    data: str | None,
    limit: int,
    camera: CameraInput | None,
    force: bool,
    as_json: bool,
) -> None:
    """Build a plan with its sidecar and show what was compiled."""
    from edgecnn.dataset import open_frames
    from edgecnn.export.tensorrt import build_engine

    if precision == "auto":
        raise click.UsageError("--precision auto measures on this machine; give fp32, fp16 or int8")
    with progress_bar() as progress:
        result = build_engine(
            model,
            output,
            precision=precision,
            flavour=_flavour(target),
            options=options.resolve(),
            spec=model_spec(model, spec),
            data=None if data is None else open_frames(data, limit=limit),
            camera=camera,
            force=force,
            progress=progress,
        )
    info = result.info
    rows = [
        ("plan", f"{info.plan_bytes / 1e6:.1f} MB, built in {info.build_s:.1f} s by {target} {info.library}"),
        (
            "runs on",
            info.gpu or "compute capability " + (", ".join(info.compute_capabilities) or "8.0 and later"),
        ),
        *_accuracy(info.accuracy),
        *_totals(result.report),
    ]
    print_table(f"{result.path}: {precision}", rows, ("", "value"), as_json=as_json, align="left")
    _finish(result.warnings, result.to_dict(), as_json)


def inspect_command(
    file: Path,
    *,
    target: str,
    precision: Any,
    options: EngineOptions,
    as_json: bool,
) -> None:
    """Compile a model, show what became of it layer by layer, and keep no plan."""
    from edgecnn.export.tensorrt import inspect_engine
    from edgecnn.export.tensorrt.build import estimates

    with progress_bar() as progress:
        result = inspect_engine(
            file,
            precision=precision,
            flavour=_flavour(target),
            options=options.resolve(),
            progress=progress,
        )
    layers = [
        (
            item.layer.name,
            item.layer.kind,
            item.layer.precision,
            f"{item.macs / 1e6:.2f}" if item.macs else "",
            f"{(item.read_bytes + item.written_bytes) / 1e3:.0f}",
            f"{item.constant_bytes / 1e3:.0f}",
        )
        for item in result.report.layers
    ]
    header = ("layer", "kind", "type", "10⁶ MACs", "kB moved", "kB constant")
    title = f"{file} as {target} {result.library} compiles it"
    print_table(title, layers, header, as_json=as_json)
    print_table("totals", _totals(result.report), ("", "value"), as_json=as_json, align="left")
    report = {
        "path": str(file),
        "target": target,
        "library": result.library,
        "precision": precision,
        "compute_capabilities": list(result.compute_capabilities),
        **result.report.to_dict(),
        "estimates": estimates(result.report),
        "warnings": list(result.warnings),
    }
    _finish(result.warnings, report, as_json)


def _accuracy(accuracy: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if accuracy is None:
        return [("accuracy", "not measured (give frames with --data)")]
    values = [output["sqnr_db"] for output in accuracy["outputs"].values() if output["sqnr_db"] is not None]
    metrics = [f"{name} {value:.3f}" for name, value in accuracy.items() if name.endswith("_agreement")]
    words = [*([f"SQNR {min(values):.1f} dB"] if values else []), *metrics]
    return [("accuracy", f"{', '.join(words)} on {accuracy['images']} images")]


def _totals(report: CompileReport) -> list[tuple[str, str]]:
    from edgecnn.export.tensorrt import MODULES, estimate

    shares = ", ".join(f"{share:.1%} {name}" for name, share in report.convolutions.items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.items() if kind != "none")
    rows = [
        ("convolutions, by operations", shares or "none"),
        ("kernels", f"{report.kernels}: {kinds}"),
        ("activations moved", f"{report.activation_bytes / 1e6:.2f} MB"),
        ("constants", f"{report.constant_bytes / 1e6:.2f} MB"),
        ("multiply-accumulates", f"{report.macs / 1e6:.1f} million, batch {report.batch}"),
    ]
    for module in MODULES.values():
        roofline = estimate(report, module)
        share = roofline.memory_ms / roofline.latency_ms if roofline.latency_ms else 0.0
        text = f"{roofline.latency_ms:.3f} ms at best, {share:.0%} of it bound by memory"
        rows.append((f"estimate: {module.name}", text))
    return rows


def _flavour(target: str) -> Flavour:
    return "tensorrt_rtx" if target == "tensorrt-rtx" else "tensorrt"


def _finish(warnings: Sequence[str], report: dict[str, Any], as_json: bool) -> None:
    for warning in warnings:
        say(f"warning: {warning}")
    emit(report, as_json)
