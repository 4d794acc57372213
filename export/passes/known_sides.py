"""Replace the question for a side of a tensor by its answer, where shape inference knows it.

With a free batch the tracer writes `x.shape[2]` as Shape → Gather, although only the batch is unknown. What
depends on it (a branch, the size of a Resize) then stays open, too, and compilers for edge devices refuse it
or make it slow.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["KnownSides"]


class KnownSides(ir.passes.InPlacePass):
    """Gather(Shape(x), i) with a known side i becomes a constant, for a scalar i."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Leaves the Shape nodes, which nobody may read any more, to others."""
        modified = False
        for node in tuple(model.graph):
            if node.op_type == "Gather":
                modified |= _answer(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _answer(graph: ir.Graph, gather: ir.Node) -> bool:
    sides, index, output = gather.inputs[0], gather.inputs[1], gather.outputs[0]
    question = sides.producer() if sides is not None else None
    if (
        question is None
        or question.op_type != "Shape"
        or "start" in question.attributes
        or "end" in question.attributes
    ):
        return False
    asked = question.inputs[0]
    if (
        asked is None
        or asked.shape is None
        or index is None
        or index.const_value is None
        or output.is_graph_output()
    ):
        return False
    positions = index.const_value.numpy()
    side = asked.shape[int(positions)] if positions.ndim == 0 else None
    if not isinstance(side, int):
        return False
    tensor = ir.tensor(np.array(side, np.int64), name=output.name)
    constant = ir.Value(
        name=output.name, shape=ir.Shape([]), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    ir.convenience.replace_all_uses_with(output, constant)
    graph.remove(gather, safe=True)
    graph.register_initializer(constant)
    return True
