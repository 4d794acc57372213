"""Give a Resize its scales instead of its sizes, which contain the batch.

`interpolate(x, size=(h, w))` becomes a Resize to `[N, C, h, w]`. With a free batch, N is asked of the tensor
at run time (Shape → Slice → Concat), and with a fixed one it is written into the graph. Scales say the same
without it:  `[1, 1, h / H, w / W]`.

ONNX gives a side of floor(scale · H). Where the nearest float32 to h / H would end just below h, the next
one up is taken, unless the mode is `nearest`: there one bit can choose another pixel, and the Resize stays.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

__all__ = ["ResizeByScales"]


class ResizeByScales(ir.passes.InPlacePass):
    """See the module's docstring; for sides that are known and a batch and channels that stay as they are."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Leaves what computed the sizes to others."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "Resize" and len(node.inputs) == 4 and node.inputs[3] is not None:
                modified |= _rewrite(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is None or "axes" in node.attributes:
        return False
    if "keep_aspect_ratio_policy" in node.attributes:
        policy = node.attributes["keep_aspect_ratio_policy"].as_string()
        if policy != "stretch":
            return False
    same = list(source.shape[:2]) == list(output.shape[:2]) or _copies_leading_sides(node.inputs[3], source)
    if len(source.shape) != len(output.shape) or not same:
        return False
    nearest = "mode" not in node.attributes or node.attributes["mode"].as_string() == "nearest"
    scales = [1.0, 1.0]
    for old, new in zip(source.shape[2:], output.shape[2:], strict=True):
        scale = _scale(old, new, exact=nearest) if isinstance(old, int) and isinstance(new, int) else None
        if scale is None:
            return False
        scales.append(scale)
    tensor = ir.tensor(np.array(scales, np.float32), name=f"{output.name}_scales")
    shape, kind = ir.Shape([len(scales)]), ir.TensorType(tensor.dtype)
    value = ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    node.replace_input_with(2, value)
    node.resize_inputs(3)
    return True


def _copies_leading_sides(sizes: ir.Value | None, source: ir.Value) -> bool:
    """Whether `sizes` is Concat(Slice(Shape(source), 0, 2), h, w), unseen by shape inference."""
    concat = _producer(sizes, "Concat")
    cut = _producer(concat.inputs[0], "Slice") if concat is not None else None
    question = _producer(cut.inputs[0], "Shape") if cut is not None else None
    if concat is None or cut is None or question is None or question.attributes:
        return False
    bounds = [_constant(value) for value in cut.inputs[1:3]]
    rest = [_constant(value) for value in concat.inputs[1:]]
    return question.inputs[0] is source and bounds == [[0], [2]] and None not in rest


def _producer(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def _constant(value: ir.Value | None) -> list[int] | None:
    return value.const_value.numpy().tolist() if value is not None and value.const_value is not None else None


def _scale(old: int, new: int, *, exact: bool) -> float | None:
    """The nearest float32 to new / old with floor(scale · old) = new; with `exact`, that one or None."""
    scale = np.float32(new) / np.float32(old)
    if _reaches(scale, old, new):
        return float(scale)
    above = np.nextafter(scale, np.float32(np.inf))
    return float(above) if not exact and _reaches(above, old, new) else None


def _reaches(scale: np.float32, old: int, new: int) -> bool:
    """ONNX Runtime multiplies in float32, onnx's shape inference in double precision."""
    return bool(math.floor(scale * np.float32(old)) == new == math.floor(float(scale) * old))
