"""`edgecnn lower`: the graph that `build` compiles, for people who feed it to another tool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgecnn.cli.common import by_reason, emit, example_help, force_option, json_option, printable, say

__all__ = ["command"]

_WORDS = {"kept_fp32": "in FP32", "not_quantized": "not in INT8"}


@click.command(
    "lower",
    epilog=example_help(
        """
edgecnn lower model.calibrated.onnx --precision int8 --target onnxruntime -o lowered.onnx
edgecnn lower model.onnx --precision fp16 --target tensorrt -o lowered.onnx
edgecnn lower model.calibrated.onnx --precision int8 --target dla -o dla.onnx
"""
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    required=True,
    help="INT8 needs a calibrated model.",
)
@click.option(
    "--target",
    type=click.Choice(["onnxruntime", "tensorrt", "dla"]),
    default="onnxruntime",
    show_default=True,
    help="What will run it; for a DLA, the float graph and a calibration cache.",
)
@click.option(
    "--tensorrt-version", metavar="VERSION",
    help="With --target dla: TensorRT's on the device, which the cache must name. [default: 10.3.0]",
)  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The lowered graph.")
@force_option
@json_option
def command(
    model: Path,
    precision: Any,
    target: Any,
    tensorrt_version: str | None,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write the graph that `edgecnn build` compiles, without measuring anything."""
    if target == "dla":
        _for_dla(model, output, precision, tensorrt_version, force, as_json)
        return
    if tensorrt_version is not None:
        raise click.UsageError("--tensorrt-version: only with --target dla")
    from collections import Counter

    from edgecnn.export.graph import save_graph
    from edgecnn.export.lowering import lower_graph
    from edgecnn.export.qdq import load_float_graph
    from edgecnn.files import check_output
    from edgecnn.metadata import BUILD_KEY, read_json

    check_output(output, force=force, inputs=(model,))
    lowered = lower_graph(load_float_graph(model), precision, target=target)
    path = save_graph(lowered, output, force=force)
    nodes = dict(Counter(node.op_type for node in lowered.graph).most_common())
    lowering = (read_json(lowered.metadata_props, BUILD_KEY) or {}).get("lowering")
    if not as_json:
        summary = ", ".join(f"{count} {name}" for name, count in nodes.items())
        click.echo(f"{path}: {precision} for {target}, {path.stat().st_size / 1e6:.1f} MB: {summary}")
        if lowering is not None:
            _describe(lowering)
    emit(
        {
            "path": str(path),
            "precision": precision,
            "target": target,
            "size_bytes": path.stat().st_size,
            "nodes": nodes,
            **({} if lowering is None else {"lowering": lowering}),
        },
        as_json,
    )


def _for_dla(
    model: Path, output: Path, precision: Any, version: str | None, force: bool, as_json: bool
) -> None:
    from edgecnn.export.tensorrt.dla import JETPACK_6, write_dla_files

    files = write_dla_files(model, output, precision=precision, tensorrt=version or JETPACK_6, force=force)
    if not as_json:
        beside = "" if files.cache is None else f", its scales in {files.cache}"
        click.echo(f"{files.graph}: the float graph for a DLA{beside}")
        if files.left_to_gpu:
            click.echo("by NVIDIA's published list (no DLA was asked), the GPU will do:")
        for node, reason in files.left_to_gpu.items():
            click.echo(f"  {printable(node)}: {printable(reason)}")
        click.echo(f"on the device: {files.command}")
    emit({"precision": precision, "target": "dla", **files.to_dict()}, as_json)


def _describe(lowering: Mapping[str, Any]) -> None:
    """What was kept in FP32 and out of INT8, and why: a line a reason, with the layers that it is true of."""
    for what, words in _WORDS.items():
        for line in by_reason(lowering[what]):
            click.echo(printable(f"  {words}: {line}"))
    for warning in lowering["warnings"]:
        say(f"warning: {warning}")
