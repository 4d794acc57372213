"""How much of the outputs' error each layer's quantization makes.

With y the outputs of the float network and yᵢ those with layer i alone in INT8 – its input, its weights and
its bias – layer i contributes

    Σ ‖yᵢ − y‖² / Σ ‖y‖²                                           over some frames

Errors of different layers have little to do with each other, so that a network's error is about the sum. Its
weights are rounded as for a network that is otherwise in float: those of the finished table make up for
errors of layers before them, and would look bad by themselves.

Each alone, and not all but one: in a quantized network, a change anywhere makes all later roundings fall
differently, which moves the outputs about as far as the whole error is large. The difference between two such
runs says nothing of a layer (docs/quantization.md has the figures).

All of it is done in one session, whose layers are switched (`edgecnn.export.lowering.switched`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.calibration.second_order import round_network
from edgecnn.export.lowering.switched import SwitchedNetwork
from edgecnn.export.lowering.tensorrt_placement import make_plan
from edgecnn.export.placement import name_of
from edgecnn.export.tensorrt.operations import count_operations
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LayerSensitivity", "measure_sensitivities"]

FRAMES = 8
"""So many frames rank the layers; see docs/quantization.md."""

ROUNDING_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """One layer with weights: what it costs to compute, and what INT8 in it does to the network's outputs.

    Attributes:
        name: of its node.
        operator: `Conv`, `ConvTranspose`, `Gemm` or `MatMul`.
        macs: multiply-accumulate operations of one inference; 0 where the shapes are not known.
        contribution: the squared error that its quantization by itself makes at the outputs, as a share of
            their energy; of several outputs the mean. Infinite where something is not finite.
        int8: whether the layer reads INT8 in the end.
        reason: why it does not; None for INT8.
    """

    name: str
    operator: str
    macs: int
    contribution: float
    int8: bool = True
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object; an infinite contribution is None there."""
        part = self.contribution if math.isfinite(self.contribution) else None
        return {**dataclasses.asdict(self), "contribution": part}


def measure_sensitivities(
    model: ir.Model,
    table: QuantizationTable,
    inputs: Sequence[NDArray[np.float32]],
    *,
    second_order: bool,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[LayerSensitivity, ...]:
    """Quantize each layer alone, on the symmetric grid.

    Args:
        model: the float model.
        table: ranges and weights' scales, nothing rounded yet.
        inputs: the network's input tensor for some frames, as `round_network` takes them; 64 of them at most
            round the weights, and 8 measure.
        second_order: round the weights so; otherwise to the nearest steps.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as things are done.

    Returns:
        All layers with weights, in the network's order.
    """
    if second_order:
        some = _spaced(inputs, ROUNDING_FRAMES)
        table, _ = round_network(model, table, some, alone=True, threads=threads, progress=progress)
    network = SwitchedNetwork(model, table, threads=threads)
    errors = network.errors(_spaced(inputs, FRAMES), stage="measuring layers", progress=progress)
    return _layers(model, table, errors)


def _spaced(inputs: Sequence[NDArray[np.float32]], most: int) -> list[NDArray[np.float32]]:
    count = min(most, len(inputs))
    return [inputs[index * len(inputs) // count] for index in range(count)]


def _layers(
    model: ir.Model, table: QuantizationTable, contributions: Mapping[str, float]
) -> tuple[LayerSensitivity, ...]:
    import onnx_ir as ir

    left_out = make_plan(model.graph, table).left_out
    nodes = [node for node in model.graph if name_of(node) in contributions or name_of(node) in left_out]
    return tuple(
        LayerSensitivity(
            name=name_of(node),
            operator=node.op_type,
            macs=operation.macs,
            contribution=contributions.get(name_of(node), 0.0),
            int8=name_of(node) in contributions,
            reason=left_out.get(name_of(node)),
        )
        for node, operation in zip(nodes, count_operations(ir.to_proto(model)), strict=True)
    )
