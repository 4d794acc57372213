"""Models that are quantized already: Q/DQ in the graph → the float graph and the table that say the same.

Quantization-aware training ends in a graph with QuantizeLinear and DequantizeLinear around its layers, and so
do other tools for post-training quantization. Here these nodes are taken out, and what they said becomes a
`QuantizationTable`; from there on such a model is like any other that was calibrated. Exact are:

- weights of int8, or of uint8 around a zero point that leaves room, and float weights behind Q/DQ: the float
  weights become the rounded ones, and the table has their scales. One scale for all channels becomes the same
  one for each. A batch norm behind a layer goes into its scales, so its steps stay;
- activations of int8 with zero point 0, and of uint8 with zero point 128, which is the same grid;
- activations of uint8 with zero point 0 (int8 with -128), for ONNX Runtime: the grid of
  `Clip(x, 0, 255 · scale)`, which is written where the graph does not clamp by itself, since tools leave an
  activation function to such a grid. TensorRT has 127 steps there, so for it they are refused;
- biases and other constants behind DequantizeLinear: their values;
- what only moves values while they have 8 bits, and Q/DQ before a ReLU instead of behind it.

What cannot be kept is refused in words, or, where only the ranges are wanted, written down as a note.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.errors import BuildError
from edgecnn.export.graph import constant, insert_after_producer, load_graph
from edgecnn.export.placement import clamp_after, is_mover, non_negative_values, scale_source
from edgecnn.export.qdq_constants import LayerWeights, fold_batch_norms, take_constants
from edgecnn.export.qdq_grid import (
    DEQUANTIZE,
    QUANTIZE,
    REMEDY,
    data_name,
    read_grid,
    refusal,
    same_grid,
    several,
)
from edgecnn.metadata import BUILD_KEY, QUANTIZATION_KEY
from edgecnn.quantization import (
    FROM_GRAPH,
    FROM_GRAPH_UINT8,
    LEVELS,
    ActivationRange,
    QuantizationTable,
    WeightScales,
)

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["load_float_graph", "quantized_operators", "take_quantization"]

_INTEGER_WORDS = ("quantizelinear", "qlinear", "integer")


def load_float_graph(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX file as `load_graph` does; Q/DQ in it become the quantization table of a float model.

    Raises:
        BuildError: it is quantized in a way that cannot be kept.
        ModelNotFoundError, ModelFormatError, BackendUnavailableError: as `load_graph`.
    """
    model = load_graph(path)
    if BUILD_KEY not in model.metadata_props:
        table = take_quantization(model)
        if table is not None:
            model.metadata_props[QUANTIZATION_KEY] = table.to_json()
    return model


def quantized_operators(graph: ir.Graph) -> list[str]:
    """Which of QuantizeLinear, DequantizeLinear and operators on integers there are."""
    return sorted(
        {node.op_type for node in graph if any(word in node.op_type.lower() for word in _INTEGER_WORDS)}
    )


def take_quantization(model: ir.Model, *, exact: bool = True) -> QuantizationTable | None:
    """Take Q/DQ out of a graph, in place.

    Args:
        model: as `load_graph` gives it.
        exact: refuse what the table cannot say as the graph does. Otherwise the nearest is taken, and noted.

    Returns:
        The table that says what they said; None for a graph without Q/DQ.

    Raises:
        BuildError: the graph computes on integers, or has scales that cannot be kept.
    """
    operators = quantized_operators(model.graph)
    if not operators:
        return None
    others = [name for name in operators if name not in (QUANTIZE, DEQUANTIZE)]
    if others:
        raise BuildError(
            "the model is quantized already, in operators that compute on integers",
            got=", ".join(others),
            expected="QuantizeLinear and DequantizeLinear around float operators",
            remedy="Write it so (onnxruntime: quant_format=QuantFormat.QDQ), or give the float model",
        )
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    notes: list[str] = []
    weights = take_constants(model.graph, exact=exact, notes=notes)
    taking = _Activations(model.graph, exact, notes)
    taking.take()
    folded = fold_batch_norms(model.graph, weights, {value for value, _, _ in taking.ranges})
    for old, new in folded.items():
        taking.renamed(old, new)
    RemoveUnusedNodesPass()(model)
    return QuantizationTable(
        activations=taking.table(),
        weights=_entries(weights),
        method=FROM_GRAPH,
        frames=0,
        frames_sha256="",
        tool=f"{model.producer_name or 'unknown'} {model.producer_version or ''}".strip(),
        rounding=FROM_GRAPH,
        notes=tuple(notes),
    )


@dataclass(eq=False)
class _Activations:
    """Q/DQ around activations.

    Attributes:
        ranges: tensor, amax, method.
    """

    graph: ir.Graph
    exact: bool
    notes: list[str]
    ranges: list[tuple[ir.Value, float, str]] = field(default_factory=list)

    def take(self) -> None:
        """Take out Q and DQ, and note the ranges."""
        clamps: dict[tuple[ir.Value, float], ir.Node] = {}
        asymmetric: list[str] = []
        for node in list(self.graph):
            source = node.inputs[0] if node.op_type in (QUANTIZE, DEQUANTIZE) else None
            if source is None or source.const_value is not None:
                continue
            if node.op_type == DEQUANTIZE:
                self._drop_dequantize(node)
                continue
            if self.exact and source.dtype is not None and source.dtype.name != "FLOAT":
                raise refusal(
                    node,
                    source.dtype.name,
                    "float32 around int8 (Model Optimizer: --high_precision_dtype fp32)",
                )
            value = source = _quantized_tensor(node, source)
            found = self._grid(node)
            if found is not None:
                scale, zero, low, high = found
                amax, method = scale * LEVELS, FROM_GRAPH
                if zero == low:
                    amax, method = scale * (high - low), FROM_GRAPH_UINT8
                    if self.exact and (source, amax) not in clamps:
                        clamps[source, amax] = self._clamp(source, amax)
                    value = clamps[source, amax].outputs[0] if self.exact else source
                elif zero != (low + high + 1) // 2:
                    asymmetric.append(str(source.name))
                    amax = scale * max(zero - low, high - zero)
                self.ranges.append((value, amax, method))
            self._as_float(node, value)
        self._drop_clamps(clamps.values())
        if asymmetric and self.exact:
            raise BuildError(
                "the model is quantized with zero points that are not zero",
                got=several(asymmetric),
                expected="symmetric activations",
                remedy=f"{REMEDY}; or take its ranges for the float model: "
                "edgecnn calibrate FLOAT.onnx --ranges THIS.onnx",
            )
        if asymmetric:
            self.notes.append(
                f"{several(asymmetric)}: zero points that are not zero; the larger side is taken for both, "
                "which makes the steps up to twice as large"
            )

    def _drop_clamps(self, clamps: Iterable[ir.Node]) -> None:
        """Those whose input cannot be negative: a network's own activation function is left alone."""
        non_negative = non_negative_values(self.graph)
        for node in clamps:
            source, result = node.inputs[0], node.outputs[0]
            if source in non_negative and source is not None:
                for use in tuple(result.uses()):
                    use.node.replace_input_with(use.idx, source)
                self.renamed(result, source)

    def renamed(self, old: ir.Value, new: ir.Value) -> None:
        self.ranges = [(new if value is old else value, amax, method) for value, amax, method in self.ranges]

    def _grid(self, node: ir.Node) -> tuple[float, int, int, int] | None:
        """Scale, zero point, lowest and highest step; None for what is only noted."""
        grid = read_grid(node)
        scales, zeros = np.broadcast_arrays(grid.scale.ravel(), grid.zero_point.ravel())
        if scales.size != 1 and self.exact:
            raise refusal(node, "an activation with a scale for each channel", "one for the tensor")
        if not scales.max() > 0:
            if self.exact:
                raise refusal(node, f"the scale {scales.max():g}", "a positive number")
            self.notes.append(f"{data_name(node)}: a scale of zero; it stays in float")
            return None
        if scales.size == 1:
            return float(scales[0]), int(zeros[0]), grid.low, grid.high
        self.notes.append(f"{data_name(node)}: a scale for each channel; the largest range is taken for all")
        if (zeros == grid.low).all():
            return float(scales.max()), grid.low, grid.low, grid.high
        middle = (grid.low + grid.high + 1) // 2
        sides = np.where(zeros == middle, LEVELS, np.maximum(zeros - grid.low, grid.high - zeros))
        return float((scales * sides).max()) / LEVELS, middle, grid.low, grid.high

    def _clamp(self, source: ir.Value, amax: float) -> ir.Node:
        """`Clip(source, 0, amax)`, which a grid from zero is."""
        import onnx_ir as ir

        bounds = [
            constant(self.graph, f"{source.name}.{name}", np.float32(bound))
            for name, bound in (("zero", 0.0), ("amax", amax))
        ]
        node = ir.node("Clip", [source, *bounds], name=f"{source.name}.clamp")
        result = node.outputs[0]
        result.name, result.shape, result.type = f"{source.name}.clamped", source.shape, source.type
        insert_after_producer(self.graph, source, node)
        return node

    def _as_float(self, node: ir.Node, value: ir.Value) -> None:
        """Let what reads the 8-bit tensor read the float one; between Q and DQ values may only be moved."""
        quantized = node.outputs[0]
        if quantized.is_graph_output():
            raise refusal(node, f"the 8-bit output {quantized.name}", "outputs in float")
        waiting = [quantized]
        while waiting:
            for use in tuple(waiting.pop().uses()):
                if use.node.op_type == DEQUANTIZE:
                    if self.exact and not same_grid(node, use.node):
                        raise refusal(use.node, "another scale or zero point than before", "the same")
                    continue
                if not is_mover(use.node) and use.node.op_type != "Concat":
                    raise refusal(use.node, f"{use.node.op_type} on 8-bit numbers", "float arithmetic")
                for output in use.node.outputs:
                    output.type = value.type
                    waiting.append(output)
        for use in tuple(quantized.uses()):
            use.node.replace_input_with(use.idx, value)

    def _drop_dequantize(self, node: ir.Node) -> None:
        import onnx_ir as ir

        source, result = node.inputs[0], node.outputs[0]
        if source is None or source.dtype is None or not source.dtype.is_floating_point():
            raise refusal(node, "an 8-bit input of the network, or of a node", "float")
        for use in tuple(result.uses()):
            use.node.replace_input_with(use.idx, source)
        if result.is_graph_output():
            if source.producer() is None or source.is_graph_output():
                keep = ir.node("Identity", [source], name=f"{result.name}.identity")
                keep.outputs[0].shape, keep.outputs[0].type = result.shape, result.type
                insert_after_producer(self.graph, source, keep)
                source = keep.outputs[0]
            name, result.name = result.name, None
            self.graph.outputs[list(self.graph.outputs).index(result)] = source
            source.name = name

    def table(self) -> dict[str, ActivationRange]:
        """The ranges under the names that the float graph has now."""
        activations: dict[str, ActivationRange] = {}
        for value, amax, method in self.ranges:
            clamp = clamp_after(value)
            source = scale_source(value if clamp is None else clamp.outputs[0])
            name = str(source.name)
            low = 0.0 if method == FROM_GRAPH_UINT8 else -amax
            entry = ActivationRange(amax=amax, low=low, high=amax, method=method)
            other = activations.get(name)
            if other is None or entry.amax > other.amax:
                activations[name] = entry
            if other is not None and not np.isclose(other.amax, entry.amax, rtol=1e-6):
                self.notes.append(
                    f"{name}: quantized twice, with {other.amax:.4g} and {entry.amax:.4g} as the largest "
                    "magnitude; the larger one is taken"
                )
        self._concatenated(activations)
        return activations

    def _concatenated(self, activations: dict[str, ActivationRange]) -> None:
        """Add what is made of quantized tensors side by side; some tools quantize those alone, all alike."""
        for node in self.graph:
            sources = [str(scale_source(value).name) for value in node.inputs if value is not None]
            name = str(node.outputs[0].name)
            if node.op_type != "Concat" or name in activations or not activations.keys() >= set(sources):
                continue
            entries = [activations[source] for source in sources]
            largest = max(entries, key=lambda entry: entry.amax)
            alike = all(
                entry.method == largest.method and np.isclose(entry.amax, largest.amax, rtol=1e-6)
                for entry in entries
            )
            if alike or not self.exact:
                signed = next((entry for entry in entries if entry.method == FROM_GRAPH), largest)
                activations[name] = dataclasses.replace(signed, amax=largest.amax, high=largest.amax)


def _entries(weights: Mapping[ir.Node, LayerWeights]) -> dict[str, WeightScales]:
    entries = {}
    for node, own in weights.items():
        weight = node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        entries[str(weight.name)] = own.entry(weight.const_value.numpy())
    return entries


def _quantized_tensor(node: ir.Node, source: ir.Value) -> ir.Value:
    """What is quantized: not its cast to FP16, nor `Max(x, -127 · scale)`, which keeps int8 without -128."""
    limit = source.producer()
    scale = node.inputs[1]
    if limit is not None and limit.op_type == "Cast" and limit.inputs[0] is not None:
        return limit.inputs[0]
    if limit is None or limit.op_type != "Max" or len(limit.inputs) != 2 or scale is None:
        return source
    value, bound = limit.inputs
    if value is None or bound is None or bound.const_value is None or scale.const_value is None:
        return source
    lowest, size = bound.const_value.numpy().ravel(), scale.const_value.numpy().ravel()
    same = lowest.size == size.size == 1 and np.isclose(lowest[0], -LEVELS * size[0], rtol=1e-5)
    return value if same else source
