"""Move a batch norm behind a Concat of convolutions to the convolutions, where it can be folded.

    BN(Concat(Conv₁(x₁), Conv₂(x₂), …))  =  Concat(BN₁(Conv₁(x₁)), BN₂(Conv₂(x₂)), …)

along the channels, since a batch norm treats each channel by itself. MixNet's layers of several kernel
sizes are built like this.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["SplitBatchNorms"]

_LAYERS = ("Conv", "ConvTranspose")


class SplitBatchNorms(ir.passes.InPlacePass):
    """See the module's docstring; only where every part is a convolution that nobody else reads."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Leaves the BatchNormalizations, for the pass that folds them."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "BatchNormalization":
                modified |= _split(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _split(graph: ir.Graph, norm: ir.Node) -> bool:
    joined = norm.inputs[0]
    concat = joined.producer() if joined is not None else None
    if joined is None or concat is None or concat.op_type != "Concat" or len(joined.uses()) != 1:
        return False
    parts = [part for part in concat.inputs if part is not None]
    constants = [value.const_value for value in norm.inputs[1:] if value is not None]
    widths = [part.shape[1] for part in parts if _is_layer(part) and part.shape is not None]
    known = [width for width in widths if isinstance(width, int)]
    if (
        concat.attributes["axis"].as_int() != 1
        or len(known) != len(parts)
        or any(c is None for c in constants)
    ):
        return False
    bounds = np.cumsum([0, *known])
    for index, part in enumerate(parts):
        values = []
        for role, constant in zip(("scale", "bias", "mean", "variance"), constants, strict=True):
            assert constant is not None  # looked at above
            tensor = ir.tensor(
                constant.numpy()[bounds[index] : bounds[index + 1]], name=f"{norm.name}/{index}.{role}"
            )
            value = ir.Value(
                name=tensor.name,
                shape=ir.Shape(tensor.numpy().shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            graph.register_initializer(value)
            values.append(value)
        output = ir.Value(name=f"{norm.outputs[0].name}/{index}", shape=part.shape, type=part.type)
        piece = ir.node(
            "BatchNormalization",
            inputs=[part, *values],
            attributes=dict(norm.attributes),
            outputs=[output],
            name=f"{norm.name}/{index}",
            metadata_props=dict(norm.metadata_props),
        )
        graph.insert_before(concat, piece)
        concat.replace_input_with(index, output)
    ir.convenience.replace_nodes_and_values(graph, norm, [norm], [], [norm.outputs[0]], [joined])
    return True


def _is_layer(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type in _LAYERS and len(value.uses()) == 1
