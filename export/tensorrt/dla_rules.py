"""Which nodes a DLA leaves to the GPU, by NVIDIA's published list: for people who have no DLA at hand.

Where there is one, TensorRT itself is asked (`can_run_on_DLA`). The rules here follow "DLA Supported Layers
and Restrictions" of TensorRT's documentation for Jetson (Orin), as far as CNNs need them. They are an
estimate: a DLA also refuses combinations that are too large for its memory, which no list tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgecnn.export.placement import clip_bounds

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["left_to_gpu"]

_LARGEST_SIDE = 8192


def left_to_gpu(graph: ir.Graph) -> dict[str, str]:
    """Node → why a DLA does not do it. Shapes of tensors must be inferred."""
    found: dict[str, str] = {}
    for node in graph:
        if all(value is None or value.const_value is not None for value in node.inputs):
            continue  # it is computed while building
        reason = _reason(node)
        if reason is not None:
            found[str(node.name or node.outputs[0].name)] = reason
    return found


def _reason(node: ir.Node) -> str | None:
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        return f"NVIDIA's list has no {node.op_type}"
    for value in (*node.inputs, *node.outputs):
        if value is None or value.const_value is not None:
            continue
        sides = _sides(value)
        if sides is None:
            return f"the shape of {value.name} is not fixed"
        if len(sides) != 4:
            return f"{value.name} has {len(sides)} axes, and a DLA takes four"
        if max(sides[1:]) > _LARGEST_SIDE:
            return f"a side of {value.name} is longer than {_LARGEST_SIDE}"
    return rule(node)


def _sides(value: ir.Value) -> list[int] | None:
    if value.shape is None or not all(isinstance(side, int) for side in value.shape):
        return None
    return [int(side) for side in value.shape if isinstance(side, int)]


def _ints(node: ir.Node, name: str, default: Sequence[int] = ()) -> Sequence[int]:
    return node.attributes.get_ints(name, default) or ()


def _within(what: str, numbers: Sequence[int], low: int, high: int) -> str | None:
    outside = [number for number in numbers if not low <= number <= high]
    return f"{what} {outside[0]}, and a DLA takes {low} to {high}" if outside else None


def _always(node: ir.Node) -> str | None:
    return None


def _convolution(node: ir.Node) -> str | None:
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return "its weights are computed"
    kernel = list(weight.const_value.shape)[2:]
    sizes: list[int] = [int(side) for side in kernel if isinstance(side, int)]
    return (
        _within("kernel", sizes, 1, 32)
        or _within("stride", _ints(node, "strides"), 1, 8)
        or _within("padding", _ints(node, "pads"), 0, min(31, *(size - 1 for size in sizes)) if sizes else 31)
        or _within("dilation", _ints(node, "dilations"), 1, 32)
    )


def _deconvolution(node: ir.Node) -> str | None:
    if node.attributes.get_int("group", 1) != 1:
        return "it has groups"
    return (
        _within("padding", [*_ints(node, "pads"), *_ints(node, "output_padding")], 0, 0)
        or _within("dilation", _ints(node, "dilations"), 1, 1)
        or _convolution(node)
    )


def _pooling(node: ir.Node) -> str | None:
    return (
        _within("window", _ints(node, "kernel_shape"), 1, 8)
        or _within("stride", _ints(node, "strides"), 1, 16)
        or _within("padding", _ints(node, "pads"), 0, 7)
        or _within("dilation", _ints(node, "dilations"), 1, 1)
    )


def _global_pooling(node: ir.Node) -> str | None:
    sides = _sides(node.inputs[0]) if node.inputs[0] is not None else None
    return _within("window", (sides or [0, 0, 0, 0])[2:], 1, 8)


def _clip(node: ir.Node) -> str | None:
    bounds = clip_bounds(node)
    if bounds is None or bounds[0] != 0 or not 1 <= bounds[1] <= 127:
        return "a DLA clips from 0 to a bound between 1 and 127"
    return None


def _concat(node: ir.Node) -> str | None:
    return (
        None if node.attributes.get_int("axis", 0) in (1, -3) else "it joins another axis than the channels"
    )


def _resize(node: ir.Node) -> str | None:
    before, after = (_sides(value) for value in (node.inputs[0], node.outputs[0]) if value is not None)
    assert before is not None
    assert after is not None
    largest = {"nearest": 32, "linear": 4}.get(node.attributes.get_string("mode", "nearest") or "", 0)
    whole = all(new % old == 0 and 1 <= new // old <= largest for old, new in zip(before, after, strict=True))
    if before[:2] != after[:2] or not whole:
        return "a DLA resizes by whole factors, up to 32 to the nearest and up to 4 linearly"
    return None


def _softmax(node: ir.Node) -> str | None:
    sides = _sides(node.outputs[0])
    axis = node.attributes.get_int("axis", -1) or 0
    return _within("axis of length", [sides[axis]] if sides else [], 1, 1024)


_RULES: dict[str, Callable[[Any], str | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _deconvolution,
    "MaxPool": _pooling,
    "AveragePool": _pooling,
    "GlobalAveragePool": _global_pooling,
    "GlobalMaxPool": _global_pooling,
    "Clip": _clip,
    "Concat": _concat,
    "Resize": _resize,
    "Softmax": _softmax,
    **dict.fromkeys(
        (
            "Abs", "Add", "BatchNormalization", "Div", "Identity", "LeakyRelu", "Max", "Min", "Mul", "PRelu",
            "Pow", "ReduceMax", "Relu", "Reshape", "Sigmoid", "Slice", "Split", "Sub", "Tanh", "Transpose",
        ),
        _always,
    ),
}  # fmt: skip
