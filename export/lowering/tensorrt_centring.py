"""Twice as fine a grid for tensors that cannot be negative, out of nothing but zero points of 0.

The symmetric grid wastes half of its steps on a tensor that a clamp keeps from going below zero.
TensorRT takes no zero points – but where a convolution makes a tensor and only layers read it, the
zero point can be folded into constants. With x = y + c and c = amax / 2:

    the maker's bias becomes b − c, its clamp to [0, top] a clamp to [−c, top − c],
    and a reader's bias b + c · Σ W, with the weights W that it has in 8 bits.

y lies in [−c, c], so that its 254 steps cover what 127 steps covered before; c is 127 of them, so that
zero is represented exactly. A clamp is a clamp, whatever its bounds, so this costs nothing. (A Relu
would have to become a clamp, and not every fusion of the one need exist for the other: it stays.) An
average between the clamp and the quantization is moved by c as well, and so is what only moves values on
to a reader. A reader that pads is different: its padding is x = 0 and so must be y = −c, which only a
Pad in front of the quantization can say.

A graph has such tensors as Q/DQ with the zero point −127 until `fold_zero_points` rewrites it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.export.graph import constant
from edgecnn.export.placement import bias_of, clip_bounds, is_mover, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ZERO_POINT", "centred_tensors", "fold_zero_points", "padding"]

ZERO_POINT = -127
"""The step that stands for 0 in a centred tensor."""


def centred_tensors(
    marked: Collection[ir.Value],
    readers: Mapping[ir.Value, Collection[tuple[ir.Node, int]]],
    layers: Collection[ir.Node],
) -> set[ir.Value]:
    """Those of the marked tensors whose zero point can be folded, and what only moves their values.

    Args:
        marked: tensors of a float graph.
        readers: tensor → who reads its 8-bit form.
        layers: the nodes that will have 8-bit weights.
    """
    found: set[ir.Value] = set()
    for value in marked:
        clamp = _clamp_before(value, readers)
        maker = clamp.inputs[0].producer() if clamp is not None and clamp.inputs[0] is not None else None
        if maker is not None and weight_of(maker) is not None:
            found.update(_moved_on(value, readers, layers) or ())
    return found


def _clamp_before(value: ir.Value, stop: Collection[ir.Value] = ()) -> ir.Node | None:
    """The clamp from zero that made a tensor, or what it is the average of, for it alone; None without one.

    A tensor of `stop` on the way is not looked through.
    """
    node = value.producer()
    while node is not None and _averages(node) and node.inputs[0] not in stop:
        before = node.inputs[0]
        if before is None or not _has_one_reader(before):
            return None
        node = before.producer()
    bounds = None if node is None else clip_bounds(node)
    if node is None or node.op_type != "Clip" or bounds is None or bounds[0] != 0:
        return None
    before = node.inputs[0]
    maker = None if before is None else before.producer()
    if before is None or maker is None or not _has_one_reader(before):
        return None
    return node if maker.op_type == "Conv" else None


def _averages(node: ir.Node) -> bool:
    """Whether each number of the output is the mean of some of the input."""
    if node.op_type == "AveragePool":
        return not padding(node) or node.attributes.get_int("count_include_pad", 0) == 0
    return node.op_type in ("GlobalAveragePool", "ReduceMean")


def _has_one_reader(value: ir.Value) -> bool:
    return len(tuple(value.uses())) == 1 and not value.is_graph_output()


def _moved_on(
    value: ir.Value,
    readers: Mapping[ir.Value, Collection[tuple[ir.Node, int]]],
    layers: Collection[ir.Node],
) -> set[ir.Value] | None:
    """The tensor and all that have its values, up to the layers that read them; None where others do."""
    uses = set(readers.get(value, ()))
    if value.is_graph_output() or not uses or {(use.node, use.idx) for use in value.uses()} != uses:
        return None
    found = {value}
    if all(node in layers and index == 0 and _takes_a_bias(node) for node, index in uses):
        return found if len({padding(node) for node, _ in uses}) == 1 else None
    if len(uses) > 1 or not all(is_mover(node) for node, _ in uses):
        return None
    for result in (result for node, _ in uses for result in node.outputs):
        moved = _moved_on(result, readers, layers)
        if moved is None:
            return None
        found |= moved
    return found


def _takes_a_bias(node: ir.Node) -> bool:
    explicit = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return node.op_type == "Gemm" or (node.op_type == "Conv" and explicit)


def padding(node: ir.Node) -> tuple[int, ...]:
    """What a convolution or a pooling pads its input with, as ONNX writes it; empty where it does not."""
    attribute = node.attributes.get("pads")
    pads = () if attribute is None else tuple(int(side) for side in attribute.as_ints())
    return pads if any(pads) else ()


def fold_zero_points(graph: ir.Graph, keep: Collection[ir.Node] = ()) -> set[ir.Node]:
    """Rewrite Q/DQ with `ZERO_POINT` in place, such that the zero point becomes 0.

    Args:
        graph: as `tensorrt_int8.quantize` leaves it.
        keep: the nodes that will compute in FP32.

    Returns:
        The added nodes that compute in FP32.
    """
    singles: set[ir.Node] = set()
    for node in [node for node in graph if node.op_type == "QuantizeLinear"]:
        value, zero_point = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
        if value is None or zero_point is None or zero_point.const_value is None:
            continue
        if zero_point.const_value.numpy().size > 1 or zero_point.const_value.numpy() != ZERO_POINT:
            continue
        clamp, pad = value.producer(), _fold(graph, node)
        if pad is not None and clamp in keep:
            singles.add(pad)
    return singles


def _fold(graph: ir.Graph, quantize: ir.Node) -> ir.Node | None:
    """Take one tensor's zero point away. Returns the Pad that this needs, if it needs one."""
    value, scale = quantize.inputs[0], quantize.inputs[1]
    assert value is not None
    assert scale is not None
    assert scale.const_value is not None
    centre = float(scale.const_value.numpy()) * -ZERO_POINT
    zero = constant(graph, f"{value.name}.zero_point_0", np.int8(0))
    readers: list[ir.Node] = []
    for dequantize in [use.node for use in quantize.outputs[0].uses()]:
        dequantize.replace_input_with(2, zero)
        readers += [use.node for use in dequantize.outputs[0].uses()]
    quantize.replace_input_with(2, zero)
    clamp = _clamp_before(value)
    if clamp is not None:  # or it is moved values of another tensor, whose maker is dealt with
        _move_clamp(graph, clamp, centre)
    readers = [node for node in readers if not is_mover(node)]
    for reader in readers:
        _move_bias(graph, reader, centre * _sums(reader))
    pads = padding(readers[0]) if readers else ()
    if not pads:
        return None
    for reader in readers:
        reader.attributes.pop("pads")
    return _pad(graph, value, quantize, pads, -centre)


def _move_clamp(graph: ir.Graph, clamp: ir.Node, centre: float) -> None:
    maker = clamp.inputs[0].producer() if clamp.inputs[0] is not None else None
    assert maker is not None
    _move_bias(graph, maker, np.float64(-centre))
    low, high = clip_bounds(clamp) or (0.0, math.inf)
    bounds = [low - centre] + ([high - centre] if high < math.inf else [])
    for index, bound in enumerate(bounds, start=1):
        name = f"{clamp.outputs[0].name}.bound{index}"
        clamp.replace_input_with(index, constant(graph, name, np.float32(bound)))


def _pad(graph: ir.Graph, value: ir.Value, quantize: ir.Node, pads: tuple[int, ...], fill: float) -> ir.Node:
    import onnx_ir as ir

    rank = len(pads) // 2
    sides = np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64)
    number = constant(graph, f"{value.name}.padding", np.float32(fill))
    node = ir.node(
        "Pad", [value, constant(graph, f"{value.name}.pads", sides), number], name=f"{value.name}.pad"
    )
    padded = node.outputs[0]
    padded.name, padded.type = f"{value.name}.padded", value.type
    if value.shape is not None:
        spatial = zip(list(value.shape)[2:], pads[:rank], pads[rank:], strict=True)
        padded.shape = ir.Shape(
            [
                *list(value.shape)[:2],
                *(side + begin + end if isinstance(side, int) else None for side, begin, end in spatial),
            ]
        )
    graph.insert_before(quantize, node)
    quantize.replace_input_with(0, padded)
    for place in (quantize.outputs[0], *(use.node.outputs[0] for use in quantize.outputs[0].uses())):
        place.shape = padded.shape
    return node


def _sums(node: ir.Node) -> NDArray[np.float64]:
    """The sum of the 8-bit weights of each output."""
    weight = node.inputs[1]
    dequantize = None if weight is None else weight.producer()
    assert dequantize is not None
    assert dequantize.op_type == "DequantizeLinear"
    steps, scales = (
        value.const_value.numpy() for value in dequantize.inputs[:2] if value and value.const_value
    )
    axis = dequantize.attributes.get_int("axis", 1)
    others = tuple(index for index in range(steps.ndim) if index != axis)
    result: NDArray[np.float64] = steps.astype(np.float64).sum(axis=others) * scales.astype(np.float64)
    return result


def _move_bias(graph: ir.Graph, node: ir.Node, offsets: Any) -> None:
    bias, weight = bias_of(node), node.inputs[1]
    assert weight is not None
    if bias is not None and bias.const_value is not None:
        moved = bias.const_value.numpy().astype(np.float64) + offsets
    else:
        node.resize_inputs(3)
        outputs = weight.shape[0] if weight.shape is not None else None
        moved = np.broadcast_to(offsets, np.shape(offsets) or (outputs if isinstance(outputs, int) else 1,))
    name = str(node.outputs[0].name)
    node.replace_input_with(2, constant(graph, f"{name}.centred_bias", moved.astype(np.float32)))
