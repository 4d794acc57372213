"""Which nodes FP16 would ruin, and why.

FP16 holds magnitudes from 6.1e-5 (below that it loses digits) to 65504, with 11 bits. So these stay in FP32:

1. Exponentials, sums, statistics: the operators that `fp16` keeps, square roots, and squares.
2. What makes or reads a tensor whose observed range does not fit, and averages over so many numbers that
   their sum may not. The observed range comes from the calibration table or from frames; without either only
   constants can be judged. A tensor in front of a clamp need not fit: what becomes infinite is clamped.
   Sums inside convolutions and matrix products are taken as FP32, as TensorRT computes them.
3. A layer that reads a Softmax: the expectation over a distribution, of which a detector's box edges are
   made. Small terms matter there, and 8 bits lose them, so it is not quantized either.
4. Box decoding: such an expectation or arithmetic with positions (grids, anchors, strides) behind the last
   layer with weights, and all that follows. A pixel coordinate of 640 has a step of half a pixel in FP16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.export.lowering.fp16 import LARGEST_FP16, stays_in_fp32
from edgecnn.export.placement import activations, clip_bounds, result_of, scale_source, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SMALLEST_NORMAL_FP16", "Ranges", "is_expectation", "nodes_for_fp32"]

SMALLEST_NORMAL_FP16 = 2.0**-14
"""Below this, FP16 has fewer than 11 bits."""

_HEADROOM = 2.0
"""What calibration saw may be exceeded by as much on other frames."""

_ROOTS = frozenset({"Reciprocal", "Sqrt"})
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})


Ranges = Mapping[str, tuple[float, float]]
"""Tensor → the smallest and the largest value that was observed of it."""


def nodes_for_fp32(graph: ir.Graph, ranges: Ranges | None) -> dict[ir.Node, str]:
    """The nodes that must compute in FP32 → why. The first reason that applies is given."""
    found: dict[ir.Node, str] = {}
    for node in graph:
        reason = _by_operator(node) or _by_constants(node)
        if reason is not None:
            found[node] = reason
    for node in _decoding(graph):
        found.setdefault(node, "box decoding: FP16 has too few digits for pixel coordinates")
    if ranges is not None:
        for node, reason in (*_by_ranges(graph, ranges), *_by_sums(graph, ranges)):
            found.setdefault(node, reason)
    return found


def is_expectation(node: ir.Node) -> bool:
    """Whether a layer with constant weights reads a Softmax, or moved values of one."""
    if weight_of(node) is None or node.inputs[0] is None:
        return False
    producer = scale_source(node.inputs[0]).producer()
    return producer is not None and producer.op_type == "Softmax"


def _by_operator(node: ir.Node) -> str | None:
    if is_expectation(node):
        return "it sums over a Softmax, whose small terms matter"
    if node.op_type in _ROOTS:
        return f"{node.op_type} belongs to the statistics of a normalization"
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return "squares leave FP16's range"
    if stays_in_fp32(node) and not _constants(node, above=LARGEST_FP16):
        return f"{node.op_type} loses its small terms, or overflows, in FP16"
    return None


def _by_constants(node: ir.Node) -> str | None:
    # A Clip's bound that is too large becomes infinite, which bounds as little.
    if node.op_type != "Clip":
        for value, amax in _constants(node, above=LARGEST_FP16):
            return f"its constant {value.name} reaches {amax:.3g}, beyond FP16's 65504"
    for value, amax in _constants(node, below=SMALLEST_NORMAL_FP16):
        # A bias that small is nothing beside what it is added to, unless the range of the sum says so.
        if weight_of(node) is None or value is node.inputs[1]:
            return f"its constant {value.name} is at most {amax:.3g}, which FP16 cannot hold"
    return None


def _constants(
    node: ir.Node, *, above: float = 0.0, below: float = float("inf")
) -> list[tuple[ir.Value, float]]:
    """The float constants that a node reads, with their largest magnitude, if it is not 0 and within."""
    found = []
    for value in node.inputs:
        if value is None or value.const_value is None:
            continue
        array = value.const_value.numpy()
        if array.dtype == np.float32 and array.size:
            amax = float(np.abs(array).max())
            if above < amax < below:
                found.append((value, amax))
    return found


def _by_ranges(graph: ir.Graph, ranges: Ranges) -> Iterator[tuple[ir.Node, str]]:
    """What makes and what reads each tensor whose observed range FP16 cannot hold."""
    for value in activations(graph):
        low, high = _range_of(value, ranges)
        amax = max(-low, high)
        if amax > LARGEST_FP16 / _HEADROOM:
            reason = f"{value.name} reaches {amax:.3g}: FP16 ends at 65504"
        elif 0 < amax < SMALLEST_NORMAL_FP16:
            reason = f"{value.name} stays below {amax:.3g}: FP16 loses its digits below 6.1e-05"
        else:
            continue
        producer = value.producer()
        if producer is not None:
            yield producer, reason
            inner = producer.inputs[0].producer() if clip_bounds(producer) and producer.inputs[0] else None
            if inner is not None and result_of(inner) is value:  # the clamp is part of the operator before it
                yield inner, reason
        for use in value.uses():
            yield use.node, reason


def _by_sums(graph: ir.Graph, ranges: Ranges) -> Iterator[tuple[ir.Node, str]]:
    """Averages whose sum may leave FP16's range on the way, though their result does not.

    Of N numbers x with mean m, no partial sum exceeds N · max |x|, nor N · (|m| + max(−x)): the positive
    ones are what the mean takes and what makes up for the negative ones.
    """
    for node in graph:
        count = _averaged(node)
        if count is None or node.inputs[0] is None:
            continue
        low, high = _range_of(node.inputs[0], ranges)
        mean = max(abs(side) for side in _range_of(node.outputs[0], ranges))
        total = count * min(max(-low, high), mean + max(-low, 0.0))
        if total > LARGEST_FP16 / _HEADROOM:
            yield node, f"its sum over {count} values may reach {total:.3g}: FP16 ends at 65504"


def _averaged(node: ir.Node) -> int | None:
    """Over how many values an average goes; None for other operators and free sides."""
    if node.op_type == "AveragePool":
        return math.prod(int(side) for side in node.attributes.get_ints("kernel_shape", ()) or ())
    if node.op_type != "GlobalAveragePool" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    sides = [side for side in tuple(node.inputs[0].shape)[2:] if isinstance(side, int)]
    return math.prod(sides) if len(sides) == len(node.inputs[0].shape) - 2 else None


def _range_of(value: ir.Value, ranges: Ranges) -> tuple[float, float]:
    return ranges.get(str(scale_source(value).name), (0.0, 0.0))


def _decoding(graph: ir.Graph) -> list[ir.Node]:
    """Expectations and arithmetic with positions that no layer with weights follows, and all behind them."""
    before_layers: set[ir.Node] = set()
    for node in reversed(list(graph)):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if any(
            reader in before_layers or (weight_of(reader) is not None and not is_expectation(reader))
            for reader in readers
        ):
            before_layers.add(node)
    found: list[ir.Node] = []
    tainted: set[ir.Value] = set()
    for node in graph:
        if node in before_layers or (weight_of(node) is not None and not is_expectation(node)):
            continue
        seed = is_expectation(node) or (
            node.op_type in _ARITHMETIC and any(_is_positional(value) for value in node.inputs)
        )
        if seed or any(value in tainted for value in node.inputs):
            found.append(node)
            tainted.update(node.outputs)
    return found


def _is_positional(value: ir.Value | None) -> bool:
    """A constant that differs from place to place; one number a channel, (C, 1, 1), does not."""
    if value is None or value.const_value is None:
        return False
    sides = value.const_value.numpy().shape
    return math.prod(sides) > 1 and not (len(sides) >= 3 and sides[-2:] == (1, 1))
