"""Write the batch size into no Reshape.

A module traced with one image says `view(1, 512)`. The batch of the file can then not be changed later by
anyone. Where a Reshape leaves the leading side as it is, each image is reshaped by itself, so it can say so:

    (N, …) → (N, K)             Flatten(axis = 1)
    (N, …) → (N, a, b, …)       Reshape to [0, a, b, …], where 0 copies the input's side
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["BatchFreeReshapes"]


class BatchFreeReshapes(ir.passes.InPlacePass):
    """See the module's docstring."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Look at each Reshape by itself."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "Reshape":
                modified |= _rewrite(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _rewrite(graph: ir.Graph, node: ir.Node) -> bool:
    source, target, output = node.inputs[0], node.inputs[1], node.outputs[0]
    if (
        source is None
        or source.shape is None
        or output.shape is None
        or target is None
        or len(output.shape) < 2
    ):
        return False
    if len(source.shape) < 2 or source.shape[0] != output.shape[0]:
        return False
    if len(output.shape) == 2:
        flat = ir.Value(name=output.name, shape=output.shape, type=output.type)
        flatten = ir.node(
            "Flatten",
            inputs=[source],
            attributes={"axis": 1},
            outputs=[flat],
            metadata_props=dict(node.metadata_props),
        )
        ir.convenience.replace_nodes_and_values(graph, node, [node], [flatten], [output], [flat])
        return True
    if target.const_value is None:
        return False
    sides = target.const_value.numpy().astype(np.int64)
    keeps_zeros = "allowzero" in node.attributes and node.attributes["allowzero"].as_int() == 1
    if keeps_zeros and (sides == 0).any():  # an empty tensor: leave it alone
        return False
    node.attributes.pop("allowzero", None)
    if sides[0] <= 0:  # copied or inferred already
        return keeps_zeros
    sides = sides.copy()
    sides[0] = 0
    tensor = ir.tensor(sides, name=f"{output.name}_shape")
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(sides.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    node.replace_input_with(1, value)
    return True
