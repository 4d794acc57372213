"""`auto`: of each tensor's candidate ranges, the one that disturbs least what the layers behind it compute.

The error that counts is not that of the tensor but that of the layers that read it: with x the columns that
such a layer with weights W reads in the float network, and q(x) the same through the candidate's grid,

    Σ (W · q(x) − W · x)² / Σ (W · x)²

in each frame, added up over some frames and all layers that read the tensor. An error in a channel that no
weight takes up costs nothing. Frames count alike: where numbers are large, what follows is large as well, and
else the few largest would decide. Only of a layer behind which there is no other, whose error is that of the
network's outputs, the error is not divided. The grid is the one that TensorRT will have: 254 steps for a
centred tensor.

The network's input has one more candidate, the pixels' own steps: with mean 127 and standard deviation 128
all but the brightest of the 256 levels are on the grid, where 127 steps up to the largest magnitude miss
nearly every one.

What a dense layer makes or reads has one number a channel and frame: too few to know how large it can be. So
its largest magnitude, and a quarter more, is its range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgecnn.calibration.grams import layer_of
from edgecnn.calibration.observers import TensorStats
from edgecnn.calibration.ranges import METHODS, choose_range
from edgecnn.calibration.stream import Stream
from edgecnn.export.placement import is_anchor, is_mover, scale_source
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import LEVELS, ActivationRange
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["largest_ranges", "select_ranges"]

_ROOM = 1.25  # for numbers larger than any that was seen
_POSITIONS = 32  # of each feature map: many frames tell more of outliers than many places of a few


def select_ranges(
    model: ir.Model,
    stats: Mapping[str, TensorStats],
    inputs: Sequence[NDArray[np.float32]],
    *,
    centred: Collection[str] = (),
    image: ImageSpec | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, ActivationRange]:
    """The range of each tensor; `percentile` for one that no layer reads, which TensorRT does not quantize.

    Args:
        model: the float model.
        stats: of its tensors, with histograms.
        inputs: the network's input tensor for some frames.
        centred: the tensors with 254 steps from zero.
        image: how pixels become the network's input.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as layers are done.
    """
    candidates = {
        name: {entry.amax: entry for entry in (choose_range(seen, method) for method in METHODS)}
        for name, seen in stats.items()
    }
    pixel_steps = _pixel_steps(model, stats, image)
    for name, entry in pixel_steps.items():
        candidates[name].setdefault(entry.amax, entry)
    errors: dict[str, dict[float, float]] = {
        name: dict.fromkeys(ranges, 0.0) for name, ranges in candidates.items()
    }
    read: set[str] = set()
    stream = Stream(model, inputs, threads=threads)
    layers = [node for node in model.graph if is_anchor(node)]
    for done, node in enumerate(layers):
        progress("choosing ranges", done + 1, len(layers))
        layer, value, weight = layer_of(node), node.inputs[0], node.inputs[1]
        source = None if value is None else str(scale_source(value).name)
        if layer is None or source not in candidates or weight is None or weight.const_value is None:
            continue
        read.add(source)
        if len(candidates[source]) == 1:
            continue
        stream.advance(str(node.outputs[0].name), {})
        matrix = layer.matrix(weight.const_value.numpy()).astype(np.float32)
        follows = _is_followed(node)
        assert value is not None
        for index in range(len(inputs)):
            columns = layer.columns(stream.tensor(index, str(value.name)), index, _POSITIONS)
            energy = float(np.square(matrix @ columns).sum()) if follows else 1.0
            lowest, highest = (0, 2 * LEVELS) if source in centred else (-LEVELS, LEVELS)
            for amax in candidates[source]:
                scale = np.float32(amax / highest)
                difference = np.clip(np.rint(columns / scale), lowest, highest) * scale - columns
                moved = matrix @ difference
                errors[source][amax] += float(np.vdot(moved, moved)) / max(energy, 1e-30)
    chosen = {
        name: ranges[min(ranges, key=lambda amax, name=name: (errors[name][amax], -amax))]  # type: ignore[misc]
        if name in read
        else choose_range(stats[name], "percentile")
        for name, ranges in candidates.items()
    }
    largest = largest_ranges(model, stats)
    chosen |= {name: largest[name] for name in _flat(model) & stats.keys()}
    return {name: dataclasses.replace(entry, centred=name in centred) for name, entry in chosen.items()}


def largest_ranges(model: ir.Model, stats: Mapping[str, TensorStats]) -> dict[str, ActivationRange]:
    """The largest magnitudes, with room for larger ones around dense layers."""
    ranges = {name: choose_range(entry, "minmax") for name, entry in stats.items()}
    for name in _flat(model) & stats.keys():
        ranges[name] = dataclasses.replace(ranges[name], amax=_ROOM * ranges[name].amax)
    return ranges


def _is_followed(node: ir.Node) -> bool:
    """Whether another layer comes behind a node."""
    ahead, seen = list(node.outputs), set(node.outputs)
    while ahead:
        for use in ahead.pop().uses():
            if is_anchor(use.node):
                return True
            new = [value for value in use.node.outputs if value not in seen]
            ahead += new
            seen.update(new)
    return False


def _flat(model: ir.Model) -> set[str]:
    """Tensors with one number a channel, but for those that are feature maps in another shape."""
    return {
        str(value.name)
        for node in model.graph
        if not is_mover(node)
        for value in node.outputs
        if value.shape is not None and len(value.shape) == 2
    }


def _pixel_steps(
    model: ir.Model, stats: Mapping[str, TensorStats], image: ImageSpec | None
) -> dict[str, ActivationRange]:
    """The network's input with a step as far as two neighbouring levels of a pixel are apart."""
    name = str(model.graph.inputs[0].name)
    if image is None or name not in stats or len(set(image.std)) > 1:
        return {}
    largest = choose_range(stats[name], "minmax")
    amax = LEVELS * image.scale / image.std[0]
    return {name: dataclasses.replace(largest, amax=amax, method="pixels")}
