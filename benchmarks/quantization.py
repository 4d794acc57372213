"""INT8 accuracy of our calibration and of other tools', on the same model, frames and harness.

    python -m benchmarks.quantization [--models NAME …] [--opencv-doc FOLDER]
        [--onnxruntime PYTHON] [--modelopt PYTHON] [--nncf PYTHON]

Frames are crops of photos and videos that are installed (`benchmarks.photos`); calibration and evaluation
have no source in common. Every tool quantizes the same float ONNX file with the same 200 input tensors.
What it makes is run by ONNX Runtime with optimizations off on the same other tensors, and compared with the
float model: SQNR over all logits, and how often the largest one is the same. Intervals (95 %) are
bootstrapped over sources. The peers run in environments of their own; each option is the interpreter of one
(`pip install onnx onnxruntime`, `nvidia-modelopt torch onnx onnxruntime onnxslim onnx-graphsurgeon`, `nncf
onnx onnxruntime`). Ours is placed as for TensorRT (symmetric), with all else in FP32 as the peers have it,
and lowered for ONNX Runtime. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.photos import OPENCV_DOC, Photos, collect, sources
from benchmarks.trained import MODELS
from edgecnn.backends.onnxruntime import create_session
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.metadata import QUANTIZATION_KEY, SPEC_KEY
from edgecnn.preprocess import Preprocessor
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ModelSpec

CALIBRATION = 200
_DRAWS = 1000

_MEASURE = """
import json, pathlib, re, sys, time
started = time.perf_counter()
{body}
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
peak = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024
seconds, cpu = time.perf_counter() - started, time.process_time()
print(json.dumps({{"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mb": round(peak)}}))
"""

PEERS: Mapping[str, tuple[str, str]] = {
    "onnxruntime quantize_static": (
        "onnxruntime",
        """
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
""",
    ),
    "Model Optimizer, max": ("modelopt", "METHOD = 'max'\n"),
    "Model Optimizer, entropy": ("modelopt", "METHOD = 'entropy'\n"),
    "NNCF": (
        "nncf",
        """
import numpy as np, onnx, nncf
model, data, output, name = sys.argv[1:]
tensors = np.load(data)
dataset = nncf.Dataset(list(tensors), lambda tensor: {name: tensor[None]})
quantized = nncf.quantize(onnx.load(model), dataset, preset=nncf.QuantizationPreset.PERFORMANCE,
    subset_size=len(tensors))
onnx.save(quantized, output)
""",
    ),
}
_MODELOPT = """
import numpy as np
from modelopt.onnx.quantization import quantize
model, data, output, name = sys.argv[1:]
quantize(model, "int8", calibration_data={name: np.load(data)}, calibration_method=METHOD,
    calibration_eps=["cpu"], output_path=output, high_precision_dtype="fp32", log_level="ERROR")
"""
_OURS = """
import numpy as np
from edgecnn.calibration import calibrate
model, data, output, name, method, rounding = sys.argv[1:]
calibrate(model, data, output, method=method, rounding=rounding, evaluation_data=name, force=True)
"""
RECIPES = {"ours": ("auto", "second-order"), "ours, plain": ("minmax", "nearest")}


def main() -> None:
    """Quantize each model with each tool, and show the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--opencv-doc", type=Path, default=OPENCV_DOC, help="examples of Debian's opencv-doc")
    parser.add_argument("--evaluation", type=int, default=300, help="frames to judge by")
    for tool in ("onnxruntime", "modelopt", "nncf"):
        parser.add_argument(f"--{tool}", help="Python interpreter that has it")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    paths = sources(arguments.opencv_doc)
    sides = (
        [path for index, path in enumerate(paths) if index % 5 in (0, 2)],
        [path for index, path in enumerate(paths) if index % 5 not in (0, 2)],
    )
    calibration, evaluation = (
        collect(side, crops=-(-count // len(side)), limit=count, seed=seed)
        for seed, (side, count) in enumerate(zip(sides, (CALIBRATION, arguments.evaluation), strict=True))
    )
    print(f"{len(sides[0])} sources to calibrate with, {len(sides[1])} others to judge by")
    report: dict[str, Any] = {}
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            report[name] = _compare(name, Path(folder), calibration, evaluation, vars(arguments))
    print(json.dumps(report))


def _compare(
    name: str, folder: Path, calibration: Photos, evaluation: Photos, interpreters: Mapping[str, Any]
) -> dict[str, Any]:
    model = folder / "model.onnx"
    MODELS[name](model)
    graph = load_graph(model)
    spec = ModelSpec.from_json(graph.metadata_props[SPEC_KEY])
    frames, few, tensors = folder / "frames.npy", folder / "few.npy", folder / "tensors.npy"
    np.save(frames, calibration.frames)
    np.save(few, calibration.frames[-20:])  # our accuracy report is not what is compared here
    np.save(tensors, _tensors(spec, calibration))
    judged = _tensors(spec, evaluation)
    reference = _run(to_bytes(graph), judged)
    outputs: dict[str, NDArray[np.float32]] = {}
    costs: dict[str, Any] = {}

    def quantized(label: str, python: str, code: str, output: Path, *options: object) -> bool:
        command = [python, "-c", _MEASURE.format(body=code), str(model)]
        result = subprocess.run(
            [*command, *map(str, options)], capture_output=True, text=True, check=False, cwd=Path.cwd()
        )
        if result.returncode or not output.exists():
            print(f"{name}: {label} failed: {(result.stderr.strip().splitlines() or ['?'])[-1]}")
            return False
        costs[label] = json.loads(result.stdout.strip().splitlines()[-1])
        return True

    for label, recipe in RECIPES.items():
        output = folder / f"{label}.onnx"
        if quantized(label, sys.executable, _OURS, output, frames, output, few, *recipe):
            for target, content in _lowered(output).items():
                outputs[f"{label}: {target}"] = _run(content, judged, optimized=target == "ONNX Runtime")
    plain = folder / "plain.onnx"  # without our metadata
    graph.metadata_props.clear()
    plain.write_bytes(to_bytes(graph))
    for label, (tool, code) in PEERS.items():
        python, output = interpreters[tool], folder / f"{label}.onnx"
        body = code + _MODELOPT if tool == "modelopt" else code
        if python and quantized(label, python, body, output, tensors, output, graph.graph.inputs[0].name):
            outputs[label] = _run(output.read_bytes(), judged)
    rows = {
        label: _score(reference, output, evaluation.sources) | costs.get(label.split(":")[0], {})
        for label, output in outputs.items()
    }
    print(f"\n{name}")
    for label, row in rows.items():
        low, high = row["sqnr_interval"]
        print(
            f"  {label:40} {row['sqnr_db']:5.1f} dB [{low:.1f}, {high:.1f}]  agreement {row['agreement']:.3f}"
            f"  {row.get('seconds', '')} s, CPU {row.get('cpu_seconds', '')} s  {row.get('peak_mb', '')} MB",
            flush=True,
        )
    return rows


def _tensors(spec: ModelSpec, photos: Photos) -> NDArray[np.float32]:
    preprocess = Preprocessor(spec.image)
    found = []
    for frame in photos.frames:
        preprocess(np.ascontiguousarray(frame[:, :, ::-1]))
        found.append(preprocess.tensor[0].copy())
    return np.stack(found)


def _lowered(calibrated: Path) -> dict[str, bytes]:
    graph = load_graph(calibrated)
    table = QuantizationTable.from_json(graph.metadata_props[QUANTIZATION_KEY])
    symmetric = graph.clone()
    quantize(symmetric.graph, table, set(symmetric.graph))
    return {
        "symmetric": to_bytes(symmetric),
        "ONNX Runtime": to_bytes(lower_graph(graph, "int8")),
    }


def _run(content: bytes, tensors: NDArray[np.float32], *, optimized: bool = False) -> NDArray[np.float32]:
    session = create_session(content, optimized=optimized)
    name = session.get_inputs()[0].name
    rows = []
    for tensor in tensors:
        values = session.run(None, {name: tensor[None]})
        rows.append(np.concatenate([np.asarray(value, np.float32).ravel() for value in values]))
    return np.stack(rows)


def _score(
    reference: NDArray[np.float32], other: NDArray[np.float32], origin: NDArray[np.int64]
) -> dict[str, Any]:
    signal = np.square(reference, dtype=np.float64).sum(axis=1)
    noise = np.square(reference - other, dtype=np.float64).sum(axis=1)
    same = reference.argmax(axis=1) == other.argmax(axis=1)
    numbers = np.unique(origin)
    totals = np.stack([[values[origin == n].sum() for n in numbers] for values in (signal, noise)])
    draws = np.random.default_rng(0).integers(0, len(numbers), (_DRAWS, len(numbers)))
    sampled = totals[:, draws].sum(axis=2)
    low, high = np.quantile(10 * np.log10(sampled[0] / sampled[1]), [0.025, 0.975])
    return {
        "sqnr_db": round(float(10 * np.log10(signal.sum() / noise.sum())), 2),
        "sqnr_interval": [round(float(low), 2), round(float(high), 2)],
        "agreement": round(float(same.mean()), 4),
    }


if __name__ == "__main__":
    main()
