"""The compile report: what the compiler made of the graph, in numbers, and what it did not do as asked.

The compiler's list of layers says types and sizes; the ONNX graph says how many operations a node takes. A
node's operations belong to one layer: the one of the node's own kind that names it as its source, or else
the first layer that names it, so that none is lost when the compiler fuses a convolution into something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgecnn.export.tensorrt.listing import Layer, Tensor
from edgecnn.export.tensorrt.operations import Operation

__all__ = ["CompileReport", "LayerCost", "make_report"]

_WIDTH = {"int8": 8, "fp8": 8, "fp4": 4, "fp16": 16, "bf16": 16, "fp32": 32}
_NAMED_IN_WARNING = 5


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One compiled layer and what one inference costs there.

    Attributes:
        layer: as the compiler listed it.
        operations: the ONNX nodes whose multiplications it does.
        read_bytes, written_bytes: activations, each tensor once; constant_bytes: weights and other constants.
    """

    layer: Layer
    operations: tuple[Operation, ...]
    read_bytes: int
    written_bytes: int
    constant_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations."""
        return sum(operation.macs for operation in self.operations)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        layer = self.layer
        return {
            "name": layer.name,
            "type": layer.type,
            "kind": layer.kind,
            "precision": layer.precision,
            "nodes": list(layer.nodes),
            "inputs": [_tensor(item) for item in layer.inputs],
            "outputs": [_tensor(item) for item in layer.outputs],
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "constant_bytes": self.constant_bytes,
            "macs": self.macs,
        }


@dataclass(frozen=True, kw_only=True)
class CompileReport:
    """What was compiled.

    Attributes:
        layers: in the order in which they run.
        batch: the batch that sizes and operations are for.
        missing: ONNX nodes with operations that no compiled layer names.
        warnings: what was asked and not done.
    """

    layers: tuple[LayerCost, ...]
    batch: int
    missing: tuple[Operation, ...]
    warnings: tuple[str, ...]

    @cached_property
    def convolutions(self) -> Mapping[str, float]:
        """Type → share of the convolutions' operations computed in it, in [0, 1]; the largest first."""
        macs: Counter[str] = Counter()
        for item in self.layers:
            for operation in item.operations:
                if operation.kind == "convolution":
                    macs[item.layer.precision] += operation.macs
        macs["unknown"] += sum(item.macs for item in self.missing if item.kind == "convolution")
        total = sum(macs.values())
        return {name: count / total for name, count in macs.most_common() if count}

    @property
    def kernels(self) -> int:
        """Compiled layers that run on the device."""
        return sum(item.layer.kind != "none" for item in self.layers)

    @property
    def kinds(self) -> Mapping[str, int]:
        """Kind → number of layers, the most frequent first."""
        return dict(Counter(item.layer.kind for item in self.layers).most_common())

    @property
    def activation_bytes(self) -> int:
        """What layers read and write of activations: a tensor counts for each layer that touches it."""
        return sum(item.read_bytes + item.written_bytes for item in self.layers)

    @property
    def constant_bytes(self) -> int:
        """Weights and other constants, each once, however many layers read it."""
        tensors = {tensor.name: tensor for item in self.layers for tensor in item.layer.constants}
        return sum(tensor.size_bytes() for tensor in tensors.values())

    @property
    def casts(self) -> int:
        """Kernels that do nothing but change a type."""
        return self.kinds.get("cast", 0)

    @property
    def reformats(self) -> int:
        """Kernels that do nothing but move numbers."""
        return self.kinds.get("reformat", 0)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference."""
        return sum(item.macs for item in self.layers) + sum(item.macs for item in self.missing)

    def totals(self) -> dict[str, Any]:
        """Everything but the layers, as a JSON object; `convolutions_int8` is INT8's share."""
        return {
            "convolutions": dict(self.convolutions),
            "convolutions_int8": self.convolutions.get("int8", 0.0),
            "kernels": self.kernels,
            "kinds": dict(self.kinds),
            "casts": self.casts,
            "reformats": self.reformats,
            "activation_bytes": self.activation_bytes,
            "constant_bytes": self.constant_bytes,
            "macs": self.macs,
            "batch": self.batch,
            "warnings": list(self.warnings),
        }

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object: the totals and `layers`."""
        return {**self.totals(), "layers": [item.to_dict() for item in self.layers]}


def make_report(
    layers: Sequence[Layer],
    operations: Sequence[Operation],
    *,
    batch: int = 1,
    precision: str | None = None,
) -> CompileReport:
    """Put the compiler's layers and the graph's operations together.

    Args:
        layers: from `parse_listing` or `parse_inspector_json`.
        operations: from `count_operations`, with the same batch.
        precision: what was asked for on the whole, `int8` say: a convolution that the graph itself keeps
            in a wider type is a warning too.
    """
    homes: dict[int, list[Operation]] = {}
    missing = []
    for operation in operations:
        index = _home(operation, layers)
        if index is None:
            missing.append(operation)
        else:
            homes.setdefault(index, []).append(operation)
    costs = tuple(
        LayerCost(
            layer=layer,
            operations=tuple(homes.get(index, ())),
            read_bytes=_bytes(layer.inputs, batch),
            written_bytes=_bytes(layer.outputs, batch),
            constant_bytes=_bytes(layer.constants, batch),
        )
        for index, layer in enumerate(layers)
    )
    return CompileReport(
        layers=costs,
        batch=batch,
        missing=tuple(missing),
        warnings=tuple(_warnings(costs, missing, precision)),
    )


def _home(operation: Operation, layers: Sequence[Layer]) -> int | None:
    """The index of the layer that does this operation's multiplications."""
    named = [index for index, layer in enumerate(layers) if operation.node in layer.nodes]
    same_kind = [index for index in named if layers[index].kind == operation.kind]
    # a matrix product is a 1x1 convolution, and a compiler may make either of the other
    either = same_kind or [index for index in named if layers[index].kind in ("convolution", "gemm")]
    own = [index for index in either if layers[index].name.startswith(operation.node)]
    return next(iter(own or either or named), None)


def _bytes(tensors: Iterable[Tensor], batch: int) -> int:
    """Each tensor once: a fused kernel lists one that it reads twice two times."""
    return sum({tensor.name: tensor.size_bytes(batch) for tensor in tensors}.values())


def _warnings(
    costs: Sequence[LayerCost], missing: Sequence[Operation], precision: str | None
) -> Iterable[str]:
    by_types: dict[tuple[str, str], list[str]] = {}
    kept: list[str] = []
    for item in costs:
        for operation in item.operations:
            found = item.layer.precision
            if _width(found) > _width(operation.asked):
                by_types.setdefault((operation.asked, found), []).append(operation.node)
            elif (
                precision is not None
                and operation.kind == "convolution"
                and _width(operation.asked) > _width(precision)
            ):
                kept.append(f"{operation.node} ({operation.asked})")
    for (asked, found), nodes in by_types.items():
        yield f"the graph asks for {asked} and the compiler took {found} for {_listed(nodes)}"
    if kept:
        yield f"the graph itself does not ask for {precision} in {_listed(kept)}"
    if missing:
        names = [operation.node for operation in missing]
        yield f"no compiled layer says that it came from {_listed(names)}: their type is unknown"


def _width(dtype: str) -> int:
    return _WIDTH.get(dtype, 0)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_IN_WARNING
    return ", ".join(names[:_NAMED_IN_WARNING]) + (f" and {more} more" if more > 0 else "")


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dims": list(tensor.dims), "dtype": tensor.dtype}
