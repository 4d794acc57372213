"""Where INT8 goes in a graph for TensorRT.

TensorRT fuses `DequantizeLinear → Conv → bias → activation → QuantizeLinear` into one INT8 kernel. So:

- The input of each Conv, Gemm and MatMul with constant weights is quantized, which is behind the activation
  of the layer before: nothing comes between a layer and its activation.
- A ConvTranspose stays in FP16. TensorRT for RTX computes it in float whatever is around it, and would
  dequantize its weights anew in each inference. On TensorRT a device would have to show that INT8 is right
  and pays: quantized ones failed to build up to 8.4 (NVIDIA/TensorRT issues 1519, 2280), those with
  groups until some version before 10.9 (1934), gave wrong results with scales along the other channel axis
  (1694), or were slower than FP16 (1699).
- The sum of a residual block reads the 8-bit form of its identity branch, if there is one for a layer.
- What only moves values (MaxPool, Concat, Resize to nearest, Split …) between quantized tensors gets Q/DQ on
  both sides with one scale, the largest of its tensors': it moves bytes. Rounding and taking the largest
  commute, so for MaxPool the numbers are the same.
- The layers that compute a squeeze-and-excite block's gate stay in FP16: on vectors, the kernels that
  quantize cost more than INT8 saves. It takes 18 of 118 kernels away from MobileNetV3-Small.

The figures behind these choices are in benchmarks/LOG.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecnn.export.lowering.fp32_nodes import is_expectation
from edgecnn.export.lowering.tensorrt_centring import centred_tensors
from edgecnn.export.placement import is_mover, name_of, reason_for_float, scale_source
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Plan", "Use", "make_plan"]

Use = tuple["ir.Node", int]
"""A node that reads a tensor, and the index of the input by which it does."""

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be quantized.

    Attributes:
        layers: the nodes whose weights are.
        left_out: the name of each layer that is not → why.
        readers: tensor → who reads its 8-bit form, in topological order of the tensors.
        amax: tensor → the largest magnitude that its scale must hold.
        centred: the tensors whose grid has all 254 steps from zero to amax; see `tensorrt_centring`.
    """

    layers: list[ir.Node]
    left_out: Mapping[str, str]
    readers: Mapping[ir.Value, list[Use]]
    amax: Mapping[ir.Value, float]
    centred: Collection[ir.Value]


def make_plan(graph: ir.Graph, table: QuantizationTable, leave: Collection[str] = ()) -> Plan:
    """Decide for a float graph; `leave` names layers that are not quantized."""
    layers: list[ir.Node] = []
    left_out: dict[str, str] = {}
    gates = _gate_layers(graph)
    for node in graph:
        if node.op_type in _LAYERS and node.domain == "":
            reason = _reason_to_leave(node, table)
            if reason is None and name_of(node) in leave:
                reason = "it was asked to stay out of INT8"
            if reason is None and node in gates:
                reason = "it computes a squeeze-and-excite block's gate, too small for INT8 to gain"
            if reason is None:
                layers.append(node)
            else:
                left_out[name_of(node)] = reason
    readers: dict[ir.Value, list[Use]] = {}
    for node in layers:
        assert node.inputs[0] is not None  # it is in the table
        readers.setdefault(node.inputs[0], []).append((node, 0))
    for value, use in list(_identity_branches(graph, readers)):
        readers[value].append(use)
    shared = _Shared({value: _amax(value, table) for value in readers})
    for node in reversed(list(graph)):
        operands = _moved(node)
        if (
            operands
            and all(_has_range(value, table) for value in operands)
            and all(_only_read_as_int8(value, readers) for value in node.outputs)
        ):
            for index, value in enumerate(operands):
                readers.setdefault(value, []).append((node, index))
                shared.join(value, _amax(value, table), node.outputs)
    ordered = [value for value in _values(graph) if value in readers]
    marked = {
        value
        for value in readers
        if (entry := table.activations.get(str(value.name))) is not None and entry.centred
    }
    centred = centred_tensors(marked, readers, set(layers))
    return Plan(layers, left_out, {value: readers[value] for value in ordered}, shared.result(), centred)


def _reason_to_leave(node: ir.Node, table: QuantizationTable) -> str | None:
    if node.op_type == "ConvTranspose":
        return "TensorRT for RTX computes transposed convolutions in float, and TensorRT's were not tried"
    if is_expectation(node):
        return "it sums over a Softmax, whose small terms matter"
    return reason_for_float(node, table)


def _has_range(value: ir.Value, table: QuantizationTable) -> bool:
    return scale_source(value).name in table.activations


def _amax(value: ir.Value, table: QuantizationTable) -> float:
    return table.activations[str(scale_source(value).name)].amax


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _identity_branches(graph: ir.Graph, readers: Mapping[ir.Value, Any]) -> Iterator[tuple[ir.Value, Use]]:
    """The operand of each residual Add that is quantized for a layer anyway: the first, if both are."""
    for node in graph:
        if node.op_type != "Add":
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value in readers:
                yield value, (node, index)
                break


def _gate_layers(graph: ir.Graph) -> set[ir.Node]:
    """The layers that compute the gates of squeeze-and-excite blocks.

    A gate is one number a channel that multiplies a tensor and is computed from that tensor's mean.
    """
    found: set[ir.Node] = set()
    for node in graph:
        if node.op_type != "Mul":
            continue
        for gate, tensor in (node.inputs, node.inputs[::-1]):
            if gate is None or tensor is None or not _is_one_a_channel(gate) or _is_one_a_channel(tensor):
                continue
            layers, pooled = _back_to_pools(gate)
            if tensor in pooled:
                found |= layers
    return found


def _is_one_a_channel(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 4 and tuple(value.shape[2:]) == (1, 1)


def _is_map(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 4 and tuple(value.shape[2:]) != (1, 1)


def _back_to_pools(value: ir.Value) -> tuple[set[ir.Node], set[ir.Value | None]]:
    """The layers on vectors between a tensor and the nearest poolings before it, and what these pool."""
    layers: set[ir.Node] = set()
    pooled: set[ir.Value | None] = set()
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            continue
        if node.op_type in _POOLS:
            pooled.add(node.inputs[0])
            continue
        if node.op_type in _LAYERS:
            layers.add(node)
        fresh = [
            operand
            for operand in node.inputs
            if operand is not None and operand not in seen and not _is_map(operand)
        ]
        waiting.extend(fresh)
        seen.update(fresh)
    return layers, pooled


def _moved(node: ir.Node) -> list[ir.Value]:
    """The tensors whose values a node moves; none if it computes, or if one of them is a constant."""
    inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1] if is_mover(node) else ()
    operands = [value for value in inputs if value is not None and value.const_value is None]
    return operands if len(operands) == len(inputs) else []


def _only_read_as_int8(value: ir.Value, readers: Mapping[ir.Value, list[Use]]) -> bool:
    uses = {(use.node, use.idx) for use in value.uses()}
    return bool(uses) and not value.is_graph_output() and uses <= set(readers.get(value, ()))


class _Shared:
    """Tensors in groups that have one amax, the largest of any of them."""

    def __init__(self, amax: Mapping[ir.Value, float]) -> None:
        self._groups = {value: {value} for value in amax}
        self._amax = dict(amax)

    def join(self, value: ir.Value, amax: float, others: Collection[ir.Value]) -> None:
        self._amax.setdefault(value, amax)
        group = self._groups.setdefault(value, {value})
        for other in others:
            group = group | self._groups[other]
        for member in group:
            self._groups[member] = group

    def result(self) -> dict[ir.Value, float]:
        return {value: max(self._amax[member] for member in group) for value, group in self._groups.items()}
