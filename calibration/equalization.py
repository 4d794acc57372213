"""Cross-layer equalization: small channels are made larger where the layers behind can take it back.

Where only other layers read what a layer makes, with nothing but positively homogeneous operators between –
Relu, LeakyRelu, PRelu, pooling –, a channel may be multiplied by k > 0 in that one's weights and bias and
divided by k in the weights of all that read it: the network computes the same (M. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", 2019). Layers are convolutions and matrix
products alike. Each tensor on the way has an array that says which channel every element is of. Flatten,
Reshape and Transpose move it as they move the numbers; so each column of a dense layer behind a convolution
finds its channel.

Here k brings each channel's largest magnitude up to half of the largest channel's in every quantized tensor
on the way, by a factor of 8 at most: a tensor's steps are the same for all channels, and finer for small ones
that were made larger.

Whether that helps depends on the network: a small channel may be one whose weights are large, and what is
gained in one tensor is lost in the weights. So it is tried on 48 frames of calibration: two thirds choose
ranges for the network with it and without it, and on the last third the error of the outputs must be smaller
by a twentieth on TensorRT's grid and no larger as ONNX Runtime runs it, or all stays as it was. The factors,
and the largest magnitudes that ranges are chosen from, are those of all calibration frames, that third among
them, with it as without it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.calibration.grams import layer_of
from edgecnn.calibration.observation import weight_scales
from edgecnn.calibration.observers import TensorStats, merge, observe
from edgecnn.calibration.outputs import Errors, errors_on_grids, outputs_of
from edgecnn.calibration.selection import select_ranges
from edgecnn.export.graph import to_bytes
from edgecnn.export.placement import bias_of, weight_axis, weight_of
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Equalization", "equalize"]

_ELEMENTWISE = frozenset({"LeakyRelu", "PRelu", "Relu"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "MaxPool"})
_MOVERS = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_LARGEST = 8.0
_FILLED = 0.5  # of the range that the largest channel needs: other frames have larger numbers
_BETTER = 0.95
_FRAMES = 48  # to decide with; two thirds of them choose ranges


@dataclass(frozen=True, kw_only=True)
class Equalization:
    """What was tried.

    Attributes:
        layers: how many have channels that can be scaled.
        accepted: whether the network was changed.
        gain_db: by how much the SQNR of the outputs rose on TensorRT's grid, on the third that judges.
        onnxruntime_gain_db: the same as ONNX Runtime runs it.
        stats: statistics of the tensors that changed, from the frames that were kept; empty unless accepted.
    """

    layers: int
    accepted: bool
    gain_db: float
    onnxruntime_gain_db: float
    stats: Mapping[str, TensorStats] = field(default_factory=dict)


def equalize(
    model: ir.Model,
    table: QuantizationTable,
    stats: Mapping[str, TensorStats],
    inputs: Sequence[NDArray[np.float32]],
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Equalization | None:
    """Change weights and biases of a float network in place, if that helps.

    Args:
        model: the float model.
        table: of the network as it is; only what is not about numbers is taken from it.
        stats: of its tensors, with histograms.
        inputs: the network's input tensor for some frames, those of one source side by side.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as steps are done.

    Returns:
        What was tried; None where there is no layer whose channels can be scaled, or but one input.
    """
    stretches = [one for node in model.graph if (one := _stretch_from(node)) is not None]
    if not stretches or len(inputs) < 2:
        return None
    some = [inputs[index] for index in sorted({i * len(inputs) // _FRAMES for i in range(_FRAMES)})]
    border = max(1, len(some) * 2 // 3)
    changed = [str(value.name) for one in stretches for value in one.tensors if value.name in stats]

    def noise(seen: Mapping[str, TensorStats]) -> Errors:
        ranges = select_ranges(model, seen, some[:border], threads=threads)
        tried = dataclasses.replace(table, activations=ranges, weights=weight_scales(model))
        reference = outputs_of(model, some[border:], threads=threads)
        return errors_on_grids(model, tried, some[border:], reference, threads=threads)

    progress("equalizing", 0, 2)
    plain = noise(stats)
    progress("equalizing", 1, 2)
    largest = _largest(model, changed, inputs, threads)
    before: dict[ir.Value, Any] = {}
    for one in stretches:
        _scale(one, _factors(one, largest), before)
    found = {**stats, **_observed(model, changed, inputs, threads)}
    equalized = noise(found)
    gains = equalized.gains_db(plain)
    (symmetric, onnxruntime), before_it = equalized.totals, plain.totals
    accepted = symmetric < _BETTER * before_it[0] and onnxruntime <= before_it[1]
    progress("equalizing", 2, 2)
    result = Equalization(
        layers=len(stretches),
        accepted=accepted,
        gain_db=gains[0],
        onnxruntime_gain_db=gains[1],
        stats=found if accepted else {},
    )
    if not accepted:
        for value, constant in before.items():
            value.const_value = constant
    return result


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """A layer, all layers that read what it makes, and the tensors between them.

    Attributes:
        maker: the layer that makes the channels.
        outputs: how many they are.
        tensors: each with the channel of every element; sides may be 1 where all along them is alike.
        readers: layers with the channel of every column of their weights, (groups, 1, K).
    """

    maker: ir.Node
    outputs: int
    tensors: Mapping[ir.Value, NDArray[np.intp]]
    readers: Mapping[ir.Node, NDArray[np.intp]]


def _stretch_from(maker: ir.Node) -> _Stretch | None:
    if not _is_free(maker):
        return None
    result, weight = maker.outputs[0], maker.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    outputs = weight.const_value.shape.numpy()[weight_axis(maker)]
    others = [1] * (len(result.shape or ()) - 2)
    sides = (1, outputs, *others) if maker.op_type == "Conv" else (*others, 1, outputs)
    tensors: dict[ir.Value, NDArray[np.intp]] = {result: np.arange(outputs).reshape(sides)}
    readers: dict[ir.Node, NDArray[np.intp]] = {}
    ahead = [result]
    while ahead:
        value = ahead.pop()
        if value.is_graph_output():
            return None
        for node, index in value.uses():
            if index == 0 and (moved := _moved(node, value, tensors[value])) is not None:
                tensors[node.outputs[0]] = moved
                ahead.append(node.outputs[0])
            elif index == 0 and (columns := _columns(node, tensors[value])) is not None:
                readers[node] = columns
            else:
                return None
    return _Stretch(maker=maker, outputs=outputs, tensors=tensors, readers=readers) if readers else None


def _moved(node: ir.Node, value: ir.Value, channels: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """The channels of what a node makes; None where that does not scale as its input does, or is unknown."""
    if node.domain != "":
        return None
    if node.op_type in _ELEMENTWISE:
        return channels
    if node.op_type in _POOLS:
        return channels if math.prod(channels.shape[2:]) == 1 else None
    if node.op_type not in _MOVERS:
        return None
    if value.shape is None or node.outputs[0].shape is None:
        return None
    sides, wanted = (
        [side if isinstance(side, int) else 1 for side in shape]
        for shape in (value.shape, node.outputs[0].shape)
    )
    if math.prod(sides) != math.prod(wanted):  # more is unknown than the batch
        return None
    whole = np.broadcast_to(channels, sides)
    if node.op_type == "Transpose":
        return np.transpose(whole, node.attributes.get_ints("perm", range(len(sides))[::-1]))
    return whole.reshape(wanted)


def _columns(node: ir.Node, channels: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """The channel that each column of a layer's weights reads, (groups, 1, K); None where it is not one."""
    layer = layer_of(node) if _is_free(node) else None
    if layer is None:
        return None
    axis = 1 if node.op_type == "Conv" else channels.ndim - 1
    rows = np.moveaxis(channels, axis, -1).reshape(-1, channels.shape[axis])
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    length = layer.matrix(weight.const_value.numpy()).shape[2]
    if (rows != rows[0]).any():
        return None
    read = rows[0].reshape(layer.groups, -1)
    return np.repeat(read, length // read.shape[1], axis=1)[:, None, :]


def _is_free(node: ir.Node) -> bool:
    """Whether a layer's constants are its own, and how it uses them is known."""
    weight = weight_of(node)
    if weight is None or layer_of(node) is None:
        return False
    bias = bias_of(node)
    return len(tuple(weight.uses())) == 1 and (
        bias is None
        or (bias.const_value is not None and bias.const_value.size > 1 and len(tuple(bias.uses())) == 1)
    )


def _factors(stretch: _Stretch, largest: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """What each channel is multiplied with, from the largest magnitudes in each tensor of the stretch."""
    factors, dead = np.full(stretch.outputs, _LARGEST), np.ones(stretch.outputs, bool)
    for value, channels in stretch.tensors.items():
        magnitudes = largest.get(str(value.name))
        if magnitudes is None:
            continue
        one = np.zeros(stretch.outputs)
        np.maximum.at(one, np.broadcast_to(channels, magnitudes.shape), magnitudes)
        factors = np.minimum(factors, _FILLED * one.max() / np.maximum(one, 1e-30))
        dead &= one == 0
    return np.where(dead, 1.0, np.maximum(factors, 1.0))


def _scale(stretch: _Stretch, factors: NDArray[np.float64], before: dict[ir.Value, Any]) -> None:
    import onnx_ir as ir

    def replace(node: ir.Node, index: int, change: Any) -> None:
        value, layer = node.inputs[index], layer_of(node)
        assert value is not None
        assert value.const_value is not None
        assert layer is not None
        before.setdefault(value, value.const_value)
        values = value.const_value.numpy()
        if index == 1:
            changed = layer.weights(change(layer, layer.matrix(values)), values.shape)
        else:
            changed = values * factors.reshape(values.shape)
        value.const_value = ir.tensor(changed.astype(np.float32), name=value.name)

    maker = stretch.maker
    replace(maker, 1, lambda layer, matrix: matrix * factors.reshape(layer.groups, -1, 1))
    if bias_of(maker) is not None:
        replace(maker, 2, None)
    for reader, channels in stretch.readers.items():
        replace(reader, 1, lambda _, matrix, channels=channels: matrix / factors[channels])


def _visible(model: ir.Model, names: Sequence[str], threads: int | None) -> Any:
    clone = model.clone()
    values = {value.name: value for node in clone.graph for value in node.outputs}
    clone.graph.outputs.clear()
    clone.graph.outputs.extend(values[name] for name in names)
    return create_session(to_bytes(clone), threads=threads)


def _largest(
    model: ir.Model, names: Sequence[str], inputs: Sequence[NDArray[np.float32]], threads: int | None
) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of each element, for each tensor."""
    session = _visible(model, names, threads)
    found: dict[str, NDArray[np.float32]] = {}
    for tensor in inputs:
        values = session.run(None, {session.get_inputs()[0].name: tensor})
        for name, one in zip(names, values, strict=True):
            found[name] = np.maximum(found[name], np.abs(one)) if name in found else np.abs(one)
    return found


def _observed(
    model: ir.Model, names: Sequence[str], inputs: Sequence[NDArray[np.float32]], threads: int | None
) -> dict[str, TensorStats]:
    session = _visible(model, names, threads)
    stats: dict[str, TensorStats] = {}
    for tensor in inputs:
        for name, values in zip(
            names, session.run(None, {session.get_inputs()[0].name: tensor}), strict=True
        ):
            seen = observe(values)
            stats[name] = merge(stats[name], seen) if name in stats else seen
    return stats
