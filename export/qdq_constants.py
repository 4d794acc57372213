"""Weights and other constants behind Q/DQ: their rounded values, and the scales of those that are weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.export.graph import constant
from edgecnn.export.placement import name_of, weight_axis
from edgecnn.export.qdq_grid import DEQUANTIZE, QUANTIZE, along, read_grid, refusal, several
from edgecnn.quantization import LEVELS, WeightScales

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LayerWeights", "fold_batch_norms", "take_constants"]

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The weights of one layer: their value is steps · scales.

    Attributes:
        axis: runs over output channels.
        scales: one a channel, positive.
        steps: -128 … 127, in the weights' shape.
    """

    axis: int
    scales: NDArray[np.float64]
    steps: NDArray[np.int16]

    def entry(self, weights: NDArray[Any]) -> WeightScales:
        """As the quantization table has it."""
        sizes = np.maximum(self.scales, np.finfo(np.float32).tiny)
        return WeightScales.with_steps(self.axis, tuple(sizes.tolist()), weights, self.steps.astype(np.int8))


def take_constants(graph: ir.Graph, *, exact: bool, notes: list[str]) -> dict[ir.Node, LayerWeights]:
    """Replace each DequantizeLinear of a constant by what it gives, in place.

    Returns:
        Layer → its weights' steps and scales.

    Raises:
        BuildError: a constant that is an output; where `exact`, steps that 8 bits around zero do not hold, or
            a scale along another axis than the layer's channels.
    """
    found: dict[ir.Node, LayerWeights] = {}
    others: list[str] = []
    for node in list(graph):
        stored = _stored(node) if node.op_type == DEQUANTIZE else None
        if stored is None:
            continue
        grid, rank = read_grid(node), stored.ndim
        axis = grid.axis if rank > 1 else 0
        steps = stored - along(grid.zero_point, axis, rank)
        real = (steps * along(grid.scale, axis, rank)).astype(np.float32)
        result = node.outputs[0]
        if result.is_graph_output():
            raise refusal(node, "a constant that is an output of the network", "outputs that are computed")
        name, result.name = str(result.name), None
        for use in tuple(result.uses()):
            order, readers = list(range(rank)), [(use.node, use.idx)]
            if use.node.op_type == "Transpose":  # a dense layer's weights, as torch has them
                order = list(use.node.attributes.get_ints("perm", None) or reversed(order))
                readers = [(later.node, later.idx) for later in tuple(use.node.outputs[0].uses())]
                use.node.replace_input_with(use.idx, constant(graph, f"{name}.before", real))
            for layer, index in readers:
                layer.replace_input_with(index, constant(graph, name, real.transpose(order)))
                if layer.op_type in _LAYERS and layer.domain == "" and index == 1:
                    along_axis = order.index(axis) if grid.scale.size > 1 else weight_axis(layer)
                    reason = _reason_to_refuse(steps, along_axis, weight_axis(layer))
                    if reason is None:
                        found[layer] = _weights(layer, grid.scale, steps.transpose(order))
                    elif exact:
                        raise refusal(node, *reason)
                    else:
                        others.append(name_of(layer))
        graph.remove(node, safe=True)
    if others:
        notes.append(
            f"{several(others)}: weights with zero points, or with scales along another axis than the output "
            "channels', are rounded anew"
        )
    return found


def _weights(layer: ir.Node, scales: NDArray[np.float64], steps: NDArray[np.int64]) -> LayerWeights:
    axis = weight_axis(layer)
    sizes = np.broadcast_to(scales.ravel(), (steps.shape[axis],)).copy()
    sizes[sizes == 0] = 1.0  # a dead channel: all that a scale of zero stands for is zero
    return LayerWeights(axis, sizes, np.where(along(scales, axis, steps.ndim) > 0, steps, 0).astype(np.int16))


def _reason_to_refuse(steps: NDArray[np.int64], axis: int, expected: int) -> tuple[str, str] | None:
    """What is wrong with weights, and what would be right."""
    if axis != expected:
        return f"weights with a scale along axis {axis}", f"axis {expected}"
    lowest, highest = int(steps.min(initial=0)), int(steps.max(initial=0))
    if lowest < -LEVELS - 1 or highest > LEVELS:
        return f"weights from {lowest} to {highest}", "-128 to 127"
    return None


def _stored(node: ir.Node) -> NDArray[np.int64] | None:
    """The integers that a DequantizeLinear reads, if they are constant, or made from a constant."""
    source = node.inputs[0]
    if source is None:
        return None
    if source.const_value is not None:
        if source.dtype is not None and source.dtype.is_floating_point():
            raise refusal(node, source.dtype.name)
        return source.const_value.numpy().astype(np.int64)
    quantize = source.producer()
    if quantize is None or quantize.op_type != QUANTIZE or quantize.inputs[0] is None:
        return None
    values = quantize.inputs[0].const_value
    if values is None:
        return None
    grid = read_grid(quantize)
    real = values.numpy().astype(np.float32)
    scale = np.where(grid.scale > 0, grid.scale, 1.0).astype(np.float32)
    axis = grid.axis if real.ndim > 1 else 0
    ratio = real / along(scale, axis, real.ndim)  # ONNX divides in float32 and rounds half to even
    steps = np.rint(ratio).astype(np.int64) + along(grid.zero_point, axis, real.ndim)
    clipped: NDArray[np.int64] = np.clip(steps, grid.low, grid.high)
    return clipped


def fold_batch_norms(
    graph: ir.Graph, weights: dict[ir.Node, LayerWeights], quantized: Collection[ir.Value]
) -> dict[ir.Value, ir.Value]:
    """A batch norm behind a quantized layer goes into its scales, in place, so that the steps stay.

    Args:
        graph: without Q/DQ.
        weights: changed where a batch norm was folded.
        quantized: tensors that have a range of their own, behind which nothing can be folded.

    Returns:
        What a batch norm gave → what the layer gives now.
    """
    import onnx_ir as ir

    replaced: dict[ir.Value, ir.Value] = {}
    for node, own in list(weights.items()):
        value = node.outputs[0]
        uses = tuple(value.uses())
        grouped = own.axis == 1 and node.attributes.get_int("group", 1) != 1
        if node.op_type not in ("Conv", "ConvTranspose") or grouped or len(uses) != 1:
            continue
        norm = uses[0].node
        if norm.op_type != "BatchNormalization" or value.is_graph_output() or value in quantized:
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        operands = [entry for entry in (*norm.inputs[1:5], bias) if entry is not None]
        numbers = [entry.const_value.numpy() for entry in operands if entry.const_value is not None]
        if len(numbers) != len(operands) or len(operands) < 4:
            continue
        gain, offset, mean, variance, before = (*numbers, np.zeros(1))[:5]
        factor = gain.astype(np.float64) / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
        mirrored = own.steps * along(np.sign(factor).astype(np.int16), own.axis, own.steps.ndim)
        if mirrored.max(initial=0) > LEVELS:
            continue  # the mirror image of -128 has no room
        result, weight = norm.outputs[0], node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        folded = weight.const_value.numpy() * along(factor, own.axis, own.steps.ndim)
        node.replace_input_with(1, constant(graph, f"{weight.name}.folded", folded.astype(np.float32)))
        node.resize_inputs(3)
        offsets = ((before - mean) * factor + offset).astype(np.float32)
        node.replace_input_with(2, constant(graph, f"{result.name}.bias", offsets))
        sizes = np.abs(factor) * own.scales
        sizes[sizes == 0] = 1.0
        weights[node] = LayerWeights(own.axis, sizes, mirrored)
        ir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
        name, result.name = result.name, None
        graph.remove(norm, safe=True)
        value.name, replaced[result] = name, value
    return replaced
