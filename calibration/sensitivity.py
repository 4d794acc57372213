"""How much of the output's error each layer's quantization makes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = ["LayerSensitivity"]


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """One layer with weights: what it costs to compute, and what INT8 in it does to the network's outputs.

    Attributes:
        name: of its node.
        operator: `Conv`, `ConvTranspose`, `Gemm` or `MatMul`.
        macs: multiply-accumulate operations for one frame.
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
