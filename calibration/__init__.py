"""Calibration: from frames to the ranges that INT8 needs, and to what INT8 costs.

from edgecnn.calibration import Budget, calibrate
result = calibrate("model.onnx", "photos/", "model.calibrated.onnx", budget=Budget(min_sqnr_db=25))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecnn.calibration.calibrator import calibrate
    from edgecnn.calibration.mixed import Budget, TradeoffPoint
    from edgecnn.calibration.result import CalibrationResult
    from edgecnn.calibration.sensitivity import LayerSensitivity

__all__ = ["Budget", "CalibrationResult", "LayerSensitivity", "TradeoffPoint", "calibrate"]

_MODULES = {
    "Budget": "mixed",
    "CalibrationResult": "result",
    "LayerSensitivity": "sensitivity",
    "TradeoffPoint": "mixed",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = _MODULES.get(name, "calibrator")
    value = getattr(importlib.import_module(f"edgecnn.calibration.{module}"), name)
    globals()[name] = value
    return value
