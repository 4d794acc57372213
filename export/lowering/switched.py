"""A network in which each layer can be switched between INT8 and float from one inference to the next.

To know what single layers do to the outputs takes inferences with one layer changed in each. Instead of a
graph and a session for each of them, there is one: wherever the lowering put an 8-bit tensor, 8-bit weights
or a bias of its own into a layer, this graph has both, and a boolean input that says which one counts. What a
layer in float brings with it, such as a residual sum that then reads floats too, is asked of the same plan
that the lowering follows. The grid is the symmetric one, with all else in FP32.

The choice is an `If` around nothing, which copies; a `Where` takes twice as long as the whole rest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.export.graph import constant, to_bytes
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.export.lowering.tensorrt_placement import make_plan
from edgecnn.export.placement import name_of
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SwitchedNetwork"]


class SwitchedNetwork:
    """A float network with its quantization in it, layer by layer.

    Args:
        model: the float model.
        table: what is to be quantized and how.
        threads: CPU threads; ONNX Runtime's own choice where None.

    Attributes:
        layers: the names of those that can be INT8, in the network's order.
    """

    def __init__(self, model: ir.Model, table: QuantizationTable, *, threads: int | None = None) -> None:
        self._graph, self._table = model.graph, table
        self.layers = [name_of(node) for node in make_plan(model.graph, table).layers]
        switched = model.clone()
        quantize(switched.graph, table, set(switched.graph))
        self._switches = _add_switches(model.graph, switched.graph)
        self._input = str(model.graph.inputs[0].name)
        self._outputs = len(model.graph.outputs)
        self._session = create_session(to_bytes(switched), threads=threads, optimized=False)

    def run(self, tensor: NDArray[np.float32], *, leave: Collection[str] = ()) -> list[NDArray[Any]]:
        """Input tensor → the outputs, with the layers named in `leave` in float and all others in INT8."""
        return self._run(tensor, self._set(leave))

    def _run(self, tensor: NDArray[np.float32], switches: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        values: list[NDArray[Any]] = self._session.run(None, {self._input: tensor, **switches})
        return values

    def _set(self, leave: Collection[str]) -> dict[str, NDArray[Any]]:
        """The switches' positions; in a network of 200 layers this takes longer than an inference."""
        plan = make_plan(self._graph, self._table, leave)
        on = {(node.outputs[0].name, index) for uses in plan.readers.values() for node, index in uses}
        on |= {(node.outputs[0].name, index) for node in plan.layers for index in (1, 2)}
        return {switch: np.array(place in on) for switch, place in self._switches.items()}

    def errors(
        self, tensors: Sequence[NDArray[np.float32]], *, stage: str, progress: Progress = no_progress
    ) -> dict[str, float]:
        """What each layer alone in INT8 does to the outputs.

        Args:
            tensors: some input tensors.
            stage: what the progress is called.
            progress: called as inferences are done.

        Returns:
            Layer → Σ (output − float output)² / Σ (float output)²; of several outputs the mean, and infinite
            where something is not finite.
        """
        energy = np.zeros(self._outputs)
        noise = np.zeros((len(self.layers), self._outputs))
        none = self._set(self.layers)
        only = [self._set([other for other in self.layers if other != name]) for name in self.layers]
        for done, tensor in enumerate(tensors):
            exact = self._run(tensor, none)
            energy += [np.square(output, dtype=np.float64).sum() for output in exact]
            for index, switches in enumerate(only):
                noise[index] += [
                    np.square(one.astype(np.float64) - output).sum()
                    for one, output in zip(self._run(tensor, switches), exact, strict=True)
                ]
                progress(stage, done * len(self.layers) + index + 1, len(tensors) * len(self.layers))
        some = energy > 0
        means = (noise[:, some] / energy[some]).mean(axis=1) if some.any() else noise.sum(axis=1)
        return {
            name: mean if math.isfinite(mean) else math.inf
            for name, mean in zip(self.layers, means.tolist(), strict=True)
        }


def _add_switches(exact: ir.Graph, quantized: ir.Graph) -> dict[str, tuple[str | None, int]]:
    """Let a switch choose wherever a node of `quantized` reads something else than in `exact`.

    Returns:
        Name of the boolean input → the name of the node's output, and the index of the node's input.
    """
    import onnx_ir as ir

    values = {value.name: value for value in (*quantized.inputs, *quantized.initializers.values())}
    values |= {value.name: value for node in quantized for value in node.outputs}
    counterparts = {node.outputs[0].name: node for node in quantized}
    switches: dict[str, tuple[str | None, int]] = {}
    for original in exact:
        name = original.outputs[0].name
        node = counterparts[name]
        for index, (before, after) in enumerate(zip(original.inputs, node.inputs, strict=True)):
            if before is None or after is None or before.name == after.name:
                continue
            source = values.get(before.name)
            if before.const_value is not None:  # factors of a Gemm went into the 8-bit constants
                factor = original.attributes.get_float({1: "alpha", 2: "beta"}.get(index, ""), 1.0)
                exact_values = (before.const_value.numpy() * factor).astype(np.float32)
                source = constant(quantized, f"{name}.{index}.float", exact_values)
            assert source is not None
            switch = ir.Value(
                name=f"{name}.{index}.int8", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([])
            )
            quantized.inputs.append(switch)
            branches = {"then_branch": _only(after), "else_branch": _only(source)}
            choice = ir.node("If", [switch], branches, name=f"{name}.{index}.choice")
            result = choice.outputs[0]
            result.name, result.shape, result.type = f"{name}.{index}.chosen", before.shape, before.type
            quantized.insert_before(node, choice)
            node.replace_input_with(index, result)
            switches[str(switch.name)] = (name, index)
    return switches


def _only(value: ir.Value) -> ir.Graph:
    """A graph without inputs that gives a value of the graph around it."""
    import onnx_ir as ir

    copy = ir.node("Identity", [value])
    copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
    copy.outputs[0].name = f"{value.name}.copy"
    return ir.Graph([], [copy.outputs[0]], nodes=[copy], name=str(copy.outputs[0].name))
