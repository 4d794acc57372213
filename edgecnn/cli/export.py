"""`edgecnn export`: a PyTorch model → one ONNX file, checked against PyTorch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from edgecnn.backends import TensorInfo
from edgecnn.cli.common import emit, example_help, force_option, json_option, printable, progress_bar, say
from edgecnn.cli.spec_options import SpecOptions, spec_options
from edgecnn.errors import SpecError
from edgecnn.files import check_output
from edgecnn.spec import PRESETS, ModelSpec

if TYPE_CHECKING:
    from edgecnn.export import ExportResult, Source

__all__ = ["command"]


def _batch(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    """A number of images, or None for `dynamic`."""
    if value == "dynamic":
        return None
    if value.isdigit() and int(value) > 0:
        return int(value)
    raise click.BadParameter(f"{value!r} is no batch; expected a number of images, or dynamic")


@click.command(
    "export",
    epilog=example_help(
        """
edgecnn export mynet.models:small --weights best.pth --preset imagenet -o model.onnx
edgecnn export efficientnet_lite_pytorch:EfficientNet.from_name --arg efficientnet-lite0 \\
    --weights efficientnet_lite0.pth --preset efficientnet-lite --labels imagenet -o model.onnx
edgecnn export timm:mobilenetv3_small_100 --weights best.safetensors --arg num_classes=10 -o model.onnx
edgecnn export detector.pt2 --task raw --preset yolo --output-names boxes,scores -o model.onnx
edgecnn export traced.pt --input-size 224x224 --mean 0.5 --std 0.5 --batch dynamic -o model.onnx
"""
    ),
)
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(), help="The ONNX file to write.")
@click.option("--weights", type=click.Path(), help="Trained weights: a file of torch.save, or .safetensors.")
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="[KEY=]VALUE",
    help="An argument for the factory; repeatable.",
)
@click.option(
    "--unsafe-weights", is_flag=True, help="Run code that a pickle may hold. Only if you trust its author."
)
@click.option(
    "--batch", callback=_batch, default="1", show_default=True, metavar="N|dynamic",
    help="Images at once; dynamic leaves it free.",
)  # fmt: skip
@click.option(
    "--opset", type=int, default=19, show_default=True, help="Version of ONNX's operators, 17 to 23."
)
@click.option("--output-names", help="Names for the outputs, with commas between.")
@click.option(
    "--exporter", type=click.Choice(["auto", "dynamo", "torchscript"]), default="auto", show_default=True,
    help="torchscript traces one image and freezes branches that depend on it.",
)  # fmt: skip
@click.option(
    "--tolerance", type=float, help="Accepted error as a fraction of an output's range.  [default: 0.0001]"
)
@spec_options
@force_option
@json_option
def command(
    source: str,
    output: str,
    weights: str | None,
    arguments: tuple[str, ...],
    unsafe_weights: bool,
    batch: int | None,
    opset: int,
    output_names: str | None,
    exporter: str,
    tolerance: float | None,
    spec_options: SpecOptions,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a trained PyTorch model into one ONNX file, and check it against PyTorch.

    SOURCE is `package.module:factory` (with --weights), a .pt2 file of torch.export, a TorchScript file, or
    `timm:NAME` / `torchvision:NAME` where those are installed. SOURCE is a program, and exporting runs it;
    --weights is data, and loading it runs nothing.

    The file carries how to use the model: the task, the preprocessing that it was trained with (--preset or
    the options below it), its labels.
    """
    # before torch is imported, which takes seconds
    check_output(output, force=force, inputs=(source, weights))
    from edgecnn.export import export_onnx, load_source
    from edgecnn.export.exporter import TOLERANCE

    with progress_bar() as progress, _prints_to_stderr():
        progress("load", 0, 1)
        loaded = load_source(source, arguments=arguments, weights=weights, unsafe_weights=unsafe_weights)
        spec = _resolve_spec(loaded, spec_options)
        progress("load", 1, 1)
        for note in loaded.notes:
            say(f"edgecnn: warning: {note}")
        result = export_onnx(
            loaded.module,
            spec,
            output,
            opset=opset,
            batch=batch,
            output_names=output_names.split(",") if output_names is not None else None,
            exporter=exporter,  # type: ignore[arg-type]  # click.Choice has checked it
            tolerance=TOLERANCE if tolerance is None else tolerance,
            source=loaded.origin,
            force=force,
            progress=progress,
        )
    for note in result.notes:
        say(f"edgecnn: warning: {note}")
    result = replace(result, notes=(*loaded.notes, *result.notes))
    for title, text in _summary(result):
        click.echo(printable(f"{title:<8}{text}"), err=as_json)
    emit(result.to_dict(), as_json)


def _resolve_spec(loaded: Source, options: SpecOptions) -> ModelSpec:
    """What the user said, over what the source knows. Raises SpecError where nothing says it."""
    if loaded.size_hw is not None and options.image["size_hw"] is None and options.any_given:
        options = replace(options, image={**options.image, "size_hw": loaded.size_hw})
    spec = options.resolve(loaded.spec)
    if spec is None:
        raise SpecError(
            "nothing says how a frame becomes the network's input",
            expected=f"--preset {'|'.join(PRESETS)}, or --input-size HxW with --mean and --std",
            remedy="Take what the network was trained with",
        )
    return spec if spec.name else replace(spec, name=loaded.name)


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Stdout is for the result; what a model's code prints goes to the reader of stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _summary(result: ExportResult) -> list[tuple[str, str]]:
    parity = result.parity
    rows = [
        (
            "file",
            f"{result.path}  {result.size_bytes / 1e6:.1f} MB, opset {result.opset}, {result.seconds:.1f} s",
        )
    ]
    rows += [("input", _shape(info)) for info in result.inputs]
    rows += [("output", _shape(info)) for info in result.outputs]
    rows.append(("nodes", ", ".join(f"{count} {operator}" for operator, count in result.node_counts.items())))
    for output in parity.outputs:
        sqnr = "bit by bit the same" if output.sqnr_db is None else f"SQNR {output.sqnr_db:.1f} dB"
        error = f"largest error {output.max_abs_error:.2g}, {output.relative_error:.1e} of the range, {sqnr}"
        rows.append(("parity", f"{output.name}  {error}"))
    same = "" if parity.top1_agreement is None else f", the same class for {parity.top1_agreement:.1%}"
    batches = ", ".join(str(size) for size in parity.batches)
    rows.append(("", f"against PyTorch on {parity.images} images, batch {batches}{same}"))
    return rows


def _shape(info: TensorInfo) -> str:
    sides = ", ".join("batch" if side is None else str(side) for side in info.shape)
    return f"{info.name}  {info.dtype} ({sides})"
