"""INT8 accuracy of our calibration and of other tools', on the same models, frames and harness.

    python -m benchmarks.quantization [--models NAME …] [--results FOLDER] [--peers FOLDER]
        [--opencv-doc FOLDER] [--adaround]

Frames are crops of photos and videos that are installed (`benchmarks.photos`), or what a model of
samples/models was trained for (`benchmarks.trained`); calibration and evaluation have no source in
common. Every tool quantizes the same float ONNX file with the same 200 input tensors; ours holds a fifth
of them out to check itself. What it makes is run by ONNX Runtime with optimizations off on the same other
tensors, and compared with the float model: SQNR over all outputs, and how often the largest number of the
first output is the same. Intervals (95 %) are bootstrapped over sources; so is the difference to the best
peer.

Rows of ours: *symmetric* is what TensorRT gets, with all else in FP32 as the peers have it; *ONNX
Runtime* its lowering; *dense in float* the same table with all Gemm and MatMul in float, as Model
Optimizer has them; *mixed* has layers in float until --min-sqnr and, of a classifier, --min-agreement
are met, where INT8 everywhere does not meet them (other numbers want another folder of --results). Who
asks for an agreement needs more frames: 200 others of calibration's sources, of which half choose.
`again` says whether a second run gave the same bytes. TensorRT for RTX compiles what we lower for it,
for SM86 and SM120, if it is installed.

The peers run in environments of their own, folders in --peers:

    python -m venv onnxruntime && onnxruntime/bin/pip install onnx onnxruntime
    python -m venv nncf && nncf/bin/pip install nncf onnx onnxruntime
    python -m venv modelopt && modelopt/bin/pip install torch==2.13.0 nvidia-modelopt onnx onnxruntime \
        onnxconverter-common onnx-graphsurgeon onnxslim polygraphy lief

With --results, whatever is done stays done: the same command goes on where the last one was cut off, and
single results are done again by deleting their files. Last line: JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.photos import OPENCV_DOC, Photos
from benchmarks.quantization_tools import PEERS, RECIPES, Tool, quantize_with
from benchmarks.trained import MODELS, Trained, more_of, photos_of
from edgecnn.backends.onnxruntime import create_session
from edgecnn.errors import EdgeCNNError
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.lowering.tensorrt_centring import fold_zero_points
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.export.placement import name_of
from edgecnn.export.tensorrt import CompileOptions, compile_onnx
from edgecnn.export.tensorrt.operations import count_operations
from edgecnn.files import write_atomic
from edgecnn.metadata import QUANTIZATION_KEY, SPEC_KEY
from edgecnn.preprocess import Preprocessor
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ModelSpec

CALIBRATION = 200
_DRAWS = 1000
_ARCHITECTURES = ("8.6", "12.0")
_DENSE = ("Gemm", "MatMul")


def main() -> None:
    """Quantize each model with each tool, and show the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--results", type=Path, help="folder that keeps what was done")
    parser.add_argument("--peers", type=Path, help="folder with the peers' environments")
    parser.add_argument("--opencv-doc", type=Path, default=OPENCV_DOC, help="examples of Debian's opencv-doc")
    parser.add_argument("--evaluation", type=int, default=300, help="frames to judge by")
    parser.add_argument("--min-sqnr", type=float, default=25.0, help="of mixed, in dB (%(default)s)")
    parser.add_argument("--min-agreement", type=float, default=0.985, help="of mixed (%(default)s)")
    parser.add_argument("--adaround", action="store_true", help="our slowest recipe as well")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    seconds = sum(MODELS[name].seconds for name in arguments.models)
    print(f"about {seconds / 60:.0f} minutes on two quiet cores, less what is done already", flush=True)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.models:
            started = time.perf_counter()
            folder = (arguments.results or Path(scratch)) / re.sub(r"[^A-Za-z0-9]+", "-", name)
            folder.mkdir(parents=True, exist_ok=True)
            report[name] = _Comparison(name, MODELS[name], folder, arguments).run()
            _show(name, report[name], time.perf_counter() - started)
    print(json.dumps(report))


class _Comparison:
    """One model. Its files are in `folder`: the model, frames, and one NAME.json and NAME.npy a row."""

    def __init__(self, name: str, model: Trained, folder: Path, arguments: argparse.Namespace) -> None:
        self.name, self.folder, self.arguments = name, folder, arguments
        self.path = folder / "model.onnx"
        if not self.path.exists():
            model.export(folder / "exporting.onnx")
            (folder / "exporting.onnx").replace(self.path)
        self.graph = load_graph(self.path)
        self.spec = ModelSpec.from_json(self.graph.metadata_props[SPEC_KEY])
        calibration, self.evaluation = photos_of(
            model, arguments.opencv_doc, (CALIBRATION, arguments.evaluation)
        )
        _write_frames(calibration, folder / "frames")
        _write_frames(more_of(model, arguments.opencv_doc, CALIBRATION), folder / "more frames")
        np.save(folder / "tensors.npy", _tensors(self.spec, calibration))
        self.judged = _tensors(self.spec, self.evaluation)
        first = self._session(to_bytes(self.graph)).get_outputs()[0]
        self.reference = self._run(to_bytes(self.graph), optimized=True)
        width = [side for side in first.shape[1:] if side != 1]
        self.classes = int(width[0]) if len(width) == 1 and isinstance(width[0], int) else 0
        bare = self.graph.clone()
        bare.metadata_props.clear()
        (folder / "plain.onnx").write_bytes(to_bytes(bare))

    def run(self) -> dict[str, Any]:
        """Row → its figures."""
        rows: dict[str, Any] = {}
        for label, options in RECIPES.items():
            recipe = options
            if label == "ours, AdaRound" and not self.arguments.adaround:
                continue
            if label == "ours, mixed":
                budget = self._missed(rows)
                if not budget:
                    continue
                recipe = {"budget": budget, "evaluation_data": str(self.folder / "more frames")}
            rows |= self._ours(label, recipe)
        for label, tool in PEERS.items():
            python = (self.arguments.peers or Path("/nowhere")) / tool.interpreter / "bin" / "python"
            if python.exists():
                rows[label] = self._peer(label, tool, str(python))
        rows["lead"] = self._lead(rows)
        return rows

    def _missed(self, rows: Mapping[str, Any]) -> dict[str, float]:
        """The budget for mixed precision; empty where INT8 everywhere meets it."""
        score = rows.get("ours: symmetric", {})
        budget = {"min_sqnr_db": self.arguments.min_sqnr}
        if self.spec.task == "classification":
            budget["min_agreement"] = self.arguments.min_agreement
        met = score.get("sqnr_db", 0) >= budget["min_sqnr_db"] and score.get("agreement", 1) >= budget.get(
            "min_agreement", 0
        )
        return {} if met else budget

    def _ours(self, label: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
        calibrated = self.folder / f"{label}.onnx"
        files = [self.path, self.folder / "frames", calibrated]
        cost = self._once(label, lambda: quantize_with(recipe, "", files))
        if "error" in cost:
            return {label: cost}
        if label == "ours":
            cost |= self._once("again", lambda: self._again(recipe))
        if label in ("ours", "ours, mixed"):
            cost |= self._once(f"{label}, compiled", lambda: _compiled(calibrated))
            cost |= self._once(f"{label}, kept", lambda: _kept(calibrated))
        rows = {}
        for variant, content in self._variants(label, calibrated).items():
            outputs = self._outputs(variant, content, optimized=variant.endswith("ONNX Runtime"))
            rows[variant] = self._score(outputs) | (cost if variant.endswith(f"{label}: symmetric") else {})
        return rows

    def _peer(self, label: str, tool: Tool, python: str) -> dict[str, Any]:
        output, name = self.folder / f"{label}.onnx", self.graph.graph.inputs[0].name
        files = [self.folder / "plain.onnx", self.folder / "tensors.npy", output, name]
        cost = self._once(label, lambda: quantize_with(tool, python, files))
        return cost if "error" in cost else self._score(self._outputs(label, output.read_bytes)) | cost

    def _variants(self, label: str, calibrated: Path) -> dict[str, Callable[[], bytes]]:
        found: dict[str, Callable[[], bytes]] = {
            f"{label}: symmetric": lambda: _symmetric(calibrated),
            f"{label}: ONNX Runtime": lambda: to_bytes(lower_graph(load_graph(calibrated), "int8")),
        }
        if label == "ours" and any(node.op_type in _DENSE for node in self.graph.graph):
            found["ours, dense in float: symmetric"] = lambda: _symmetric(calibrated, dense_in_float=True)
        return found

    def _again(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        first, second = self.folder / "ours.onnx", self.folder / "again.onnx"
        found = quantize_with(recipe, "", [self.path, self.folder / "frames", second])
        if "error" in found:
            return {"again": found["error"]}
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)]
        return {"again": "the same bytes" if digests[0] == digests[1] else "OTHER BYTES"}

    def _once(self, label: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was found the last time, or is found now; an error is tried again."""
        path = self.folder / f"{label}.json"
        if path.exists():
            kept: dict[str, Any] = json.loads(path.read_text())
            return kept
        found = work()
        if "error" in found:
            print(f"{self.name}: {label} failed: {found['error']}", flush=True)
        else:
            write_atomic(path, json.dumps(found).encode(), force=True)
        return found

    def _outputs(
        self, label: str, content: Callable[[], bytes], *, optimized: bool = False
    ) -> NDArray[np.float32]:
        path = self.folder / f"{label}.npy"
        if path.exists():
            kept: NDArray[np.float32] = np.load(path)
            if len(kept) == len(self.judged):
                return kept
        found = self._run(content(), optimized=optimized)
        np.save(self.folder / "writing.npy", found)
        (self.folder / "writing.npy").replace(path)
        return found

    def _session(self, content: bytes, *, optimized: bool = False) -> Any:
        return create_session(content, optimized=optimized)

    def _run(self, content: bytes, *, optimized: bool = False) -> NDArray[np.float32]:
        session = self._session(content, optimized=optimized)
        name = session.get_inputs()[0].name
        rows = []
        for tensor in self.judged:
            values = session.run(None, {name: tensor[None]})
            rows.append(np.concatenate([np.asarray(value, np.float32).ravel() for value in values]))
        return np.stack(rows)

    def _score(self, other: NDArray[np.float32]) -> dict[str, Any]:
        signal, noise = self._sums(other)
        low, high = np.quantile(_decibels(*self._drawn(signal, noise)), [0.025, 0.975])
        score: dict[str, Any] = {
            "sqnr_db": round(float(_decibels(signal.sum(), noise.sum())), 2),
            "sqnr_interval": [round(float(low), 2), round(float(high), 2)],
        }
        if self.classes:
            best = [values[:, : self.classes].argmax(axis=1) for values in (self.reference, other)]
            same = (best[0] == best[1]).astype(np.float64)
            drawn = self._drawn(same, np.ones(len(same)))
            low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
            score["agreement"] = round(float(same.mean()), 4)
            score["agreement_interval"] = [round(float(low), 4), round(float(high), 4)]
        return score

    def _lead(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """By how many dB ours, symmetric, is above the best peer: with a paired interval."""
        peers = {label: rows[label]["sqnr_db"] for label in PEERS if "sqnr_db" in rows.get(label, {})}
        leads: dict[str, Any] = {}
        if not peers:
            return leads
        best = max(peers, key=lambda label: peers[label])
        other = self._drawn(*self._sums(np.load(self.folder / f"{best}.npy")))
        for label in ("ours: symmetric", "ours, dense in float: symmetric"):
            if label in rows:
                ours = self._drawn(*self._sums(np.load(self.folder / f"{label}.npy")))
                low, high = np.quantile(_decibels(*ours) - _decibels(*other), [0.025, 0.975])
                leads[label] = {
                    "best_peer": best,
                    "lead_db": round(rows[label]["sqnr_db"] - peers[best], 2),
                    "interval": [round(float(low), 2), round(float(high), 2)],
                }
        return leads

    def _sums(self, other: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        signal = np.square(self.reference, dtype=np.float64).sum(axis=1)
        return signal, np.square(self.reference - other, dtype=np.float64).sum(axis=1)

    def _drawn(self, *values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of each of `values` over sources drawn with replacement, (len(values), draws)."""
        origin = self.evaluation.sources
        numbers = np.unique(origin)
        totals = np.stack([[row[origin == number].sum() for number in numbers] for row in values])
        draws = np.random.default_rng(0).integers(0, len(numbers), (_DRAWS, len(numbers)))
        sums: NDArray[np.float64] = totals[:, draws].sum(axis=2)
        return sums


def _write_frames(photos: Photos, folder: Path) -> None:
    """Files whose names tell the source, by which calibration holds some of them out, as for anybody."""
    folder.mkdir(exist_ok=True)
    for index, (frame, source) in enumerate(zip(photos.frames, photos.sources, strict=True)):
        cv2.imwrite(str(folder / f"{photos.names[source]}_{index:04}.png"), frame[:, :, ::-1])


def _decibels(signal: Any, noise: Any) -> Any:
    return 10 * np.log10(signal / np.maximum(noise, 1e-30))


def _tensors(spec: ModelSpec, photos: Photos) -> NDArray[np.float32]:
    preprocess = Preprocessor(spec.image)
    found = []
    for frame in photos.frames:
        preprocess(np.ascontiguousarray(frame[:, :, ::-1]))
        found.append(preprocess.tensor[0].copy())
    return np.stack(found)


def _symmetric(calibrated: Path, *, dense_in_float: bool = False) -> bytes:
    """As for TensorRT, with all else in FP32."""
    graph = load_graph(calibrated)
    table = QuantizationTable.from_json(graph.metadata_props[QUANTIZATION_KEY])
    if dense_in_float:
        dense = {name_of(node): "a dense layer" for node in graph.graph if node.op_type in _DENSE}
        table = dataclasses.replace(table, kept_in_float={**table.kept_in_float, **dense})
    everything = set(graph.graph)
    quantize(graph.graph, table, everything)
    fold_zero_points(graph.graph, everything)
    return to_bytes(graph)


def _kept(calibrated: Path) -> dict[str, Any]:
    """How many layers calibration kept in float, and the share of the operations that is INT8."""
    graph = load_graph(calibrated)
    table = QuantizationTable.from_json(graph.metadata_props[QUANTIZATION_KEY])
    operations = count_operations(ir.to_proto(graph))
    kept = sum(operation.macs for operation in operations if operation.node in table.kept_in_float)
    share = 1 - kept / max(1, sum(operation.macs for operation in operations))
    return {"kept": f"{len(table.kept_in_float)} layers in float, INT8 {share:.3f}"}


def _compiled(calibrated: Path) -> dict[str, Any]:
    """What NVIDIA's compiler says to the lowered model, by compute capability."""
    content = to_bytes(lower_graph(load_graph(calibrated), "int8", target="tensorrt"))
    found = {}
    for capability in _ARCHITECTURES:
        options = CompileOptions(compute_capabilities=(capability,))
        with tempfile.TemporaryDirectory() as folder:
            try:
                totals = compile_onnx(content, Path(folder, "model.plan"), options).report.totals()
            except EdgeCNNError as error:
                found[capability] = f"refused: {error}"
                continue
        found[capability] = f"{totals['kernels']} kernels, INT8 {totals['convolutions_int8']:.3f}"
    return {"compiled": found}


def _show(name: str, rows: Mapping[str, Any], seconds: float) -> None:
    print(f"\n{name} ({seconds:.0f} s)")
    for label, row in rows.items():
        if "sqnr_db" not in row:
            continue
        low, high = row["sqnr_interval"]
        agreement = f"  agreement {row['agreement']:.3f}" if "agreement" in row else ""
        cost = (
            f"  {row['seconds']} s, CPU {row['cpu_seconds']} s, {row['peak_mb']} MB"
            if "seconds" in row
            else ""
        )
        print(f"  {label:34} {row['sqnr_db']:5.1f} dB [{low:.1f}, {high:.1f}]{agreement}{cost}")
        for key in ("kept", "again", "compiled"):
            if key in row:
                print(f"  {'':34} {key}: {row[key]}")
    for label, lead in rows.get("lead", {}).items():
        low, high = lead["interval"]
        print(
            f"  {label:34} {lead['lead_db']:+.1f} dB [{low:+.1f}, {high:+.1f}] to {lead['best_peer']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
