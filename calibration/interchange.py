"""Ranges from other tools: what a file says, matched with the tensors of a float model.

Three kinds of file have ranges: a calibration cache of TensorRT's (DeepStream and trtexec write them), a
quantized ONNX model, and a quantization table of ours, as JSON or in a calibrated model. All of them name
tensors. A cache and a quantized model keep the names of the ONNX file that they were made from, so that
file, or one that has the same names, is the float model to give.

    a name that is not in the model     is listed as extra
    a layer whose input has no range    is listed as missing, and stays in float

Without frames nothing is measured, and weights are rounded as in the file, or to their nearest steps.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn import __version__
from edgecnn.calibration.observation import weight_scales
from edgecnn.calibration.ranges import SMALLEST_AMAX
from edgecnn.errors import BuildError, ModelFormatError, ModelNotFoundError
from edgecnn.export.graph import load_graph, save_graph
from edgecnn.export.lowering import refuse_lowered
from edgecnn.export.measure import check_spec
from edgecnn.export.placement import (
    clamp_after,
    is_anchor,
    name_of,
    non_negative_values,
    result_of,
    scale_source,
    weight_of,
)
from edgecnn.export.qdq import take_quantization
from edgecnn.export.tensorrt.calibration_cache import CACHE_START, parse_cache
from edgecnn.files import check_output
from edgecnn.metadata import ACCURACY_KEY, QUANTIZATION_KEY
from edgecnn.quantization import (
    FROM_GRAPH_UINT8,
    LEVELS,
    ActivationRange,
    QuantizationTable,
    WeightScales,
)
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["IMPORTED", "Import", "Ranges", "import_ranges", "match_ranges", "on_frames", "read_ranges"]

IMPORTED = "imported"

_LARGEST_AMAX = float(np.finfo(np.float32).max)
_SMALLEST_COVERAGE = 0.5
_OTHER_WEIGHTS = 0.75
"""By how many steps weights may differ at the median: nearest steps by 0.25, chosen ones by up to 0.5."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranges:
    """What a file says.

    Attributes:
        source: the file, and what wrote it, in words.
        activations: tensor → range.
        weights: what the layer gives → its weights in the file, rounded, and their scales.
        table: where the file has a quantization table of ours.
        notes: what the file says and a table cannot.
    """

    source: str
    activations: Mapping[str, ActivationRange]
    weights: Mapping[str, tuple[NDArray[Any], WeightScales]] = field(default_factory=dict)
    table: QuantizationTable | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Import:
    """What came of a file's ranges.

    Attributes:
        path: the model with the table in it; None where it was only matched.
        table: the ranges as the model has them; its notes say what was lost.
        layers: how many layers have weights that INT8 can speed up.
        missing: those of them that stay in float, since their input has no range in the file.
        extra: names in the file that the model has not.
    """

    path: Path | None
    table: QuantizationTable
    layers: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """What was not taken over as it is, in words."""
        words = list(self.table.notes)
        if self.missing:
            words.append(
                f"{len(self.missing)} layers have no range there and stay in float{_such_as(self.missing)}"
            )
        if self.extra:
            words.append(f"{len(self.extra)} names in the file are not in the model{_such_as(self.extra)}")
        return words

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "path": None if self.path is None else str(self.path),
            "tensors": len(self.table.activations),
            "weights": len(self.table.weights),
            "layers": self.layers,
            "missing": list(self.missing),
            "extra": list(self.extra),
            "notes": list(self.table.notes),
        }


def import_ranges(
    model: str | os.PathLike[str],
    ranges: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    spec: ModelSpec | None = None,
    force: bool = False,
) -> Import:
    """Write a float model with the ranges of another file, without frames; nothing is measured.

    Args:
        model: a float32 ONNX file.
        ranges: a calibration cache, a quantized or calibrated ONNX file, or a table as JSON.
        output: where the model with the table is written.
        spec: used instead of the model's own.
        force: overwrite `output`.

    Raises:
        BuildError: the model is lowered or quantized already, or the file is not about it.
        ModelFormatError: `ranges` is none of these files, or damaged.
        ModelNotFoundError, SpecError, OutputError, OutputExistsError.
    """
    target = check_output(output, force=force, inputs=(model, ranges))
    graph = load_graph(model)
    refuse_lowered(graph)
    check_spec(graph, spec, name=str(model))
    found = match_ranges(graph, read_ranges(ranges))
    graph.metadata_props.pop(ACCURACY_KEY, None)
    graph.metadata_props[QUANTIZATION_KEY] = found.table.to_json()
    return dataclasses.replace(found, path=save_graph(graph, target, force=force))


def on_frames(found: Import, observed: QuantizationTable) -> QuantizationTable:
    """An import's table with what was seen on frames: the ranges are the file's, the extremes the frames'."""
    activations = {
        name: dataclasses.replace(entry, low=seen.low, high=seen.high)
        for name, entry in found.table.activations.items()
        if (seen := observed.activations.get(name)) is not None
    }
    return dataclasses.replace(
        observed,
        activations=activations,
        weights=found.table.weights,
        method=IMPORTED,
        kept_in_float=found.table.kept_in_float,
        notes=found.table.notes,
    )


def read_ranges(path: str | os.PathLike[str]) -> Ranges:
    """What a file says of ranges.

    Raises:
        ModelNotFoundError: no file there.
        ModelFormatError: it is neither a calibration cache, nor a table, nor a quantized or calibrated model.
        BuildError: a quantized model whose scales cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise ModelNotFoundError(f"{file} {what}", expected="a file with ranges")
    if file.suffix.lower() == ".onnx":
        return _read_model(file)
    content = file.read_bytes()
    text = content.decode("utf-8-sig", errors="replace")  # some editors put a byte order mark in front
    start = text[:64].lstrip()
    if start.startswith(CACHE_START):
        scales, header = parse_cache(text, name=str(file))
        entries = {name: _range(scale * LEVELS) for name, scale in scales.items()}
        return Ranges(source=f"{file.name} ({header})", activations=entries)
    if start.startswith("{"):
        try:
            table = QuantizationTable.from_json(text)
        except ModelFormatError as error:
            raise ModelFormatError(f"the table in {file} cannot be read", got=str(error.got)) from error
        return Ranges(
            source=f"{file.name} ({table.tool})",
            activations=table.activations,
            table=table,
            notes=table.notes,
        )
    raise ModelFormatError(
        f"{file} has no ranges that are known here",
        got=f"a file that starts with {content[:16]!r}",
        expected="a calibration cache (TRT-…), a quantized or calibrated .onnx, or a table as .json",
    )


def match_ranges(graph: ir.Model, ranges: Ranges) -> Import:
    """Find the tensors of a float model that a file speaks of.

    Raises:
        BuildError: fewer than half of the names, or of the layers, are in both.
    """
    activations, extra, unusable = _activations(graph.graph, ranges)
    layers = [node for node in graph.graph if is_anchor(node)]
    missing = [
        name_of(node)
        for node in layers
        if node.inputs[0] is None or scale_source(node.inputs[0]).name not in activations
    ]
    covered, known = len(layers) - len(missing), len(ranges.activations) - len(extra)
    smaller = min(len(layers), len(ranges.activations))
    if not covered or min(covered, known) < _SMALLEST_COVERAGE * smaller:
        raise BuildError(
            f"the ranges of {ranges.source} are not this model's",
            got=f"ranges for {covered} of {len(layers)} layers{_not(missing)}; {len(extra)} of "
            f"{len(ranges.activations)} names are not in the model{_such_as(extra)}",
            expected="the ONNX file that they were made from, with the same names",
        )
    notes = list(ranges.notes)
    if unusable:
        notes.append(
            f"{len(unusable)} ranges are too small or too large for float32 and were left out"
            f"{_such_as(unusable)}"
        )
    weights = weight_scales(graph)
    if ranges.table is not None:
        table = dataclasses.replace(ranges.table, activations=activations)
        if not _fits(graph.graph, table):
            notes.append(
                "the steps of the weights in the file are for other weights, trained further or equalized by "
                "calibration, and were not taken"
            )
            table = dataclasses.replace(table, weights=weights, biases={}, rounding="nearest")
        return Import(
            path=None,
            table=dataclasses.replace(table, notes=tuple(notes)),
            layers=len(layers),
            missing=tuple(missing),
            extra=tuple(extra),
        )
    others = []
    for node in layers:
        # some tools leave the activation function out, and the layer gives what that gave
        names = (str(value.name) for value in (result_of(node), node.outputs[0]))
        weight = weight_of(node)
        given = next((ranges.weights[name] for name in names if name in ranges.weights), None)
        if weight is None or weight.const_value is None or given is None:
            continue
        own, (values, entry) = weight.const_value.numpy(), given
        if _same_weights(own, values, entry, weights[str(weight.name)]):
            weights[str(weight.name)] = _rounded_as(own, values, entry)
        else:
            others.append(name_of(node))
    if others:
        notes.append(
            f"the weights of {len(others)} layers in the file are others{_such_as(others)}: only ranges were "
            "taken there; build the quantized file itself if it was trained further"
        )
    table = QuantizationTable(
        activations=activations,
        weights=weights,
        method=IMPORTED,
        frames=0,
        frames_sha256="",
        tool=f"edgecnn {__version__}",
        notes=(f"ranges from {ranges.source}", *notes),
    )
    return Import(path=None, table=table, layers=len(layers), missing=tuple(missing), extra=tuple(extra))


def _read_model(file: Path) -> Ranges:
    model = load_graph(file)
    own = QuantizationTable.from_metadata(model.metadata_props)
    if own is not None:
        return Ranges(
            source=f"{file.name} ({own.tool})", activations=own.activations, table=own, notes=own.notes
        )
    table = take_quantization(model, exact=False)
    if table is None:
        raise ModelFormatError(
            f"{file} has no ranges", got="a float model", expected="a quantized or calibrated one"
        )
    weights = {}
    for node in model.graph:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        entry = None if weight is None else table.weights.get(str(weight.name))
        if entry is not None and weight is not None and weight.const_value is not None:
            weights[str(node.outputs[0].name)] = (weight.const_value.numpy(), entry)
    return Ranges(
        source=f"{file.name} ({table.tool})",
        activations={
            name: _range(entry.amax, centred=entry.method == FROM_GRAPH_UINT8)
            for name, entry in table.activations.items()
        },
        weights=weights,
        notes=table.notes,
    )


def _range(amax: float, *, centred: bool = False) -> ActivationRange:
    return ActivationRange(
        amax=amax, low=0.0 if centred else -amax, high=amax, method=IMPORTED, centred=centred
    )


def _activations(graph: ir.Graph, ranges: Ranges) -> tuple[dict[str, ActivationRange], list[str], list[str]]:
    """The ranges under the names that calibration uses; the names that are not in the graph; the ranges that
    float32 has no steps for."""
    named = {
        str(value.name): value
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs))
    }
    non_negative = {str(value.name) for value in non_negative_values(graph)}
    found: dict[str, ActivationRange] = {}
    direct: set[str] = set()
    extra, unusable = [], []
    for name, entry in ranges.activations.items():
        value = named.get(name)
        if value is None:
            extra.append(name)
            continue
        if not SMALLEST_AMAX <= entry.amax <= _LARGEST_AMAX:
            unusable.append(name)
            continue
        clamp = clamp_after(value)
        key = str(scale_source(value if clamp is None else clamp.outputs[0]).name)
        if key in direct or (key != name and key in found and found[key].amax >= entry.amax):
            continue  # a tensor's own range goes before that of what is only moved, or clamped, of it
        if key == name:
            direct.add(key)
        if ranges.table is None and key in non_negative:
            entry = dataclasses.replace(entry, low=0.0)
        found[key] = entry
    return found, extra, unusable


def _fits(graph: ir.Graph, table: QuantizationTable) -> bool:
    """Whether all weights of the table are in the graph, and are those that it was made for."""
    constants = (graph.initializers.get(name) for name in table.weights)
    return all(
        weight is not None and weight.const_value is not None and entry.fits(weight.const_value.numpy())
        for weight, entry in zip(constants, table.weights.values(), strict=True)
    )


def _same_weights(own: NDArray[Any], given: NDArray[Any], entry: WeightScales, plain: WeightScales) -> bool:
    """Whether the file's weights are this layer's, rounded."""
    if own.shape != given.shape or entry.axis != plain.axis:
        return False
    sides = [1] * own.ndim
    sides[entry.axis] = -1
    steps = np.abs(own.astype(np.float64) - given) / np.asarray(entry.scales).reshape(sides)
    return float(np.median(steps)) <= _OTHER_WEIGHTS


def _rounded_as(own: NDArray[Any], given: NDArray[Any], entry: WeightScales) -> WeightScales:
    """The scales and steps of the file for the float weights."""
    sides = [1] * own.ndim
    sides[entry.axis] = -1
    steps = np.rint(given.astype(np.float64) / np.asarray(entry.scales).reshape(sides))
    clipped = np.clip(steps, -LEVELS - 1, LEVELS).astype(np.int8)
    return WeightScales.with_steps(entry.axis, entry.scales, own, clipped)


def _such_as(names: Sequence[str]) -> str:
    return f", such as {names[0]}" if names else ""


def _not(names: Sequence[str]) -> str:
    return f", not for {names[0]}" if names else ""
