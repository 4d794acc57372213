"""INT8 for ONNX Runtime's CPU kernels: explicit Q/DQ, placed so that its optimizer fuses all of it.

ONNX Runtime turns `DequantizeLinear → Conv → QuantizeLinear` into one integer kernel when the activations,
the weights and the bias are all quantized, and nothing stands between. So, beyond the common rules of
`edgecnn.export.placement`:

- The outputs of convolutions are quantized too, and Add, pooling and concatenation run on 8 bits when all
  their operands do.
- Activations are uint8, since the kernels for uint8 × int8 use the CPU's dot-product instructions. A signed
  tensor gets zero point 128: q + 128 of the table's int8, number for number. A tensor that cannot be
  negative gets zero point 0 and scale amax / 255, twice as fine as the table's grid.
- Where zero point 0 saturates exactly where a clamp would, the clamp is dropped.
- Weights are int8 with a scale a channel; the bias is int32 with scale input · weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn.export.graph import constant
from edgecnn.export.placement import (
    CLAMPS,
    MOVERS,
    activations,
    clip_bounds,
    is_non_negative,
    scale_source,
    weight_axis,
    weight_of,
)
from edgecnn.quantization import LEVELS, QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["lower_int8"]

# Operators besides the anchors and movers that ONNX Runtime's CPU provider computes on 8-bit data.
_INTEGER_KERNELS = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"})

_LARGEST_BIAS_STEPS = 2.0**30  # half of int32's range: the sum of products needs room too


@dataclass(frozen=True)
class _Grid:
    """real = (q - zero_point) · scale, q in 0 … 255."""

    scale: float
    zero_point: int

    @property
    def largest(self) -> float:
        return (255 - self.zero_point) * self.scale


def lower_int8(model: ir.Model, table: QuantizationTable) -> None:
    """Rewrite a float model in place; what the table does not cover stays in float."""
    graph = model.graph
    grids = _grids(graph, _quantized_values(graph, table), table)
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if source in grids and weight_of(node) is not None:
            _quantize_weights(graph, node, grids[source], table)
    for value, grid in grids.items():
        _quantize_activation(graph, value, grid)
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)


def _quantized_values(graph: ir.Graph, table: QuantizationTable) -> list[ir.Value]:
    chosen: dict[ir.Value, None] = {}  # ordered
    for value in activations(graph):
        if scale_source(value).name not in table.activations:
            continue
        if _feeds_anchor(value, table) or (_runs_on_integers(value, chosen, table) and not value.is_graph_output()):
            chosen[value] = None
    return list(chosen)


def _feeds_anchor(value: ir.Value, table: QuantizationTable) -> bool:
    return any(
        use.idx == 0 and (weight := weight_of(use.node)) is not None and weight.name in table.weights
        for use in value.uses()
    )


def _runs_on_integers(value: ir.Value, chosen: dict[ir.Value, None], table: QuantizationTable) -> bool:
    """Whether the operator that makes `value` (looking through its clamp) has an integer kernel and 8-bit operands."""
    node = value.producer()
    if node is not None and node.op_type in CLAMPS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None:
        return False
    weight = weight_of(node)
    if weight is not None:
        return weight.name in table.weights and node.op_type == "Conv"  # Gemm and MatMul give float as fast
    if node.op_type in MOVERS:
        return node.inputs[0] in chosen
    return node.op_type in _INTEGER_KERNELS and all(operand in chosen for operand in node.inputs)


def _grids(graph: ir.Graph, values: list[ir.Value], table: QuantizationTable) -> dict[ir.Value, _Grid]:
    grids = {}
    for value in values:
        source = scale_source(value)
        amax = table.activations[str(source.name)].amax
        grids[value] = _Grid(amax / 255, 0) if is_non_negative(source) else _Grid(amax / LEVELS, 128)
    return grids


def _quantize_activation(graph: ir.Graph, value: ir.Value, grid: _Grid) -> None:
    import onnx_ir as ir

    source = value
    clamp = value.producer()
    if clamp is not None and clamp.op_type in CLAMPS and grid.zero_point == 0 and not value.is_graph_output():
        inner = clamp.inputs[0]
        upper = clip_bounds(clamp)[1]
        # the relative margin is float32's: amax and the bound come by different routes
        if inner is not None and len(inner.uses()) == 1 and (upper is None or grid.largest <= upper * (1 + 1e-6)):
            source = inner
    name = str(value.name)
    scale = constant(graph, f"{name}.scale", np.float32(grid.scale))
    zero_point = constant(graph, f"{name}.zero_point", np.uint8(grid.zero_point))
    quantize = ir.node("QuantizeLinear", [source, scale, zero_point], name=f"{name}.quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero_point], name=f"{name}.dequantize")
    quantize.outputs[0].name, dequantize.outputs[0].name = f"{name}.q", f"{name}.dq"
    dequantize.outputs[0].type, dequantize.outputs[0].shape = value.type, value.shape
    for use in list(value.uses()):
        if use.node is not quantize:
            use.node.replace_input_with(use.idx, dequantize.outputs[0])
    producer = source.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])


def _quantize_weights(graph: ir.Graph, node: ir.Node, grid: _Grid, table: QuantizationTable) -> None:
    weight = weight_of(node)
    assert weight is not None and weight.const_value is not None
    entry = table.weights.get(str(weight.name))
    if entry is None:
        return
    values = weight.const_value.numpy()
    sides = [1] * values.ndim
    sides[entry.axis] = -1
    scales = np.asarray(entry.scales, np.float32)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    bias_values = None if bias is None or bias.const_value is None else bias.const_value.numpy().astype(np.float64)
    if bias_values is not None and bias_values.size == scales.size:
        # A channel of tiny weights with a large bias: coarser weights, so that the bias fits into int32.
        scales = np.maximum(scales, np.abs(bias_values) / (grid.scale * _LARGEST_BIAS_STEPS)).astype(np.float32)
    quantized = np.clip(np.rint(values / scales.reshape(sides)), -LEVELS, LEVELS).astype(np.int8)
    node.replace_input_with(1, _dequantized(graph, node, weight, quantized, scales, entry.axis))
    if bias is not None and bias_values is not None and bias_values.size == scales.size:
        bias_scales = (np.float64(np.float32(grid.scale)) * scales).astype(np.float32)
        steps = np.rint(bias_values / bias_scales).astype(np.int32)
        node.replace_input_with(2, _dequantized(graph, node, bias, steps, bias_scales, 0))


def _dequantized(
    graph: ir.Graph, node: ir.Node, value: ir.Value, quantized: np.ndarray[Any, Any], scales: np.ndarray[Any, Any], axis: int
) -> ir.Value:
    """The output of a DequantizeLinear with the constant behind it, placed before `node`."""
    import onnx_ir as ir

    # The node is part of the name: weights that two layers share get two sets of bias scales.
    name = f"{value.name}.{node.name}"
    inputs = [
        constant(graph, f"{name}.q", quantized),
        constant(graph, f"{name}.scale", scales),
        constant(graph, f"{name}.zero_point", np.zeros(scales.shape, quantized.dtype)),
    ]
    dequantize = ir.node("DequantizeLinear", inputs, {"axis": axis}, name=f"{name}.dequantize")
    dequantize.outputs[0].name = f"{name}.dq"
    dequantize.outputs[0].type, dequantize.outputs[0].shape = value.type, value.shape
    graph.insert_before(node, dequantize)
    return dequantize.outputs[0]

