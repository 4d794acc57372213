"""`edgecnn inspect`: what a model file says of itself, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgecnn.backends import PLAN_SUFFIXES
from edgecnn.cli.common import emit, example_help, json_option, print_table
from edgecnn.cli.engine_options import ENGINE_TARGETS, EngineOptions, engine_options
from edgecnn.quantization import QuantizationTable

__all__ = ["command"]


@click.command(
    "inspect",
    epilog=example_help(
        """
edgecnn inspect model.int8.onnx
edgecnn inspect model.onnx --json | python -m json.tool
edgecnn inspect model.engine
edgecnn inspect model.calibrated.onnx --target tensorrt-rtx --precision int8 --compute-capability 8.6
"""
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--target", type=click.Choice(ENGINE_TARGETS), help="Compile FILE for it and show what was compiled."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="With --target: lower FILE to it first; by default it is compiled as it is.",
)
@engine_options
@json_option
def command(
    file: Path, target: str | None, precision: Any, engine_options: EngineOptions, as_json: bool
) -> None:
    """Show what a model file says of itself, and what is run.

    That is FILE's spec, its inputs and outputs, quantization, measured accuracy, and the operators that
    ONNX Runtime makes of it; of a TensorRT plan, what stands in the file beside it. With --target it is
    instead what TensorRT compiles of FILE, layer by layer; TensorRT for RTX needs no GPU for that.
    """
    engine_options.refuse_for(target)
    if target is not None:
        from edgecnn.cli.engine import inspect_command

        inspect_command(file, target=target, precision=precision, options=engine_options, as_json=as_json)
        return
    if precision is not None:
        raise click.UsageError("--precision: only with --target")
    if file.suffix in PLAN_SUFFIXES:
        _show_plan(file, as_json)
        return
    report = _report(file)
    sections = {
        "spec": {**report["spec"], "labels": len(report["spec"]["labels"])} if report["spec"] else None,
        "quantization": report["quantization"],
        "accuracy": report["accuracy"],
        "build": report["build"],
        "export": report["export"],
    }
    rows = [
        ("file", f"{report['size_bytes'] / 1e6:.2f} MB, sha256 {report['sha256'][:16]}…"),
        *((f"input {info['name']}", _tensor(info)) for info in report["inputs"]),
        *((f"output {info['name']}", _tensor(info)) for info in report["outputs"]),
    ]
    for title, section in sections.items():
        if section is None:
            rows.append((title, "none"))
        else:
            rows.extend((f"{title}: {name}", value) for name, value in _flat(section))
    if report["operators"]:
        counts = ", ".join(f"{count} {name}" for name, count in report["operators"].items())
        rows.append(("operators that are run", counts))
    print_table(str(file), rows, ("", "value"), as_json=as_json, align="left")
    emit(report, as_json)


def _show_plan(file: Path, as_json: bool) -> None:
    """What a TensorRT plan's sidecar says, and whether the plan is the one it speaks of."""
    import json

    from edgecnn.engine import read_engine_info, sidecar_path
    from edgecnn.files import sha256_file

    info = read_engine_info(file)
    report = {**json.loads(info.to_json()), "plan_is_intact": sha256_file(file) == info.plan_sha256}
    shown = (
        {**report, "spec": {**report["spec"], "labels": len(report["spec"]["labels"])}}
        if info.spec
        else report
    )
    rows = [(name, value) for name, value in _flat(shown) if value not in ("–", "[]", "{}")]
    print_table(f"{file}, by {sidecar_path(file)}", rows, ("", "value"), as_json=as_json, align="left")
    emit(report, as_json)


def _report(file: Path) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    from edgecnn.backends import open_backend
    from edgecnn.files import sha256_file
    from edgecnn.metadata import ACCURACY_KEY, BUILD_KEY, EXPORT_KEY, read_json
    from edgecnn.spec import ModelSpec

    backend, reason = open_backend(file)
    try:
        metadata = dict(backend.metadata)
        spec = ModelSpec.from_metadata(metadata)
        table = QuantizationTable.from_metadata(metadata)
        operators = _operators(file)
        return {
            "path": str(file),
            "size_bytes": file.stat().st_size,
            "sha256": sha256_file(file),
            "backend": backend.name,
            "backend_reason": reason,
            "inputs": [asdict(info) for info in backend.inputs],
            "outputs": [asdict(info) for info in backend.outputs],
            "spec": json.loads(spec.to_json()) if spec else None,
            "quantization": _described(table)
            if table or BUILD_KEY in metadata or not any("Quantize" in name for name in operators or ())
            else _taken(file),
            "accuracy": read_json(metadata, ACCURACY_KEY),
            "build": read_json(metadata, BUILD_KEY),
            "export": read_json(metadata, EXPORT_KEY),
            "operators": operators,
        }
    finally:
        backend.close()


def _described(table: QuantizationTable | None) -> dict[str, Any] | None:
    if table is None:
        return None
    return {
        "method": table.method,
        "frames": table.frames,
        "frames_sha256": table.frames_sha256,
        "tensors": len(table.activations),
        "weights": len(table.weights),
        "rounding": table.rounding,
        "kept_in_float": dict(table.kept_in_float),
        "notes": list(table.notes),
        "tool": table.tool,
    }


def _taken(file: Path) -> dict[str, Any] | None:
    """What `build` makes of a model that was quantized elsewhere."""
    from edgecnn.errors import BuildError
    from edgecnn.export.qdq import load_float_graph

    try:
        return _described(QuantizationTable.from_metadata(load_float_graph(file).metadata_props))
    except BuildError as error:
        return {"refused": str(error)}


def _operators(file: Path) -> Mapping[str, int] | None:
    """What ONNX Runtime makes of the graph: operator → count; None where that cannot be read back."""
    import importlib.util

    if importlib.util.find_spec("onnx") is None:  # a machine with the runtime alone has none
        return None
    from edgecnn.errors import ModelFormatError
    from edgecnn.export.measure import compiled_operators

    try:
        return compiled_operators(file.read_bytes())
    except ModelFormatError:  # it could be opened above: its weights lie in a file beside it
        return None


def _tensor(info: dict[str, Any]) -> str:
    return f"{info['dtype']} ({', '.join('N' if side is None else str(side) for side in info['shape'])})"


def _flat(section: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as rows: `outputs.logits.sqnr_db`."""
    rows: list[tuple[str, str]] = []
    for name, value in section.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            rows.append((prefix + name, f"{value:.5g}"))
        else:
            rows.append((prefix + name, "–" if value is None else str(value)))
    return rows
