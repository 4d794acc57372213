"""Calibration: from frames to the ranges that INT8 needs, and to what INT8 costs.

from edgecnn.calibration import calibrate
result = calibrate("model.onnx", "photos/", "model.calibrated.onnx")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecnn.calibration.calibrator import CalibrationResult, calibrate

__all__ = ["CalibrationResult", "calibrate"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module("edgecnn.calibration.calibrator"), name)
    globals()[name] = value
    return value
