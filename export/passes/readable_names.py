"""Name nodes and tensors after the PyTorch modules that they come from.

torch's exporter calls things `node_Conv_143` and `getitem_27`. Accuracy reports, quantization tables and
profiles are read by people who know their model as `features.3.conv1`, so:

- a node of a leaf module is named by the module's path: `layer1.0.conv1`. With several kinds of operators
  in one module, or for an operator between modules, by path and operator: `layer1.0/Add`, `act/Sigmoid`.
  At the top, where the path is empty, by the operator: `Flatten`.
- a second node of the same name gets `_1`, a third `_2`, in the order of the graph.
- a convolution whose batch norm was folded is named by its weight, not by the batch norm.
- a tensor is named as the node that makes it; a parameter keeps its own name; what folding made is named by
  its layer (`layer1.0.conv1.bias`); a number that several nodes share is named by its value.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from edgecnn.export.passes.unshare_weights import COPY_MARK

__all__ = ["ReadableNames"]

_SCOPES = "pkg.torch.onnx.name_scopes"  # '["", "layer1", "layer1.0", "layer1.0.conv1", "conv2d_3"]'
_WEIGHTED = {
    "Conv": ("weight", "bias"),
    "ConvTranspose": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "MatMul": ("weight",),
}


class ReadableNames(ir.passes.InPlacePass):
    """See the module's docstring. The same graph gets the same names on every machine.

    Args:
        input_name: name of the graph's one input.
        output_names: names of its outputs, one each.
        parameter_names: the module's names for its parameters and buffers.
    """

    def __init__(self, input_name: str, output_names: Sequence[str], parameter_names: frozenset[str]) -> None:
        super().__init__()
        self.input_name = input_name
        self.output_names = output_names
        self.parameter_names = parameter_names

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename everything in the main graph; subgraphs keep their names."""
        graph = model.graph
        nodes = list(graph)
        node_names = self._name_nodes(nodes)
        value_names = self._name_values(graph, nodes, node_names)
        for number, value in enumerate(
            value_names
        ):  # out of the way first: a new name may be another's old one
            value.name = f"\0{number}"
        for value, name in value_names.items():
            value.name = name
        for node, name in zip(nodes, node_names, strict=True):
            node.name = name
        return ir.passes.PassResult(model, modified=True)

    def _name_nodes(self, nodes: Sequence[ir.Node]) -> list[str]:
        owners = [self._owner(node) for node in nodes]
        containers = {""} | {owner[:dot] for owner in owners for dot in _dots(owner)}
        operators: defaultdict[str, set[str]] = defaultdict(set)
        for node, owner in zip(nodes, owners, strict=True):
            operators[owner].add(node.op_type)
        unique = _Unique()
        names = []
        for node, owner in zip(nodes, owners, strict=True):
            if not owner:
                name = node.op_type
            elif owner in containers or len(operators[owner]) > 1:
                name = f"{owner}/{node.op_type}"
            else:
                name = owner
            names.append(unique(name))
        return names

    def _owner(self, node: ir.Node) -> str:
        """Path of the module that the node belongs to; empty for the outermost."""
        if node.op_type in _WEIGHTED:
            for value in node.inputs[1:]:
                name = "" if value is None or value.name is None else value.name.partition(COPY_MARK)[0]
                if name in self.parameter_names:
                    return name.rpartition(".")[0]
        try:
            scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        except (SyntaxError, ValueError):
            return ""
        owner = scopes[-2] if len(scopes) >= 2 else ""  # the last one is torch's name of the operation
        return (
            re.sub(r"@\d+", "", owner)
            if re.fullmatch(r"[\w.@]*", owner) and not owner.startswith("_empty_nn")
            else ""
        )

    def _name_values(
        self, graph: ir.Graph, nodes: Sequence[ir.Node], node_names: Sequence[str]
    ) -> dict[ir.Value, str]:
        names: dict[ir.Value, str] = {}
        unique = _Unique()
        for value, name in zip(
            (*graph.inputs, *graph.outputs), (self.input_name, *self.output_names), strict=True
        ):
            names[value] = unique(name)
        for value in graph.initializers.values():
            if value.name in self.parameter_names and value not in names:
                names[value] = unique(str(value.name))
        name_of = dict(zip(nodes, node_names, strict=True))
        for value in graph.initializers.values():
            if value not in names:
                names[value] = unique(_initializer_name(value, name_of))
        for node, node_name in zip(nodes, node_names, strict=True):
            visible = [value for value in node.outputs if value.name]
            for index, value in enumerate(visible):
                if value not in names:
                    names[value] = unique(node_name if len(visible) == 1 else f"{node_name}/{index}")
        return names


def _initializer_name(value: ir.Value, node_names: dict[ir.Node, str]) -> str:
    uses = [(use.node, use.idx) for use in value.uses() if use.node in node_names]
    tensor = value.const_value
    if len(uses) != 1 and tensor is not None and tensor.size == 1:
        return f"constant_{tensor.numpy().item():g}"
    if not uses:  # read by a subgraph only, or an output itself
        return str(value.name)
    order = {node: number for number, node in enumerate(node_names)}
    node, index = min(uses, key=lambda use: (order[use[0]], use[1]))
    roles = _WEIGHTED.get(node.op_type, ())
    role = roles[index - 1] if 0 < index <= len(roles) else _formal_name(node, index)
    return f"{node_names[node]}.{role}"


def _formal_name(node: ir.Node, index: int) -> str:
    """What ONNX calls an operator's input, such as `min` for Clip's second."""
    import onnx

    try:
        formals = onnx.defs.get_schema(node.op_type, domain=node.domain).inputs
        return str(formals[min(index, len(formals) - 1)].name).lower()
    except onnx.defs.SchemaError:  # another domain's operator
        return f"input_{index}"


def _dots(path: str) -> Iterable[int]:
    return (index for index, letter in enumerate(path) if letter == ".")


class _Unique:
    """Gives each name once; the next time with `_1`, `_2` …"""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: defaultdict[str, int] = defaultdict(int)

    def __call__(self, name: str) -> str:
        candidate = name
        while candidate in self._taken:
            self._counts[name] += 1
            candidate = f"{name}_{self._counts[name]}"
        self._taken.add(candidate)
        return candidate
