"""Automatic mixed precision: the cheapest set of layers that stays in float such that a budget is met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecnn.compare import Agreement

__all__ = ["Budget", "TradeoffPoint"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What INT8 may cost. All that is given must hold, on ONNX Runtime's grid and on TensorRT's.

    Attributes:
        min_sqnr_db: the lowest SQNR of any output, in dB.
        min_agreement: the lowest of the task's metrics of agreement with FP32, such as `top1_agreement`, from
            0 to 1.
        max_drop: metric of the task → by how many points of a hundred it may lie below FP32's.
    """

    min_sqnr_db: float | None = None
    min_agreement: float | None = None
    max_drop: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TradeoffPoint:
    """One set of layers in float, and what INT8 in all others costs.

    Attributes:
        kept_in_float: the layers' names, the first that was taken out of INT8 first.
        int8_share: of the multiplications of all convolutions and matrix products, the share that is INT8.
        predicted_sqnr_db: by the layers' sensitivities, on TensorRT's grid.
        accuracy: measured, as ONNX Runtime runs it; None where only the prediction was made.
        symmetric: measured on TensorRT's grid; None as above.
        chosen: whether this is the set that was taken.
    """

    kept_in_float: tuple[str, ...]
    int8_share: float
    predicted_sqnr_db: float
    accuracy: Agreement | None = None
    symmetric: Agreement | None = None
    chosen: bool = False

    @property
    def sqnr_db(self) -> float | None:
        """The lower of the two grids' measured SQNR; None where not measured, infinite where identical."""
        both = self._measured()
        return min((one.worst_sqnr_db for one in both), default=None)

    @property
    def agreement(self) -> float | None:
        """The lowest measured metric of agreement; None where not measured, or the task has none."""
        return min((value for one in self._measured() for value in one.metrics.values()), default=None)

    def _measured(self) -> tuple[Agreement, ...]:
        return tuple(one for one in (self.accuracy, self.symmetric) if one is not None)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "kept_in_float": list(self.kept_in_float),
            "int8_share": self.int8_share,
            "predicted_sqnr_db": self.predicted_sqnr_db,
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
            "symmetric": None if self.symmetric is None else self.symmetric.to_dict(),
            "chosen": self.chosen,
        }
