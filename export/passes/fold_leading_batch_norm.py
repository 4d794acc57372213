"""Fold a batch norm into the convolution or fully connected layer that reads it.

A batch norm at inference is y = s·x + t per channel, with s = γ / sqrt(σ² + ε) and t = β − μ·s. Then

    W ∗ (s·x + t) + b  =  (W·s) ∗ x + (b + Σ W·t)

over the input channels and the kernel. That holds only without padding: a padded zero stands for y = 0,
which no x gives where t ≠ 0. So: Conv with no padding, and Gemm.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["FoldLeadingBatchNorm"]


class FoldLeadingBatchNorm(ir.passes.InPlacePass):
    """BatchNormalization → Conv (unpadded) or Gemm becomes the Conv or Gemm alone."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """See the module's docstring."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "BatchNormalization":
                modified |= _fold(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _fold(graph: ir.Graph, norm: ir.Node) -> bool:
    output, source = norm.outputs[0], norm.inputs[0]
    uses = tuple(output.uses())
    if source is None or len(uses) != 1 or uses[0].idx != 0 or output.is_graph_output():
        return False
    layer = uses[0].node
    constants = [_constant(value) for value in (*norm.inputs[1:], *layer.inputs[1:])]
    if not _foldable(layer) or any(array is None for array in constants):
        return False
    gamma, beta, mean, variance, weight, *rest = [array for array in constants if array is not None]
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    scale = gamma / np.sqrt(variance + epsilon)
    shift = beta - mean * scale
    if layer.op_type == "Gemm":
        folded, offset = _gemm(weight, scale, shift, transposed=_integer(layer, "transB", 0) == 1)
    else:
        folded, offset = _convolution(weight, scale, shift, groups=_integer(layer, "group", 1))
    bias = offset + (rest[0] if rest else 0.0)

    weight_name = str(layer.inputs[1].name)  # type: ignore[union-attr]  # it is a constant
    bias_name = str(layer.inputs[2].name) if rest else f"{weight_name}_bias"  # type: ignore[union-attr]
    layer.resize_inputs(3)
    layer.replace_input_with(0, source)
    for index, name, array in ((1, weight_name, folded), (2, bias_name, bias)):
        graph.initializers.pop(name, None)  # nobody else uses it, see _constant
        layer.replace_input_with(index, _initializer(graph, name, array))
    graph.remove(norm, safe=True)
    return True


def _foldable(layer: ir.Node) -> bool:
    if layer.op_type == "Gemm":
        plain = all(
            layer.attributes[name].as_float() == 1.0 for name in ("alpha", "beta") if name in layer.attributes
        )
        return plain and _integer(layer, "transA", 0) == 0
    if layer.op_type != "Conv":
        return False
    padding = layer.attributes["pads"].as_ints() if "pads" in layer.attributes else ()
    how = layer.attributes["auto_pad"].as_string() if "auto_pad" in layer.attributes else "NOTSET"
    return not any(padding) and how in ("NOTSET", "VALID")


def _convolution(
    weight: NDArray[np.float64], scale: NDArray[np.float64], shift: NDArray[np.float64], *, groups: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (M, C / groups, *kernel); output channel m reads the channels of group m · groups / M."""
    outputs, inputs = weight.shape[:2]
    group = np.arange(outputs) * groups // outputs
    channels = group[:, None] * inputs + np.arange(
        inputs
    )  # (M, C / groups): the input channel of each weight
    ones = (1,) * (weight.ndim - 2)
    folded = weight * scale[channels].reshape(outputs, inputs, *ones)
    offset = (weight * shift[channels].reshape(outputs, inputs, *ones)).reshape(outputs, -1).sum(axis=1)
    return folded, offset


def _gemm(
    weight: NDArray[np.float64], scale: NDArray[np.float64], shift: NDArray[np.float64], *, transposed: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (outputs, inputs) if transposed, otherwise (inputs, outputs)."""
    if transposed:
        return weight * scale, weight @ shift
    return weight * scale[:, None], shift @ weight


def _constant(value: ir.Value | None) -> NDArray[np.float64] | None:
    """A float constant that only one node uses and no graph input overrides, in double precision."""
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return None
    if value.const_value.dtype != ir.DataType.FLOAT or len(value.uses()) != 1:
        return None
    return value.const_value.numpy().astype(np.float64)


def _initializer(graph: ir.Graph, name: str, array: NDArray[np.float64]) -> ir.Value:
    tensor = ir.tensor(array.astype(np.float32), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _integer(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default
