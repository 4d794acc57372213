"""What INT8 changed layer by layer: two compile reports of one network, side by side.

A compiled layer belongs to the last ONNX layer with weights before it: a kernel that only quantizes what a
convolution wrote is part of that convolution's cost. What comes before the first one belongs to `input`. So
the sums over all of them are the reports' totals, and a layer on which INT8 costs more shows what it costs:
kernels, bytes, and where a module was given, time by the roofline, which is an estimate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecnn.export.tensorrt.report import CompileReport
from edgecnn.export.tensorrt.roofline import JetsonModule, estimate_layer

__all__ = ["Cost", "LayerChange", "layer_changes"]

INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one ONNX layer costs, with the compiled layers that belong to it.

    Attributes:
        kernels: how many.
        kinds: of those that do not multiply, kind → count.
        activation_bytes: read and written.
        estimate_ms: by the roofline; None where no module was given.
    """

    kernels: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    activation_bytes: int = 0
    estimate_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """One ONNX layer in FP16 and in INT8."""

    node: str
    fp16: Cost
    int8: Cost

    @property
    def extra_bytes(self) -> int:
        """Activation bytes that INT8 moves more."""
        return self.int8.activation_bytes - self.fp16.activation_bytes

    @property
    def extra_ms(self) -> float | None:
        """By how much the estimate is longer."""
        if self.int8.estimate_ms is None or self.fp16.estimate_ms is None:
            return None
        return self.int8.estimate_ms - self.fp16.estimate_ms

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object; `added` are the kinds of kernels without multiplications that INT8 adds."""
        added = Counter(self.int8.kinds)
        added.subtract(self.fp16.kinds)
        extra = self.extra_ms
        return {
            "node": self.node,
            "kernels_fp16": self.fp16.kernels,
            "kernels_int8": self.int8.kernels,
            "added": {kind: count for kind, count in added.items() if count > 0},
            "extra_bytes": self.extra_bytes,
            "extra_ms": None if extra is None else round(extra, 5),
        }


def layer_changes(
    fp16: CompileReport, int8: CompileReport, module: JetsonModule | None = None
) -> tuple[LayerChange, ...]:
    """Every layer with weights, the one on which INT8 costs most more first.

    They are ordered by the estimate for `module`, or without one by the bytes that are moved.
    """
    before, after = _costs(fp16, module), _costs(int8, module)
    zero = Cost(estimate_ms=None if module is None else 0.0)
    changes = [
        LayerChange(node=node, fp16=before.get(node, zero), int8=after.get(node, zero))
        for node in dict.fromkeys([*before, *after])
    ]
    return tuple(sorted(changes, key=lambda change: (-(change.extra_ms or 0.0), -change.extra_bytes)))


def _costs(report: CompileReport, module: JetsonModule | None) -> dict[str, Cost]:
    made_for: dict[str, str] = {}  # tensor → the ONNX layer that it belongs to
    costs: dict[str, Cost] = {}
    for item in report.layers:
        layer = item.layer
        sources = [made_for[tensor.name] for tensor in layer.inputs if tensor.name in made_for]
        owner = item.operations[0].node if item.operations else (sources[-1] if sources else INPUT)

        made_for.update((tensor.name, owner) for tensor in layer.outputs)
        if layer.kind == "none":
            continue
        cost = costs.get(owner, Cost(estimate_ms=None if module is None else 0.0))
        kinds = Counter(cost.kinds) + (Counter() if item.operations else Counter([layer.kind]))
        time_ms = None if module is None else estimate_layer(item, module).time_ms + (cost.estimate_ms or 0.0)
        costs[owner] = Cost(
            kernels=cost.kernels + 1,
            kinds=dict(kinds),
            activation_bytes=cost.activation_bytes + item.read_bytes + item.written_bytes,
            estimate_ms=time_ms,
        )
    return costs
