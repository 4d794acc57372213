"""How much of the outputs' error each layer's quantization makes.

With y the outputs of the float network and yᵢ those with layer i alone in INT8 – its input, its weights and
its bias – the errors of single layers are the vectors eᵢ = yᵢ − y. Over some frames

    Gᵢⱼ = Σ eᵢ · eⱼ / Σ y · y

holds all that is needed: as long as errors only add up, a set S of layers in INT8 makes the error Σ Gᵢⱼ over
i, j in S, relative to the outputs' energy. What layer i contributes is Σⱼ Gᵢⱼ, which may be negative: weights
that make up for the errors of layers before them.

Each alone, and not all but one: in the quantized network, a change anywhere makes all later roundings fall
differently, which moves the outputs about as far as the whole error is large. The difference between two such
runs says nothing of a layer. On EfficientNet-Lite0 the parts of all layers, taken that way, add up to nine
times the error (benchmarks/LOG.md).

All of it is done in one session, whose layers are switched (`edgecnn.export.lowering.switched`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.export.lowering.switched import SwitchedNetwork
from edgecnn.export.lowering.tensorrt_placement import make_plan
from edgecnn.export.placement import name_of
from edgecnn.export.tensorrt.operations import count_operations
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LayerSensitivity", "Sensitivities", "measure_sensitivities"]

FRAMES = 8
"""So many frames rank the layers; see docs/quantization.md."""

_ELEMENTS = 1 << 16  # of each output and frame, evenly spaced ones at most


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """One layer with weights: what it costs to compute, and what INT8 in it does to the network's outputs.

    Attributes:
        name: of its node.
        operator: `Conv`, `ConvTranspose`, `Gemm` or `MatMul`.
        macs: multiply-accumulate operations of one inference; 0 where the shapes are not known.
        contribution: its part of the squared error of the outputs, as a share of their energy. The parts of
            all layers add up to about the whole network's error, 10^(-SQNR / 10); a negative one makes up for
            errors of other layers.
        alone: the squared error that this layer's quantization makes by itself, as a share of that energy.
        int8: whether the layer reads INT8 in the end.
        reason: why it does not; None for INT8.
    """

    name: str
    operator: str
    macs: int
    contribution: float
    alone: float
    int8: bool = True
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sensitivities:
    """The errors of a network's layers.

    Attributes:
        layers: all with weights, in the network's order, as they are with the table that was measured.
        names: of those that read INT8 then; `gram` is over these.
        gram: (n, n) float64, G of the module's docstring; of several outputs the mean.
    """

    layers: tuple[LayerSensitivity, ...]
    names: tuple[str, ...]
    gram: NDArray[np.float64]

    def error(self, kept_in_float: Collection[str]) -> float:
        """The squared error to expect with these layers in float, as a share of the outputs' energy."""
        rest = [index for index, name in enumerate(self.names) if name not in kept_in_float]
        return max(0.0, float(self.gram[np.ix_(rest, rest)].sum()))

    def finally_with(self, table: QuantizationTable) -> tuple[LayerSensitivity, ...]:
        """The layers, with what became of them in the end."""
        return tuple(
            dataclasses.replace(layer, int8=False, reason=table.kept_in_float[layer.name])
            if layer.name in table.kept_in_float
            else layer
            for layer in self.layers
        )


def measure_sensitivities(
    model: ir.Model,
    table: QuantizationTable,
    inputs: Sequence[NDArray[np.float32]],
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Sensitivities:
    """Quantize each layer alone, on the symmetric grid.

    Args:
        model: the float model.
        table: ranges, scales, steps and biases.
        inputs: the network's input tensor for some frames; at most 8, evenly spaced, are used.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as frames are done.
    """
    network = SwitchedNetwork(model, table, threads=threads)
    names = network.layers
    count = min(FRAMES, len(inputs))
    grams: list[NDArray[np.float64]] = []
    energies: list[float] = []
    for done in range(count):
        tensor = inputs[done * len(inputs) // count]
        exact = network.run(tensor, leave=names)
        grams = grams or [np.zeros((len(names), len(names))) for _ in exact]
        energies = energies or [0.0] * len(exact)
        errors = [np.empty((len(names), _sampled(output).size)) for output in exact]
        for index, name in enumerate(names):
            alone = network.run(tensor, leave=[other for other in names if other != name])
            for error, one, output in zip(errors, alone, exact, strict=True):
                error[index] = _sampled(one).astype(np.float64) - _sampled(output)
            progress("measuring layers", done * len(names) + index + 1, count * len(names))
        for place, (error, output) in enumerate(zip(errors, exact, strict=True)):
            grams[place] += error @ error.T
            energies[place] += float(np.square(_sampled(output), dtype=np.float64).sum())
    relative = [gram / energy for gram, energy in zip(grams, energies, strict=True) if energy > 0]
    gram = np.mean(relative, axis=0) if relative else np.zeros((len(names), len(names)))
    return Sensitivities(layers=_layers(model, table, names, gram), names=tuple(names), gram=gram)


def _sampled(output: NDArray[Any]) -> NDArray[Any]:
    flat: NDArray[Any] = output.ravel()
    return flat[:: math.ceil(flat.size / _ELEMENTS) or 1]


def _layers(
    model: ir.Model, table: QuantizationTable, names: Sequence[str], gram: NDArray[np.float64]
) -> tuple[LayerSensitivity, ...]:
    import onnx_ir as ir

    left_out = make_plan(model.graph, table).left_out
    numbers = {name: index for index, name in enumerate(names)}
    nodes = [node for node in model.graph if name_of(node) in numbers or name_of(node) in left_out]
    found = []
    for node, operation in zip(nodes, count_operations(ir.to_proto(model)), strict=True):
        name = name_of(node)
        index = numbers.get(name)
        found.append(
            LayerSensitivity(
                name=name,
                operator=node.op_type,
                macs=operation.macs,
                contribution=0.0 if index is None else float(gram[index].sum()),
                alone=0.0 if index is None else float(gram[index, index]),
                int8=index is not None,
                reason=left_out.get(name),
            )
        )
    return tuple(found)
