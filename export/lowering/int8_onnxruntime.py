"""INT8 for ONNX Runtime's CPU kernels: explicit Q/DQ, placed so that its optimizer fuses all of it.

ONNX Runtime turns `DequantizeLinear → Conv → QuantizeLinear` into one integer kernel when the activations,
the weights and the bias are all quantized, and nothing stands between. So, beyond the common rules of
`edgecnn.export.placement`:

- The outputs of convolutions are quantized too, and Add, pooling and concatenation run on 8 bits when all
  their operands do. A convolution whose output may not be quantized stays in float: it is the network's, or
  nothing but arithmetic makes that of it, such as the decoding of boxes, for which 8 bits are too few.
- Activations are uint8, since the kernels for uint8 × int8 use the CPU's dot-product instructions. A signed
  tensor gets zero point 128: q + 128 of the table's int8, number for number. A tensor that cannot be
  negative gets zero point 0 and scale amax / 255, twice as fine as the table's grid.
- Where zero point 0 saturates exactly where a clamp would, the clamp is dropped.
- A scale that stood in the graph (`edgecnn.export.qdq`) is used as it is, so there a tensor that cannot be
  negative has zero point 128 as well; its clamp becomes one of 8-bit numbers behind the integer kernel.
- Weights are int8 with a scale a channel; the bias is int32 with scale input · weight.
- An operator that computes in float reads the float tensor where there is one.
- A ConvTranspose runs in float. Between quantized tensors its weights are quantized all the same.
- A convolution that only such layers read which the table keeps in float is computed in float with them:
  its integer kernel could give them nothing but 8 bits.
- A layer that the table has in INT8 and that runs in float here computes with the table's steps and bias
  where they are not the nearest ones: they make up for what the layers before have lost.
- A layer in float that can only read an 8-bit tensor gets it through a DequantizeLinear with a scale a
  channel, all of them equal. Behind one with a single scale, ONNX Runtime quantizes float weights by itself,
  with one scale for all channels (−4 dB on EfficientNet-Lite0, for one layer that was to stay in float).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import ModelFormatError
from edgecnn.export.graph import constant, insert_after_producer
from edgecnn.export.placement import (
    activations,
    bias_of,
    clip_bounds,
    is_anchor,
    is_mover,
    name_of,
    non_negative_values,
    reason_for_float,
    result_of,
    scale_source,
    weight_of,
)
from edgecnn.quantization import FROM_GRAPH, LEVELS, QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["check_table", "lower_int8"]

# Operators besides the anchors and movers that ONNX Runtime's CPU provider computes on 8-bit data.
_INTEGER_KERNELS = frozenset(
    {"Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid"}
)

# What boxes are decoded with: offsets in 8 bits cost 2 points of mAP.
_DECODING = frozenset({"Div", "Exp", "Pow", "Softmax", "Sub"})

# Whose float weights ONNX Runtime's optimizer quantizes behind a DequantizeLinear with one scale.
_WEIGHTS_QUANTIZED_BY_ITSELF = frozenset({"Conv", "ConvTranspose", "Gemm"})

_LARGEST_BIAS_STEPS = 2.0**30  # half of int32's range: the sum of products needs room too
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class _Grid:
    """real = (q - zero_point) · scale, q in 0 … 255."""

    scale: np.float32
    zero_point: int

    @property
    def largest(self) -> float:
        return float(self.scale) * (255 - self.zero_point)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What will be quantized.

    Attributes:
        grids: the tensors, in topological order.
        born_integer: those of them that come out of an integer kernel. The others are there in float too.
        integer_nodes: the nodes that ONNX Runtime will compute on 8-bit data.
    """

    grids: dict[ir.Value, _Grid]
    born_integer: set[ir.Value]
    integer_nodes: set[ir.Node]


def lower_int8(model: ir.Model, table: QuantizationTable) -> None:
    """Rewrite a float model in place; what the table does not cover stays in float.

    Raises:
        ModelFormatError: the table belongs to another model.
    """
    graph = model.graph
    check_table(graph, table)
    plan = _plan(graph, table)
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if is_anchor(node) and node not in plan.integer_nodes and reason_for_float(node, table) is None:
            _take_steps(graph, node, table)
        if source not in plan.grids:
            continue
        if node in plan.integer_nodes and is_anchor(node):
            _quantize_weights(graph, node, plan.grids[source], table)
        elif (
            node.op_type == "ConvTranspose"
            and reason_for_float(node, table) is None
            and _is_rounded(node.outputs[0], plan)
        ):
            _quantize_weights(graph, node, None, table)
    for value in plan.grids:
        _quantize_activation(graph, value, plan)
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)


def check_table(graph: ir.Graph, table: QuantizationTable) -> None:
    """All that the table names must be in the graph: otherwise layers would silently stay in float, or not.

    Raises:
        ModelFormatError: one is missing, or has other sides or weights than the table was made for.
    """
    names = {str(value.name) for value in activations(graph)}
    missing = sorted(table.activations.keys() - names)
    for name, entry in table.weights.items():
        weight = graph.initializers.get(name)
        if weight is None or weight.const_value is None or not entry.fits(weight.const_value.numpy()):
            missing.append(name)
    missing += sorted(table.kept_in_float.keys() - {name_of(node) for node in graph})
    if missing:
        raise ModelFormatError(
            "the quantization table belongs to another model",
            got=f"{len(missing)} tensors or layers that are not in the graph as they were, "
            f"such as {missing[0]}",
            remedy="Calibrate this model again",
        )


def _plan(graph: ir.Graph, table: QuantizationTable) -> _Plan:
    anchors = {node for node in graph if is_anchor(node) and _runs_on_integers(node, table)}
    needed = {node.inputs[0] for node in anchors}
    integer_nodes = set(anchors)
    non_negative = non_negative_values(graph)
    grids: dict[ir.Value, _Grid] = {}
    born_integer: set[ir.Value] = set()
    for value in activations(graph):
        source = scale_source(value)
        if source.name not in table.activations:
            continue
        producer = _operator(value)
        integer = producer in anchors and producer.op_type == "Conv"  # Gemm and MatMul give float as fast
        if producer is not None and not value.is_graph_output():
            if is_mover(producer):
                integer = producer.inputs[0] in grids
            elif producer.op_type in _INTEGER_KERNELS:
                integer = all(operand in grids for operand in producer.inputs)
        if integer or value in needed:
            entry = table.activations[str(source.name)]
            if source in non_negative and entry.method != FROM_GRAPH:
                grids[value] = _Grid(np.float32(entry.amax / 255), 0)
            else:
                grids[value] = _Grid(np.float32(entry.amax / LEVELS), 128)
        if integer and producer is not None:
            integer_nodes.add(producer)
            born_integer.add(value)
    return _Plan(grids, born_integer, integer_nodes)


def _runs_on_integers(node: ir.Node, table: QuantizationTable) -> bool:
    """Whether an anchor gets all that ONNX Runtime wants of an integer kernel."""
    if reason_for_float(node, table) is not None:
        return False
    if node.op_type != "Conv":
        return True
    result = result_of(node)
    readers = [use.node for use in result.uses()]
    only_floats = all(name_of(reader) in table.kept_in_float for reader in readers)
    to_be_quantized = result.name in table.activations and not result.is_graph_output()
    return to_be_quantized and not only_floats and not _is_decoded(result)


def _is_decoded(value: ir.Value) -> bool:
    """Whether boxes, distances or the like are made of a tensor, and no layer reads any of it.

    Behind a Softmax there are no layers: what looks like one, as in YOLO's distributions of distances, is
    arithmetic.
    """
    arithmetic, waiting, seen = False, [value], {value}
    while waiting:
        for use in waiting.pop().uses():
            node = use.node
            if is_anchor(node):
                return False
            arithmetic |= node.op_type in _DECODING
            if node.op_type != "Softmax":
                new = [output for output in node.outputs if output not in seen]
                seen.update(new)
                waiting += new
    return arithmetic


def _is_rounded(value: ir.Value, plan: _Plan) -> bool:
    """Whether a tensor, or what clamps make of it, is quantized, and nothing else reads it on the way."""
    while value not in plan.grids:
        readers = [use.node for use in value.uses()]
        if len(readers) != 1 or clip_bounds(readers[0]) is None:
            return False
        value = readers[0].outputs[0]
    return True


def _operator(value: ir.Value) -> ir.Node | None:
    """The node that makes a tensor; where that is a clamp, the node that the clamp is part of."""
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None:
        return node
    inner = node.inputs[0].producer()
    return inner if inner is not None and result_of(inner) is value else node


def _quantize_activation(graph: ir.Graph, value: ir.Value, plan: _Plan) -> None:
    import onnx_ir as ir

    name, grid = str(value.name), plan.grids[value]
    source, bounds = _before_clamp(value, plan)
    scale = constant(graph, f"{name}.scale", grid.scale)
    zero_point = constant(graph, f"{name}.zero_point", np.uint8(grid.zero_point))
    quantize = ir.node("QuantizeLinear", [source, scale, zero_point], name=f"{name}.quantize")
    quantized = quantize.outputs[0]
    quantized.name, quantized.shape, quantized.type = (
        f"{name}.q",
        value.shape,
        ir.TensorType(ir.DataType.UINT8),
    )
    nodes = [quantize]
    if bounds is not None:
        limits = [
            constant(graph, f"{name}.q.{end}", bound)
            for end, bound in zip(("low", "high"), bounds, strict=True)
        ]
        nodes.append(ir.node("Clip", [quantized, *limits], name=f"{name}.clamp"))
        clamped = nodes[-1].outputs[0]
        clamped.name, clamped.shape, clamped.type = f"{name}.q.clamped", value.shape, quantized.type
        quantized = clamped
    dequantize = ir.node("DequantizeLinear", [quantized, scale, zero_point], name=f"{name}.dequantize")
    nodes.append(dequantize)
    restored = dequantize.outputs[0]
    restored.name, restored.shape, restored.type = f"{name}.dq", value.shape, value.type
    by_channel: ir.Node | None = None
    for use in tuple(value.uses()):
        if use.node is quantize:
            continue
        if use.node in plan.integer_nodes:
            use.node.replace_input_with(use.idx, restored)
        elif value in plan.born_integer:
            if _has_float_weights(use.node) and (channels := _channels(value)) is not None:
                if by_channel is None:
                    by_channel = _dequantized_by_channel(graph, quantized, value, grid, channels)
                    nodes.append(by_channel)
                use.node.replace_input_with(use.idx, by_channel.outputs[0])
            else:
                use.node.replace_input_with(use.idx, restored)
    insert_after_producer(graph, source, *nodes)


def _has_float_weights(node: ir.Node) -> bool:
    return node.op_type in _WEIGHTS_QUANTIZED_BY_ITSELF and (
        node.inputs[1] is not None and node.inputs[1].const_value is not None
    )


def _channels(value: ir.Value) -> int | None:
    side = value.shape[1] if value.shape is not None and len(value.shape) > 1 else None
    return side if isinstance(side, int) else None


def _dequantized_by_channel(
    graph: ir.Graph, quantized: ir.Value, value: ir.Value, grid: _Grid, channels: int
) -> ir.Node:
    """A DequantizeLinear that computes what one with a single scale does, for readers with float weights."""
    import onnx_ir as ir

    name = f"{value.name}.by_channel"
    scales = constant(graph, f"{name}.scale", np.full(channels, grid.scale, np.float32))
    zero_points = constant(graph, f"{name}.zero_point", np.full(channels, grid.zero_point, np.uint8))
    node = ir.node(
        "DequantizeLinear", [quantized, scales, zero_points], {"axis": 1}, name=f"{name}.dequantize"
    )
    restored = node.outputs[0]
    restored.name, restored.shape, restored.type = f"{name}.dq", value.shape, value.type
    return node


def _before_clamp(value: ir.Value, plan: _Plan) -> tuple[ir.Value, NDArray[np.uint8] | None]:
    """The tensor to quantize, and the steps to clamp it to then.

    It is the one in front of a clamp where the grid saturates just where the clamp would; and where an
    integer kernel makes it, whose 8-bit output is then clamped: rounding and clamping commute.
    """
    clamp, grid = value.producer(), plan.grids[value]
    limits = None if clamp is None else clip_bounds(clamp)
    if clamp is None or clamp.inputs[0] is None or limits is None:
        return value, None
    # the relative margin is float32's: amax and the bound come by different routes
    if limits[0] == 0 and grid.zero_point == 0 and grid.largest <= limits[1] * (1 + 1e-6):
        return clamp.inputs[0], None
    if value not in plan.born_integer or grid.zero_point == 0:
        return value, None
    steps = np.rint(np.asarray(limits, np.float32) / grid.scale) + grid.zero_point
    return clamp.inputs[0], np.clip(steps, 0, 255).astype(np.uint8)


def _quantize_weights(graph: ir.Graph, node: ir.Node, grid: _Grid | None, table: QuantizationTable) -> None:
    """Put DequantizeLinear before a node's weights, and before its bias where the input's grid is given."""
    weight, bias = weight_of(node), bias_of(node)
    assert weight is not None  # it is covered
    assert weight.const_value is not None
    entry = table.weights[str(weight.name)]
    # Gemm's factors go into the constants: int32 bias steps leave no room for them.
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    if node.op_type == "Gemm":
        node.attributes.pop("alpha", None)
        node.attributes.pop("beta", None)
    values = entry.on_grid(weight.const_value.numpy()) * np.float32(alpha)
    scales = np.asarray(entry.scales) * abs(alpha)
    steps = np.zeros(scales.shape)
    if grid is not None:
        if bias is not None and bias.const_value is not None:
            offsets = table.bias(bias.name, bias.const_value.numpy())
            steps = np.broadcast_to(offsets.ravel() * beta, scales.shape)
        # A channel of tiny weights with a large bias: coarser weights, so that the bias fits into int32.
        smallest = np.maximum(np.abs(steps) / _LARGEST_BIAS_STEPS, _SMALLEST_SCALE) / float(grid.scale)
        scales = np.maximum(scales, smallest)
    scales = scales.astype(np.float32)
    sides = [1] * values.ndim
    sides[entry.axis] = -1
    quantized = np.clip(np.rint(values / scales.reshape(sides)), entry.lowest, LEVELS).astype(np.int8)
    node.replace_input_with(1, _dequantized(graph, node, weight, quantized, scales, entry.axis))
    if grid is not None and bias is not None:
        bias_scales = (grid.scale * scales).astype(np.float32)
        quantized_bias = np.rint(steps / bias_scales).astype(np.int32)
        node.replace_input_with(2, _dequantized(graph, node, bias, quantized_bias, bias_scales, 0))


def _take_steps(graph: ir.Graph, node: ir.Node, table: QuantizationTable) -> None:
    """Give a layer that runs in float the values of the table's steps, and its bias, if they were chosen."""
    weight, bias = weight_of(node), bias_of(node)
    assert weight is not None  # it is an anchor
    assert weight.const_value is not None
    entry, name = table.weights[str(weight.name)], str(node.outputs[0].name)
    if entry.moves is None:
        return
    values = entry.on_grid(weight.const_value.numpy()).astype(np.float32)
    node.replace_input_with(1, constant(graph, f"{weight.name}.{name}.on_grid", values))
    if bias is not None and bias.const_value is not None and bias.name in table.biases:
        moved = table.bias(bias.name, bias.const_value.numpy()).astype(np.float32)
        node.replace_input_with(2, constant(graph, f"{bias.name}.{name}.int8", moved))


def _dequantized(
    graph: ir.Graph,
    node: ir.Node,
    value: ir.Value,
    quantized: NDArray[Any],
    scales: NDArray[Any],
    axis: int,
) -> ir.Value:
    """The output of a DequantizeLinear with the constant behind it, placed before `node`."""
    import onnx_ir as ir

    inputs = [
        constant(graph, f"{value.name}.q", quantized),
        constant(graph, f"{value.name}.scale", scales),
        constant(graph, f"{value.name}.zero_point", np.zeros(scales.shape, quantized.dtype)),
    ]
    # Layers may share weights, and each gets a node of its own; its output's name is the one that is unique.
    name = f"{value.name}.{node.outputs[0].name}"
    dequantize = ir.node("DequantizeLinear", inputs, {"axis": axis}, name=f"{name}.dequantize")
    restored = dequantize.outputs[0]
    restored.name, restored.shape, restored.type = f"{name}.dq", ir.Shape(quantized.shape), value.type
    graph.insert_before(node, dequantize)
    return restored
