"""Which layer is it? The first tensor of an ONNX graph that differs from torch's node of the same name.

The decomposed program that torch translated is run node by node, and the ONNX graph with its intermediate
tensors as additional outputs and ONNX Runtime's own fusions off. In the order of the graph, the first
tensor beyond the tolerance belongs to the layer that went wrong: what it read was still right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.export.parity import relative_error
from edgecnn.export.torch_boundary import quiet

if TYPE_CHECKING:
    import onnx
    import torch

__all__ = ["Divergence", "first_divergence"]


@dataclass(frozen=True)
class Divergence:
    """A layer whose result differs from torch's although its inputs agree.

    Attributes:
        node: the layer's name.
        operator: its ONNX operator.
        relative_error: of its output, as in `OutputParity`.
    """

    node: str
    operator: str
    relative_error: float


def first_divergence(
    model: onnx.ModelProto,
    program: torch.export.ExportedProgram,
    torch_names: Mapping[str, str],
    image: torch.Tensor,
    *,
    tolerance: float,
) -> Divergence | None:
    """Find it.

    Args:
        model: the exported model.
        program: what it was translated from.
        torch_names: name of a tensor in the model → name of the program's node that computes it.
        image: the input to run both on.
        tolerance: accepted relative error of a tensor.

    Returns:
        None where every tensor agrees: then the difference comes from ONNX Runtime's fusions.
    """
    actual = _run_onnx(model, [name for name in torch_names if name], image.cpu().numpy())
    expected = _run_torch(program, frozenset(torch_names.values()), image)
    for node in model.graph.node:
        for name in node.output:
            reference = expected.get(torch_names.get(name, ""))
            if reference is None or name not in actual or reference.shape != actual[name].shape:
                continue
            error = relative_error(reference, actual[name])
            if not error <= tolerance:
                return Divergence(node.name, node.op_type, error)
    return None


def _run_onnx(
    model: onnx.ModelProto, names: list[str], image: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    import onnx

    made = {name for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    wanted = [name for name in names if name in made]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs)
    session = create_session(opened.SerializeToString(), optimized=False)
    values = session.run(wanted, {model.graph.input[0].name: image})
    return dict(zip(wanted, values, strict=True))


def _run_torch(
    program: torch.export.ExportedProgram, names: frozenset[str], image: torch.Tensor
) -> dict[str, NDArray[Any]]:
    import torch

    class Recorder(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            value = super().run_node(node)
            if node.name in names and isinstance(value, torch.Tensor):
                recorded[node.name] = value.detach().cpu().numpy()
            return value

    recorded: dict[str, NDArray[Any]] = {}
    with quiet(), torch.no_grad():
        unwrap: Any = program.module
        try:
            module = unwrap(check_guards=False)  # a free batch may be guarded against 1
        except TypeError:  # an older torch, which has no guards to check
            module = unwrap()
        assert isinstance(module, torch.fx.GraphModule)
        Recorder(module).run(image)
    return recorded
