"""The tools that `benchmarks.quantization` compares: each quantizes one float ONNX file in a process of its
own.

A tool is a piece of Python that an interpreter runs with the arguments model, data, output, input's name,
and more for ours. It says what it took in a last line of JSON: wall and CPU seconds without imports of
ours, peak memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PEERS", "RECIPES", "Tool", "quantize_with"]


@dataclass(frozen=True)
class Tool:
    """A peer: which interpreter has it, and its code."""

    interpreter: str
    code: str


_MEASURED = """
import json, pathlib, re, sys, time
started = time.perf_counter()
{body}
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
peak = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024
seconds, cpu = time.perf_counter() - started, time.process_time()
print(json.dumps({{"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mb": round(peak)}}))
"""

_STATIC = """
import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
model, data, output, name = sys.argv[1:]
class Reader(CalibrationDataReader):
    def __init__(self):
        self.left = iter(np.load(data))
    def get_next(self):
        tensor = next(self.left, None)
        return None if tensor is None else {name: tensor[None]}
quantize_static(model, output, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
    activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
    extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False})
"""
_MODELOPT = """
import numpy as np
from modelopt.onnx.quantization import quantize
model, data, output, name = sys.argv[1:]
quantize(model, "int8", calibration_data={{name: np.load(data)}}, calibration_method={method!r},
    calibration_eps=["cpu"], output_path=output, high_precision_dtype="fp32", log_level="ERROR")
"""
_NNCF = """
import numpy as np, onnx, nncf
model, data, output, name = sys.argv[1:]
tensors = np.load(data)
dataset = nncf.Dataset(list(tensors), lambda tensor: {name: tensor[None]})
quantized = nncf.quantize(onnx.load(model), dataset, preset=nncf.QuantizationPreset.PERFORMANCE,
    subset_size=len(tensors))
onnx.save(quantized, output)
"""
PEERS: Mapping[str, Tool] = {
    "onnxruntime quantize_static": Tool("onnxruntime", _STATIC),
    "Model Optimizer, max": Tool("modelopt", _MODELOPT.format(method="max")),
    "Model Optimizer, entropy": Tool("modelopt", _MODELOPT.format(method="entropy")),
    "NNCF": Tool("nncf", _NNCF),
}

_OURS = """
from edgecnn.calibration import Budget, calibrate
model, data, output, options = sys.argv[1:]
options = json.loads(options)
if "budget" in options:
    options["budget"] = Budget(**options["budget"])
calibrate(model, data, output, force=True, **options)
"""
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "ours, plain": {"method": "minmax", "rounding": "nearest"},
    "ours, mixed": {},  # its budget depends on the model
    "ours, AdaRound": {"rounding": "adaround"},
}


def quantize_with(tool: Tool | Mapping[str, Any], python: str, arguments: Sequence[object]) -> dict[str, Any]:
    """Run a peer, or one of our recipes. Returns what it took, or `error`, in a few words."""
    if isinstance(tool, Tool):
        code, extra = tool.code, []
    else:
        code, extra, python = _OURS, [json.dumps(tool)], sys.executable
    command = [python, "-c", _MEASURED.format(body=code), *map(str, arguments), *extra]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())
    if result.returncode:
        return {"error": (result.stderr.strip().splitlines() or ["?"])[-1][:300]}
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found
