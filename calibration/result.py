"""What calibration wrote and found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgecnn.calibration.adjustments import Adjustment
from edgecnn.calibration.mixed import Budget, TradeoffPoint
from edgecnn.calibration.second_order import LayerRounding
from edgecnn.calibration.sensitivity import LayerSensitivity
from edgecnn.camera.source import Skipped
from edgecnn.compare import Agreement
from edgecnn.quantization import QuantizationTable

__all__ = ["CalibrationResult"]


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """What calibration wrote and found.

    Attributes:
        path: the calibrated model.
        table: the quantization table in it.
        accuracy: the INT8 model that ONNX Runtime gets, against the float model, on frames that
            calibration did not see.
        symmetric: the same for the table's own grid, which is TensorRT's: symmetric, with all else in FP32.
        skipped: images that could not be read, with the reason.
        plain: `accuracy` of largest magnitudes and nearest steps; None where just that was asked for.
        layers: what second-order rounding did, layer by layer; empty without it.
        adjustments: what `auto` changed, and what each of it brought; empty where the plain way was kept.
        warnings: what the person who calibrates should know.
        sensitivity: what each layer's quantization does to the outputs, in the network's order; empty where
            neither a budget was given nor a report asked for.
        tradeoff: the sets of layers in float that were considered, from none on; empty as above.
        budget: what INT8 might cost; None where anything.
        budget_met: on the frames that chose; None where no budget was given.
        chosen_on_same_frames: whether the frames that `accuracy` is of also decided which adjustments were
            kept, and whether the plain way was: with `auto` and without a budget.
        drops: metric of the budget → by how many points it is worse than FP32's, as ONNX Runtime runs it
            and on TensorRT's grid.
    """

    path: Path
    table: QuantizationTable
    accuracy: Agreement
    symmetric: Agreement
    skipped: tuple[Skipped, ...]
    plain: Agreement | None = None
    layers: tuple[LayerRounding, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()
    warnings: tuple[str, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    tradeoff: tuple[TradeoffPoint, ...] = ()
    budget: Budget | None = None
    budget_met: bool | None = None
    chosen_on_same_frames: bool = False
    drops: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def int8_share(self) -> float | None:
        """Of the multiplications, what is INT8; None where the layers were not looked at."""
        return next((point.int8_share for point in self.tradeoff if point.chosen), None)
