"""A network computed piece by piece, for all images at once: each piece runs on what the one before left.

Rounding goes layer by layer, and each layer's inputs depend on how the layers before it were rounded.
Running the network from its start for every layer would take a time that grows with the square of its
depth. A Stream keeps, for each image, the tensors that are still needed, and moves on by one piece. An
8-bit tensor is kept in 8 bits until it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["Stream"]


class Stream:
    """A network that has been computed up to a node, on several images.

    Args:
        model: its graph.
        inputs: the network's input tensor for each image.
        threads: CPU threads; ONNX Runtime's own choice where None.
    """

    def __init__(
        self, model: ir.Model, inputs: Sequence[NDArray[np.float32]], *, threads: int | None = None
    ) -> None:
        import onnx_ir as ir

        proto = ir.to_proto(model)
        self._model = proto
        self._threads = threads
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
        self._types = {str(value.name): int(value.dtype) for value in values if value.dtype is not None}
        self._outputs = {value.name for value in proto.graph.output}
        self._nodes = self._late_dequantization(proto.graph.node)
        self._place = {output: index for index, node in enumerate(self._nodes) for output in node.output}
        self._next = 0
        name = str(model.graph.inputs[0].name)
        self.live: list[dict[str, NDArray[Any]]] = [{name: tensor} for tensor in inputs]

    def tensor(self, index: int, name: str) -> NDArray[Any]:
        """What the next node reads, for one image."""
        import onnx

        if name in self.live[index]:
            return self.live[index][name]
        # dequantization, which has been put off
        steps, scale, *zero_point = self._nodes[self._place[name]].input
        values: NDArray[np.float32] = self.live[index][steps].astype(np.float32)
        if zero_point:
            values -= onnx.numpy_helper.to_array(self._constants[zero_point[0]])
        values *= onnx.numpy_helper.to_array(self._constants[scale])
        return values

    def _late_dequantization(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The nodes in an order in which each DequantizeLinear stands right before its first reader."""
        waiting = {node.output[0]: node for node in nodes if self._widens(node)}
        ordered: list[onnx.NodeProto] = []
        for node in nodes:
            if node.output[0] in waiting:
                continue
            ordered += [waiting.pop(name) for name in node.input if name in waiting]
            ordered.append(node)
        return [*ordered, *waiting.values()]

    def _widens(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "DequantizeLinear" and node.input[0] not in self._constants

    def advance(self, before: str | None, constants: Mapping[str, NDArray[Any]]) -> None:
        """Compute all nodes in front of the one that makes `before`; all of them where None.

        Args:
            before: name of a tensor.
            constants: name → array, in place of the graph's own.
        """
        import onnx

        end = len(self._nodes) if before is None else self._place[before]
        while end > self._next and self._widens(self._nodes[end - 1]):
            end -= 1
        nodes = self._nodes[self._next : end]
        self._next = max(self._next, end)
        if not nodes:
            return
        needed = {name for node in self._nodes[end:] for name in node.input} | self._outputs
        made = [name for node in nodes for name in node.output if name in needed]
        read = {name for node in nodes for name in node.input}
        taken = [name for name in self.live[0] if name in read]
        if made:
            graph = onnx.helper.make_graph(
                nodes,
                "piece",
                [onnx.helper.make_tensor_value_info(name, self._types[name], None) for name in taken],
                [onnx.helper.make_tensor_value_info(name, self._types[name], None) for name in made],
                [
                    onnx.numpy_helper.from_array(constants[name], name)
                    if name in constants
                    else self._constants[name]
                    for name in sorted(read)
                    if name in self._constants
                ],
            )
            model = onnx.helper.make_model(
                graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
            )
            # Between a DequantizeLinear and a QuantizeLinear, ONNX Runtime's optimizer quantizes float
            # weights by itself, with one scale for all channels. So such a piece runs node by node.
            session = create_session(
                model.SerializeToString(),
                threads=self._threads,
                optimized=not any(node.op_type == "DequantizeLinear" for node in nodes),
            )
        for tensors in self.live:
            if made:
                values = session.run(made, {name: tensors[name] for name in taken})
                tensors.update(zip(made, values, strict=True))
            for name in [name for name in tensors if name not in needed]:
                del tensors[name]
