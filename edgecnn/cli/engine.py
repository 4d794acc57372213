"""What `build` and `inspect` do for the targets `tensorrt` and `tensorrt-rtx`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.cli.common import by_reason, emit, print_table, progress_bar, say
from edgecnn.cli.engine_options import EngineOptions

if TYPE_CHECKING:
    from edgecnn.export.tensorrt import CompileReport, EngineBuildResult, Flavour

__all__ = ["inspect_command", "show_engine"]

_SLOWED_SHOWN = 10


def show_engine(result: EngineBuildResult, target: str, as_json: bool) -> None:
    """What was built, and with `auto` what it was chosen from."""
    info = result.info
    if result.candidates:
        _show_candidates(result, as_json)
    rows = [
        ("plan", f"{info.plan_bytes / 1e6:.1f} MB, built in {info.build_s:.1f} s by {target} {info.library}"),
        (
            "runs on",
            info.gpu or "compute capability " + (", ".join(info.compute_capabilities) or "8.0 and later"),
        ),
        *_accuracy(info.accuracy),
        *(("in FP32", line) for line in by_reason(info.kept_fp32)),
        *_totals(result.report),
    ]
    title = f"{result.path}: {result.precision} ({result.reason})"
    print_table(title, rows, ("", "value"), as_json=as_json, align="left")


def _show_candidates(result: EngineBuildResult, as_json: bool) -> None:
    rows = [
        (
            item.precision + (" ←" if item.precision == result.precision else ""),
            str(len(item.left_in_fp16)) if item.precision == "int8" else "",
            _or_dash(item.latency_ms["p50"] if item.latency_ms else None, ".3f"),
            _or_dash(item.estimate_ms, ".3f"),
            _or_dash(item.agreement, ".1%"),
            _or_dash(item.kernels, "d"),
            _or_dash(None if item.activation_bytes is None else item.activation_bytes / 1e6, ".1f"),
        )
        for item in result.candidates
    ]
    header = ("precision", "left in FP16", "ms measured", "ms estimated", "agreement", "kernels", "MB moved")
    print_table("candidates", rows, header, as_json=as_json)
    if result.slowed:
        changes = [
            (
                item.node,
                f"{item.fp16.kernels} → {item.int8.kernels}",
                ", ".join(f"{count} {kind}" for kind, count in item.to_dict()["added"].items()),
                f"{item.extra_bytes / 1e3:+.0f}",
                _or_dash(item.extra_ms, "+.4f"),
            )
            for item in result.slowed[:_SLOWED_SHOWN]
        ]
        columns = ("layer", "kernels", "added", "kB moved", "ms estimated")
        title = f"INT8 costs more than FP16 on {len(result.slowed)} layers, by the compile reports; the worst"
        print_table(title, changes, columns, as_json=as_json)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


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
    for warning in result.warnings:
        say(f"warning: {warning}")
    emit(report, as_json)


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
