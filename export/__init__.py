"""From PyTorch to files that run: ONNX with its spec inside, lowered graphs, engines.

    from edgecnn.export import export_onnx

    result = export_onnx(module, spec, "model.onnx")
    print(result.parity.worst)

This package is for the machine on which models are prepared; the runtime imports none of it. Importing it
is cheap: torch, onnx and their friends are imported by the function that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecnn.export.builder import build
    from edgecnn.export.builder_onnxruntime import BuildResult, Candidate
    from edgecnn.export.exporter import export_onnx
    from edgecnn.export.result import ExportResult, OutputParity, ParityReport
    from edgecnn.export.sources import Source, load_source
    from edgecnn.export.tensorrt import CompileOptions, EngineBuildResult
    from edgecnn.export.weights import load_weights

__all__ = [
    "BuildResult",
    "Candidate",
    "CompileOptions",
    "EngineBuildResult",
    "ExportResult",
    "OutputParity",
    "ParityReport",
    "Source",
    "build",
    "export_onnx",
    "load_source",
    "load_weights",
]

_HOMES = {
    "BuildResult": "builder_onnxruntime",
    "Candidate": "builder_onnxruntime",
    "CompileOptions": "tensorrt",
    "EngineBuildResult": "tensorrt",
    "build": "builder",
    "ExportResult": "result",
    "OutputParity": "result",
    "ParityReport": "result",
    "Source": "sources",
    "export_onnx": "exporter",
    "load_source": "sources",
    "load_weights": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
