"""How a quantization table is to be made: what `calibrate` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgecnn.calibration.interchange import Import
from edgecnn.calibration.mixed import Budget
from edgecnn.calibration.ranges import METHODS, Method
from edgecnn.errors import DataError
from edgecnn.export.torch_boundary import require
from edgecnn.progress import Progress

__all__ = ["Recipe", "Rounding"]

Rounding = Literal["nearest", "second-order", "adaround"]
_ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a table is to be made; see `edgecnn.calibration.calibrate`.

    Attributes:
        method: how ranges are chosen.
        rounding: how weights are rounded.
        imported: ranges of another tool, instead of `method`'s.
        budget: what INT8 may cost; empty where anything.
        reports: whether a page is to show all of it.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as things are done.
    """

    method: Method | Literal["auto"]
    rounding: Rounding
    imported: Import | None
    budget: Budget
    reports: bool
    threads: int | None
    progress: Progress

    @property
    def is_plain(self) -> bool:
        """Whether the plain way is what was asked for."""
        return self.method == "minmax" and self.rounding == "nearest" and self.imported is None

    @property
    def measures_layers(self) -> bool:
        """Whether what each layer costs is to be found out."""
        return bool(self.budget) or self.reports

    @staticmethod
    def check(method: str, rounding: str) -> None:
        """Raise DataError for unknown names, BackendUnavailableError for AdaRound without PyTorch."""
        if method not in (*METHODS, "auto"):
            raise DataError("unknown method", got=method, expected="one of " + ", ".join((*METHODS, "auto")))
        if rounding not in _ROUNDINGS:
            raise DataError("unknown rounding", got=rounding, expected="one of " + ", ".join(_ROUNDINGS))
        if rounding == "adaround":
            require("torch")
