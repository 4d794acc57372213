"""INT8 for TensorRT: explicit symmetric Q/DQ, written where `tensorrt_placement` says.

TensorRT takes int8 with zero point 0 and positive scales only, per channel for weights. A scale has the type
of the float tensors around it. As FP16 it is rounded up, so that amax still fits, and the weights are
quantized with the scale that is in the graph, not with the one that was meant. Where a layer stays in FP32,
its scales are the table's own. Tensors that the table centres have a zero point until
`tensorrt_centring.fold_zero_points` takes it away, which leaves the numbers as they are.

Biases stay float: TensorRT refuses an int32 bias behind a DequantizeLinear, and a float one costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import BuildError
from edgecnn.export.graph import constant, insert_after_producer
from edgecnn.export.lowering.tensorrt_centring import ZERO_POINT
from edgecnn.export.lowering.tensorrt_placement import Plan, make_plan
from edgecnn.export.placement import bias_of, weight_of
from edgecnn.quantization import FROM_GRAPH_UINT8, LEVELS, QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Quantized", "half_scales", "quantize", "quantize_activations"]

_SMALLEST_FP16 = np.float16(2.0**-24)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What `quantize` did.

    Attributes:
        layers: how many layers read INT8 now.
        left_out: layer → why it does not.
        single_precision: the added nodes whose float side is FP32.
    """

    layers: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    single_precision: frozenset[ir.Node] = frozenset()


def quantize(
    graph: ir.Graph, table: QuantizationTable, keep: Collection[ir.Node], leave: Collection[str] = ()
) -> Quantized:
    """Add Q/DQ to a float graph in place.

    Args:
        graph: its tensors are still float32; what is added has the type that it will have in the end.
        table: ranges and weight scales.
        keep: the nodes that will compute in FP32; all others will in FP16.
        leave: names of layers that are not quantized.

    Raises:
        BuildError: the table has 255 steps from zero somewhere, which TensorRT has not.
    """
    unsigned = [name for name, entry in table.activations.items() if entry.method == FROM_GRAPH_UINT8]
    if unsigned:
        raise BuildError(
            "the model is quantized in uint8, which TensorRT does not take",
            got=f"{len(unsigned)} tensors, such as {unsigned[0]}",
            expected="int8 with zero point 0",
            remedy="Train or quantize it so; or take its ranges for the float model, with 254 steps: "
            "edgecnn calibrate FLOAT.onnx --ranges THIS.onnx",
        )
    plan = make_plan(graph, table, leave)
    added: set[ir.Node] = set()
    for value, uses in plan.readers.items():
        added |= _quantize_activation(graph, value, plan, uses, keep)
    for node in plan.layers:
        added |= _quantize_weights(graph, node, table, single=node in keep)
    return Quantized(layers=len(plan.layers), left_out=plan.left_out, single_precision=frozenset(added))


def quantize_activations(graph: ir.Graph, table: QuantizationTable, *, only: str | None = None) -> set[str]:
    """Add Q/DQ for activations only, or for one of them, with all else in FP32, to a float graph in place.

    Returns:
        The names of the outputs of the layers that read INT8.
    """
    everything = set(graph)
    plan = make_plan(graph, table)
    for value, uses in plan.readers.items():
        if only is None or value.name == only:
            _quantize_activation(graph, value, plan, uses, everything)
    return {str(node.outputs[0].name) for node in plan.layers}


def half_scales(scales: Any) -> NDArray[np.float16]:
    """Scales as FP16, rounded up, so that the range they stand for does not shrink; never zero."""
    exact = np.asarray(scales, np.float64)
    half = exact.astype(np.float16)
    half = np.where(half.astype(np.float64) < exact, np.nextafter(half, np.float16(np.inf)), half)
    positive: NDArray[np.float16] = np.maximum(half, _SMALLEST_FP16)
    return positive


def _quantize_activation(
    graph: ir.Graph,
    value: ir.Value,
    plan: Plan,
    uses: list[tuple[ir.Node, int]],
    keep: Collection[ir.Node],
) -> set[ir.Node]:
    """Put Q behind a tensor, and a DQ of each type that readers want. Returns the nodes that are FP32."""
    import onnx_ir as ir

    producer = value.producer()
    source_single = producer is None or producer in keep  # a network's input is float32: no cast is needed
    wanted = sorted({node in keep for node, _ in uses})  # FP16 first, under the plain name
    centred = value in plan.centred
    scale = plan.amax[value] / (LEVELS - ZERO_POINT if centred else LEVELS)
    number = np.float64(scale) if source_single and wanted == [True] else half_scales(scale)
    name = str(value.name)
    scales = {
        single: constant(graph, f"{name}.scale", number.astype(np.float32 if single else np.float16))
        for single in {source_single, *wanted}
    }
    zero_point = constant(graph, f"{name}.zero_point", np.int8(ZERO_POINT if centred else 0))
    quantize = ir.node("QuantizeLinear", [value, scales[source_single], zero_point], name=f"{name}.quantize")
    quantized = quantize.outputs[0]
    quantized.name, quantized.shape, quantized.type = (
        f"{name}.q",
        value.shape,
        ir.TensorType(ir.DataType.INT8),
    )
    nodes, singles = [quantize], {quantize} if source_single else set()
    for single in wanted:
        suffix = "" if single is wanted[0] else "_fp32"
        node = _dequantize([quantized, scales[single], zero_point], f"{name}.dq{suffix}", value.shape)
        nodes.append(node)
        if single:
            singles.add(node)
        for reader, index in uses:
            if (reader in keep) is single:
                reader.replace_input_with(index, node.outputs[0])
    insert_after_producer(graph, value, *nodes)
    return singles


def _quantize_weights(
    graph: ir.Graph, node: ir.Node, table: QuantizationTable, *, single: bool
) -> set[ir.Node]:
    """Put DQ before a layer's weights. Returns it if it is FP32."""
    import onnx_ir as ir

    weight, bias = weight_of(node), bias_of(node)
    assert weight is not None
    assert weight.const_value is not None
    entry = table.weights[str(weight.name)]
    # Gemm's factors go into the constants: beside them, TensorRT would not fuse.
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    if node.op_type == "Gemm":
        node.attributes.pop("alpha", None)
        node.attributes.pop("beta", None)
    if bias is not None and bias.const_value is not None and (beta != 1.0 or bias.name in table.biases):
        scaled = (table.bias(bias.name, bias.const_value.numpy()) * beta).astype(np.float32)
        node.replace_input_with(2, constant(graph, f"{bias.name}.int8", scaled))
    values = entry.on_grid(weight.const_value.numpy()) * alpha
    exact = np.maximum(np.asarray(entry.scales) * abs(alpha), np.finfo(np.float32).tiny)
    scales = exact.astype(np.float32) if single else half_scales(exact)
    sides = [1] * values.ndim
    sides[entry.axis] = -1
    steps = np.rint(values / scales.astype(np.float64).reshape(sides))
    quantized = np.clip(steps, entry.lowest, LEVELS).astype(np.int8)
    inputs = [
        constant(graph, f"{weight.name}.q", quantized),
        constant(graph, f"{weight.name}.scale", scales),
        constant(graph, f"{weight.name}.zero_point", np.zeros(scales.shape, np.int8)),
    ]
    # Layers may share weights, and each gets a node of its own; its output's name is the one that is unique.
    name = f"{weight.name}.{node.outputs[0].name}.dq"
    dequantize = _dequantize(inputs, name, ir.Shape(quantized.shape), axis=entry.axis)
    graph.insert_before(node, dequantize)
    node.replace_input_with(1, dequantize.outputs[0])
    return {dequantize} if single else set()


def _dequantize(
    inputs: list[ir.Value], name: str, shape: ir.Shape | None, *, axis: int | None = None
) -> ir.Node:
    """A DequantizeLinear whose output has the type of its scale."""
    import onnx_ir as ir

    attributes = {} if axis is None else {"axis": axis}
    node = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}.dequantize")
    result, scale_dtype = node.outputs[0], inputs[1].dtype
    assert scale_dtype is not None
    result.name, result.shape, result.type = name, shape, ir.TensorType(scale_dtype)
    return node
