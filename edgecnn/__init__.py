"""edgecnn: from a trained PyTorch CNN to verified real-time inference on an edge device.

    with edgecnn.load("model.onnx") as model:
        result = model(frame_bgr)

This module imports NumPy at most: what a name needs is imported when the name is first used.
`edgecnn.export` and `edgecnn.calibration` are for the machine on which models are prepared.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecnn.camera import Frame, open_camera
    from edgecnn.errors import EdgeCNNError
    from edgecnn.model import Model, load
    from edgecnn.pipeline import Output, Pipeline
    from edgecnn.results import (
        Anomaly,
        Classification,
        ClassScore,
        Detections,
        Embedding,
        MultiResult,
        RawOutputs,
        Result,
        Segmentation,
        ValueMap,
    )
    from edgecnn.spec import ImageSpec, ModelSpec, image_spec

__version__ = "0.1.0"

__all__ = [
    "Anomaly",
    "ClassScore",
    "Classification",
    "Detections",
    "EdgeCNNError",
    "Embedding",
    "Frame",
    "ImageSpec",
    "Model",
    "ModelSpec",
    "MultiResult",
    "Output",
    "Pipeline",
    "RawOutputs",
    "Result",
    "Segmentation",
    "ValueMap",
    "__version__",
    "image_spec",
    "load",
    "open_camera",
]

_HOMES = {
    "EdgeCNNError": "errors",
    "Classification": "results",
    "ClassScore": "results",
    "RawOutputs": "results",
    "Anomaly": "results",
    "Detections": "results",
    "Embedding": "results",
    "MultiResult": "results",
    "Segmentation": "results",
    "ValueMap": "results",
    "Result": "results",
    "ImageSpec": "spec",
    "ModelSpec": "spec",
    "image_spec": "spec",
    "Model": "model",
    "load": "model",
    "Frame": "camera",
    "open_camera": "camera",
    "Output": "pipeline",
    "Pipeline": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
