"""TensorRT: an ONNX graph → a plan, a sidecar that says what it is, and a report of what was compiled.

    from edgecnn.export.tensorrt import CompileOptions, compile_onnx

    result = compile_onnx("lowered.onnx", "model.plan", CompileOptions(compute_capabilities=("8.6",)))
    print(result.report.convolutions)          # share of the convolutions' operations by type

One builder serves two libraries, here called flavours: `tensorrt` (10.3 to 11, what JetPack has) and
`tensorrt_rtx` (TensorRT for RTX, whose compiler needs no GPU). The compiler runs in a child process, so its
crash or the kernel's out-of-memory killer is an error message and not the end of this program:

    options ─▶ process ══ JSON lines ══ worker ─▶ tensorrt      (child)
                  │
                  └▶ compiler: listing ─▶ report ◀─ operations (ONNX)      roofline ◀─ report
"""

from __future__ import annotations

from edgecnn.export.tensorrt.build import EngineBuildResult, build_engine, inspect_engine
from edgecnn.export.tensorrt.compiler import CompileResult, compile_onnx
from edgecnn.export.tensorrt.flavours import FLAVOURS, Flavour
from edgecnn.export.tensorrt.listing import Layer, Tensor, parse_inspector_json, parse_listing
from edgecnn.export.tensorrt.options import CompileOptions, ShapeRange
from edgecnn.export.tensorrt.report import CompileReport, make_report
from edgecnn.export.tensorrt.roofline import MODULES, JetsonModule, Roofline, estimate

__all__ = [
    "FLAVOURS",
    "MODULES",
    "CompileOptions",
    "CompileReport",
    "CompileResult",
    "EngineBuildResult",
    "Flavour",
    "JetsonModule",
    "Layer",
    "Roofline",
    "ShapeRange",
    "Tensor",
    "build_engine",
    "compile_onnx",
    "estimate",
    "inspect_engine",
    "make_report",
    "parse_inspector_json",
    "parse_listing",
]
