"""Give a layer that shares its weights a copy, where a batch norm behind it waits to be folded.

Detection heads run one convolution over several feature maps, with a batch norm of its own for each. No
batch norm can then be folded, since each would scale the shared weights. The copies cost file size, and
the batch norms would cost a pass over each feature map and several dB of INT8 accuracy.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["COPY_MARK", "UnshareWeights"]

COPY_MARK = "@"
"""Between the original's name and the copy's number: `head.conv.weight@1`."""

_LAYERS = ("Conv", "ConvTranspose", "Gemm")


class UnshareWeights(ir.passes.InPlacePass):
    """Copies weights and biases that are used elsewhere too, of layers that only a BatchNormalization reads.

    The original stays with the layers that have no batch norm, or else with the first layer.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """See the module's docstring."""
        layers = [layer for node in model.graph if (layer := _layer_before(node)) is not None]
        modified = False
        for layer in reversed(layers):  # from the end, so that the first one is left with the original
            for index in range(1, len(layer.inputs)):
                modified |= _unshare(model.graph, layer, index)
        return ir.passes.PassResult(model, modified)


def _layer_before(node: ir.Node) -> ir.Node | None:
    """The layer that a batch norm could be folded into, if nobody else reads it."""
    if node.op_type != "BatchNormalization" or node.inputs[0] is None or len(node.inputs[0].uses()) != 1:
        return None
    layer = node.inputs[0].producer()
    return layer if layer is not None and layer.op_type in _LAYERS else None


def _unshare(graph: ir.Graph, layer: ir.Node, index: int) -> bool:
    value = layer.inputs[index]
    if value is None or not value.is_initializer() or value.const_value is None or len(value.uses()) < 2:
        return False
    number = 1
    while f"{value.name}{COPY_MARK}{number}" in graph.initializers:
        number += 1
    name = f"{value.name}{COPY_MARK}{number}"
    copy = ir.Value(
        name=name,
        shape=value.shape,
        type=value.type,
        const_value=ir.tensor(value.const_value.numpy(), name=name),
    )
    graph.register_initializer(copy)
    layer.replace_input_with(index, copy)
    return True
