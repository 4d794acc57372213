"""What INT8 may cost, and what it costs with more or fewer layers in float: the values of mixed precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edgecnn.calibration.measurement import GridCost, Measured, Measuring, agreements
from edgecnn.compare import Agreement
from edgecnn.errors import BuildError
from edgecnn.export.lowering import TARGETS, Target

__all__ = ["Budget", "Miss", "TradeoffPoint"]


class Miss(NamedTuple):
    """What of a budget does not hold: `sqnr`, `agreement` or `drop`, and in words how far it is off."""

    measure: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What INT8 may cost. All that is given must hold, on ONNX Runtime's grid and on TensorRT's.

    Texts say what it asks for: `str(Budget(min_sqnr_db=25))` is "SQNR at least 25 dB".

    Attributes:
        min_sqnr_db: the lowest SQNR of any output, in dB.
        min_agreement: the lowest of the task's metrics of agreement with FP32, such as `top1_agreement`, from
            0 to 1.
        max_drop: metric of `edgecnn.evaluation` → by how many points of a hundred it may be worse than with
            FP32; of an error such as `rmse`, in its own unit.
        target: where it must hold, if not on both: `onnxruntime` or `tensorrt`. ONNX Runtime's is mostly the
            harder one, and layers that stay in float only for its sake cost time on a GPU.
    """

    min_sqnr_db: float | None = None
    min_agreement: float | None = None
    max_drop: Mapping[str, float] = field(default_factory=dict)
    target: Target | None = None

    def __post_init__(self) -> None:
        if self.min_sqnr_db is not None and not math.isfinite(self.min_sqnr_db):
            raise BuildError("the lowest SQNR is wrong", got=str(self.min_sqnr_db), expected="a number of dB")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise BuildError(
                "the lowest agreement is wrong", got=str(self.min_agreement), expected="0 to 1, such as 0.985"
            )
        if self.target not in (None, *TARGETS):
            raise BuildError(
                "the budget's target is wrong", got=str(self.target), expected=" or ".join(TARGETS)
            )
        for name, points in self.max_drop.items():
            if not 0 <= points < math.inf:
                raise BuildError(
                    f"the largest drop of {name} is wrong", got=str(points), expected="points from 0"
                )

    def __bool__(self) -> bool:
        return bool(self.max_drop) or (self.min_sqnr_db, self.min_agreement) != (None, None)

    def __str__(self) -> str:
        parts = [f"{name} worse by at most {points:g}" for name, points in self.max_drop.items()]
        if self.min_agreement is not None:
            parts.insert(0, f"agreement at least {self.min_agreement:g}")
        if self.min_sqnr_db is not None:
            parts.insert(0, f"SQNR at least {self.min_sqnr_db:g} dB")
        return ", ".join(parts) + (f", for {self.target}" if self.target else "")

    def grids(self, measured: Measured) -> tuple[GridCost, ...]:
        """Those on which it must hold."""
        return tuple(grid for grid in measured.grids if self.target in (None, grid.target))

    def sqnr_db(self, measured: Measured) -> float:
        """The lowest on the grids on which it must hold."""
        return min(grid.accuracy.worst_sqnr_db for grid in self.grids(measured))

    def misses(self, measured: Measured) -> tuple[Miss, ...]:
        """What does not hold; none where all is met."""
        found = []
        for _, grid, one, drops in self.grids(measured):
            if self.min_sqnr_db is not None and one.worst_sqnr_db < self.min_sqnr_db:
                words = f"SQNR {one.worst_sqnr_db:.2f} dB instead of {self.min_sqnr_db:g} {grid}"
                found.append(Miss("sqnr", words))
            for name, value in agreements(one).items():
                if self.min_agreement is not None and value < self.min_agreement:
                    words = f"{name} {value:.4f} instead of {self.min_agreement:g} {grid}"
                    found.append(Miss("agreement", words))
            for name, points in self.max_drop.items():
                if drops[name] > points:
                    words = f"{name} worse by {drops[name]:.2f} instead of {points:g} {grid}"
                    found.append(Miss("drop", words))
        return tuple(found)

    def check(self, measuring: Measuring) -> None:
        """Raise BuildError for what the task does not measure, as the float model by itself shows."""
        if self.min_agreement is not None and not measuring.agreements():
            raise BuildError(
                "the lowest agreement cannot be asked for",
                got="a task that has no measure of agreement",
                remedy="Give the lowest SQNR instead, with --min-sqnr",
            )
        scores = measuring.scores() if self.max_drop else {}
        for name in self.max_drop:
            if name not in scores:
                raise BuildError("no such metric", got=name, expected="one of " + ", ".join(scores))


@dataclass(frozen=True, kw_only=True)
class TradeoffPoint:
    """One set of layers in float, and what INT8 in all others costs.

    Attributes:
        kept_in_float: the layers' names, the first that was taken out of INT8 first.
        int8_share: of the multiplications of all convolutions and matrix products, the share that is INT8.
        predicted_sqnr_db: by the layers' sensitivities, on TensorRT's grid, from the next smaller set that
            was measured.
        accuracy: measured, as ONNX Runtime runs it, on the frames that choose; None where only the prediction
            was made.
        symmetric: measured on TensorRT's grid; None as above.
        target: of the budget.
        chosen: whether this is the set that was taken.
    """

    kept_in_float: tuple[str, ...]
    int8_share: float
    predicted_sqnr_db: float
    accuracy: Agreement | None = None
    symmetric: Agreement | None = None
    target: Target | None = None
    chosen: bool = False

    @property
    def sqnr_db(self) -> float | None:
        """The lowest measured where it counts; None where not measured, infinite where identical."""
        return min((one.worst_sqnr_db for one in self._measured()), default=None)

    @property
    def agreement(self) -> float | None:
        """The lowest metric of agreement there; None where not measured, or the task has none."""
        values = [value for one in self._measured() for value in agreements(one).values()]
        return min(values, default=None)

    def _measured(self) -> tuple[Agreement, ...]:
        both = (("onnxruntime", self.accuracy), ("tensorrt", self.symmetric))
        return tuple(one for name, one in both if one is not None and self.target in (None, name))

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        predicted = self.predicted_sqnr_db
        return {
            "kept_in_float": list(self.kept_in_float),
            "int8_share": self.int8_share,
            "predicted_sqnr_db": None if math.isinf(predicted) else predicted,
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
            "symmetric": None if self.symmetric is None else self.symmetric.to_dict(),
            "chosen": self.chosen,
        }
