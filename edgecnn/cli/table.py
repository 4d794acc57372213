"""`edgecnn table`: the quantization table of a model, for people and for other tools."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edgecnn.cli.common import emit, example_help, force_option, json_option, print_table, say

__all__ = ["command"]


@click.command(
    "table",
    epilog=example_help(
        """
edgecnn table model.calibrated.onnx
edgecnn table model.calibrated.onnx -o table.json
edgecnn table model.calibrated.onnx -o model.cache --tensorrt-version 8.6.1
edgecnn calibrate model.onnx --ranges table.json -o model.calibrated.onnx
"""
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write it: as JSON (.json), or else as TensorRT's calibration cache.",
)
@click.option(
    "--tensorrt-version", metavar="VERSION",
    help="The TensorRT that will read the cache, 8 to 10. [default: 10.3.0]",
)  # fmt: skip
@force_option
@json_option
def command(
    model: Path, output: Path | None, tensorrt_version: str | None, force: bool, as_json: bool
) -> None:
    """Show the ranges that a calibrated or quantized MODEL has, or write them for another tool.

    `edgecnn calibrate --ranges` reads both forms, and those that other tools write.
    """
    as_text = output is not None and output.suffix.lower() == ".json"
    if tensorrt_version is not None and (output is None or as_text):
        raise click.UsageError("--tensorrt-version: only with a calibration cache")
    from edgecnn.errors import BuildError
    from edgecnn.export.qdq import load_float_graph
    from edgecnn.export.tensorrt.calibration_cache import cache_text, tensor_scales
    from edgecnn.export.tensorrt.dla import JETPACK_6
    from edgecnn.files import check_output, write_atomic
    from edgecnn.quantization import QuantizationTable

    if output is not None:
        check_output(output, force=force, inputs=(model,))
    graph = load_float_graph(model)
    table = QuantizationTable.from_metadata(graph.metadata_props)
    if table is None:
        raise BuildError(
            f"{model} has no ranges",
            got="a float model",
            expected="a calibrated or quantized one",
            remedy="edgecnn calibrate MODEL --data PHOTOS -o model.calibrated.onnx",
        )
    scales = tensor_scales(graph.graph, table)
    if output is not None:
        text = table.to_json() if as_text else cache_text(scales, tensorrt_version or JETPACK_6)
        write_atomic(output, text.encode(), force=force)
    rows = [
        (name, f"{entry.amax:.5g}", f"{entry.low:.5g}", f"{entry.high:.5g}", entry.method)
        for name, entry in table.activations.items()
    ]
    weights = f"{len(table.weights)} weights, {table.rounding} rounding"
    print_table(
        f"{output or model}: {len(rows)} tensors, {weights}, by {table.tool}",
        rows,
        ("tensor", "amax", "lowest", "highest", "method"),
        as_json=as_json,
    )
    for note in table.notes:
        say(f"note: {note}")
    emit(
        {
            "path": None if output is None else str(output),
            "method": table.method,
            "rounding": table.rounding,
            "tool": table.tool,
            "activations": {name: dataclasses.asdict(entry) for name, entry in table.activations.items()},
            "scales": scales,
            "weights": len(table.weights),
            "notes": list(table.notes),
        },
        as_json,
    )
