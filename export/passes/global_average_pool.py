"""Write every average over the whole feature map as GlobalAveragePool.

PyTorch has four spellings: AdaptiveAvgPool2d(1), x.mean((2, 3)), x.mean(3).mean(2), and AvgPool2d with a
kernel as large as the map. They arrive as ReduceMean with or without the reduced axes, two ReduceMean in a
row, or AveragePool. Compilers and quantizers know GlobalAveragePool: it fuses, and it is not mistaken for a
reduction over channels.

    ReduceMean(axes = all but N and C, keepdims = 1)   →  GlobalAveragePool
    ReduceMean(axes = all but N and C, keepdims = 0)   →  GlobalAveragePool → Flatten
    ReduceMean(axis 3) → ReduceMean(axis 2)            →  as above: the mean of means of equal length
    AveragePool(kernel = whole map, no padding)        →  GlobalAveragePool
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["GlobalAveragePools"]


class GlobalAveragePools(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge means in a row, then replace what covers the map."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "ReduceMean":
                modified |= _merge_with_previous(model.graph, node)
        for node in tuple(model.graph):
            if node.op_type == "ReduceMean":
                modified |= _replace_mean(model.graph, node)
            elif node.op_type == "AveragePool" and _covers_map(node):
                _insert_pool(model.graph, node, _input(node), node.outputs[0])
                modified = True
        return ir.passes.PassResult(model, modified)


def _merge_with_previous(graph: ir.Graph, node: ir.Node) -> bool:
    """Two reductions, inner axis first, become one over both; only where nobody else reads the inner one."""
    inner = _input(node).producer()
    if (
        inner is None
        or inner.op_type != "ReduceMean"
        or len(_input(node).uses()) != 1
        or _input(node).is_graph_output()
    ):
        return False
    inner_axes, outer_axes = _axes(inner), _axes(node)
    rank = _rank(_input(inner))
    keep = _keeps(inner)
    if not inner_axes or not outer_axes or rank is None or keep != _keeps(node):
        return False
    if keep:
        axes = sorted({*inner_axes, *outer_axes})
    else:  # the outer axes count in the shape that the inner one left
        left = [axis for axis in range(rank) if axis not in inner_axes]
        axes = sorted({*inner_axes, *(left[axis] for axis in outer_axes)})
    spatial = list(range(2, rank))
    if axes != spatial:
        return False
    output = node.outputs[0]
    source = _input(inner)
    _insert_mean(graph, node, source, output, keep=keep)
    graph.remove(inner, safe=True)
    return True


def _replace_mean(graph: ir.Graph, node: ir.Node) -> bool:
    source = _input(node)
    rank = _rank(source)
    if rank is None or rank < 3 or _axes(node) != list(range(2, rank)):
        return False
    _insert_mean(graph, node, source, node.outputs[0], keep=_keeps(node))
    return True


def _insert_mean(graph: ir.Graph, node: ir.Node, source: ir.Value, output: ir.Value, *, keep: bool) -> None:
    if keep:
        _insert_pool(graph, node, source, output)
        return
    assert source.shape is not None  # its rank was looked at
    shape = ir.Shape([*source.shape[:2], *([1] * (len(source.shape) - 2))])
    pooled = ir.Value(name=f"{output.name}_pooled", shape=shape, type=source.type)
    flat = _like(output)
    pool = ir.node(
        "GlobalAveragePool", inputs=[source], outputs=[pooled], metadata_props=dict(node.metadata_props)
    )
    flatten = ir.node(
        "Flatten",
        inputs=[pooled],
        attributes={"axis": 1},
        outputs=[flat],
        metadata_props=dict(node.metadata_props),
    )
    ir.convenience.replace_nodes_and_values(graph, node, [node], [pool, flatten], [output], [flat])


def _insert_pool(graph: ir.Graph, node: ir.Node, source: ir.Value, output: ir.Value) -> None:
    pooled = _like(output)
    pool = ir.node(
        "GlobalAveragePool", inputs=[source], outputs=[pooled], metadata_props=dict(node.metadata_props)
    )
    ir.convenience.replace_nodes_and_values(graph, node, [node], [pool], [output], [pooled])


def _like(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, shape=value.shape, type=value.type)


def _covers_map(node: ir.Node) -> bool:
    """An AveragePool whose kernel is the whole map: one output pixel, nothing padded."""
    source = _input(node)
    kernel = list(node.attributes["kernel_shape"].as_ints())
    padding = node.attributes["pads"].as_ints() if "pads" in node.attributes else ()
    dilations = node.attributes["dilations"].as_ints() if "dilations" in node.attributes else ()
    how = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if (
        source.shape is None
        or any(padding)
        or any(step != 1 for step in dilations)
        or how not in ("NOTSET", "VALID")
    ):
        return False
    return list(source.shape[2:]) == kernel


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None  # the first input of these operators is required
    return value


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _keeps(node: ir.Node) -> bool:
    return node.attributes["keepdims"].as_int() == 1 if "keepdims" in node.attributes else True


def _axes(node: ir.Node) -> list[int] | None:
    """The reduced axes, counted from the front, sorted; None where they are unknown. They moved from an
    attribute to an input in opset 18.
    """
    rank = _rank(_input(node))
    if "axes" in node.attributes:
        axes = list(node.attributes["axes"].as_ints())
    elif len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        axes = [int(axis) for axis in node.inputs[1].const_value.numpy().ravel()]
    else:
        return None
    return None if rank is None else sorted(axis % rank for axis in axes)
