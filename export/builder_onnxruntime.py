"""Build for ONNX Runtime: lower a model, read back what became of it, and keep the best.

Compiling is opening a session; the graph that ONNX Runtime's optimizer makes is read back, so that a
convolution that was meant for INT8 and runs in float is seen. `auto` builds every precision that the model
allows, measures all of them on this machine in one interleaved run, and keeps the fastest that agrees with
FP32 as asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgecnn.dataset import FrameSet
from edgecnn.errors import BuildError, DataError
from edgecnn.export.camera_front import with_camera
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering import PRECISIONS, Precision, lower_graph
from edgecnn.export.measure import check_spec, compiled, measure_accuracy, measure_latency
from edgecnn.export.observed import observe_ranges
from edgecnn.export.qdq import load_float_graph
from edgecnn.files import check_output, write_atomic
from edgecnn.metadata import ACCURACY_KEY, BUILD_KEY, QUANTIZATION_KEY, read_json
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgecnn.camera_input import CameraInput

__all__ = ["DEFAULT_MIN_AGREEMENT", "BuildResult", "Candidate", "build_onnxruntime", "check_min_agreement"]

DEFAULT_MIN_AGREEMENT = 0.95


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One precision that was built and looked at.

    Attributes:
        precision: `fp32`, `fp16` or `int8`.
        size_bytes: of the file it would be.
        convolutions: precision → how many convolutions ONNX Runtime really runs in it.
        operators: operator → how many of it ONNX Runtime runs.
        latency_ms: of one inference on this machine; None where it was not measured.
        accuracy: against FP32: `images`, `outputs`, the task's metrics; None where it was not measured.
        accuracy_from: `measured now`, or `calibration` where the model carries it.
        kept_fp32: for FP16, node → why it stays in FP32.
    """

    precision: Precision
    size_bytes: int
    convolutions: Mapping[str, int]
    operators: Mapping[str, int]
    latency_ms: Mapping[str, float] | None = None
    accuracy: Mapping[str, Any] | None = None
    accuracy_from: str | None = None
    kept_fp32: Mapping[str, str] = field(default_factory=dict)

    @property
    def agreement(self) -> float | None:
        """The lowest of the task's metrics, such as `top1_agreement`; 1 for FP32 itself."""
        if self.precision == "fp32":
            return 1.0
        values = [value for name, value in (self.accuracy or {}).items() if name.endswith("_agreement")]
        return min(values, default=None)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "precision": self.precision,
            "size_bytes": self.size_bytes,
            "convolutions": dict(self.convolutions),
            "operators": dict(self.operators),
            "latency_ms": self.latency_ms,
            "accuracy": self.accuracy,
            "accuracy_from": self.accuracy_from,
            "kept_fp32": dict(self.kept_fp32),
        }


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build wrote and why.

    Attributes:
        path: the file.
        precision: what is in it.
        reason: why that precision.
        candidates: everything that was looked at.
        warnings: what was asked for and not done.
    """

    path: Path
    precision: Precision
    reason: str
    candidates: Sequence[Candidate]
    warnings: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "path": str(self.path),
            "precision": self.precision,
            "reason": self.reason,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "warnings": list(self.warnings),
        }


def build_onnxruntime(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: Precision | Literal["auto"] = "auto",
    data: FrameSet | None = None,
    min_agreement: float = DEFAULT_MIN_AGREEMENT,
    spec: ModelSpec | None = None,
    threads: int | None = None,
    camera: CameraInput | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> BuildResult:
    """Build a model for ONNX Runtime. Arguments and errors are those of `edgecnn.export.build`."""
    if precision not in (*PRECISIONS, "auto"):
        raise BuildError(
            "unknown precision", got=precision, expected="one of " + ", ".join((*PRECISIONS, "auto"))
        )
    check_min_agreement(min_agreement)
    destination = check_output(output, force=force, inputs=(model,))
    graph = load_float_graph(model)
    spec = check_spec(graph, spec, name=str(model))
    warnings = []
    lowered: dict[Precision, bytes] = {}
    half: dict[str, Any] = {}
    for name in PRECISIONS:
        wanted = precision in (name, "auto") or (name == "fp32" and data is not None)
        if precision == "auto" and name == "int8" and QUANTIZATION_KEY not in graph.metadata_props:
            warnings.append("INT8 was not considered: the model is not calibrated")
        elif wanted:
            try:
                if name == "fp16":
                    lowered[name], half = _lower_fp16(graph, spec, data, progress)
                else:
                    lowered[name] = to_bytes(lower_graph(graph, name))
            except BuildError as error:
                if precision != "auto" or name == "fp32":
                    raise
                warnings.append(f"{name} was not considered: {error}")
    latencies = measure_latency(lowered, threads=threads, progress=progress) if precision == "auto" else {}
    candidates = []
    for name, content in lowered.items():
        compiled_graph = compiled(content)
        try:
            accuracy, source = _accuracy(name, lowered, graph, data, threads, progress)
        except DataError as error:  # FP16 overflows on these frames, which calibration did not foresee
            if precision != "auto" or name != "fp16":
                raise
            warnings.append(f"fp16 was not considered: {error}")
            continue
        candidates.append(
            Candidate(
                precision=name,
                size_bytes=len(content),
                convolutions=compiled_graph.convolutions,
                operators=compiled_graph.operators,
                latency_ms=latencies.get(name),
                accuracy=accuracy,
                accuracy_from=source,
                kept_fp32=half["kept_fp32"] if name == "fp16" else {},
            )
        )
    if precision == "auto":
        chosen, reason = _choose(candidates, min_agreement)
    else:
        chosen, reason = next(c for c in candidates if c.precision == precision), "asked for"
    if chosen.precision == "fp16":
        warnings += half["warnings"]
    content = _with_report(lowered[chosen.precision], chosen)
    if camera is not None:
        content = with_camera(content, camera)
    write_atomic(destination, content, force=force)
    return BuildResult(
        path=destination,
        precision=chosen.precision,
        reason=reason,
        candidates=candidates,
        warnings=[*warnings, *_warnings(chosen, QuantizationTable.from_metadata(graph.metadata_props))],
    )


def check_min_agreement(value: float) -> None:
    """Raise BuildError unless it is a share."""
    if not 0 <= value <= 1:
        raise BuildError("min_agreement is wrong", got=str(value), expected="0 to 1")


def _lower_fp16(
    graph: ir.Model, spec: ModelSpec, data: FrameSet | None, progress: Progress
) -> tuple[bytes, dict[str, Any]]:
    """The FP16 model, and the report of its lowering. Without calibration, `data` says what overflows."""
    ranges = None
    if data is not None and QUANTIZATION_KEY not in graph.metadata_props:
        ranges = observe_ranges(graph, spec.image, data, total=data.count, progress=progress)
    lowered = lower_graph(graph, "fp16", ranges=ranges)
    return to_bytes(lowered), (read_json(lowered.metadata_props, BUILD_KEY) or {})["lowering"]


def _accuracy(
    precision: Precision,
    lowered: Mapping[Precision, bytes],
    graph: ir.Model,
    data: FrameSet | None,
    threads: int | None,
    progress: Progress,
) -> tuple[dict[str, Any] | None, str | None]:
    if precision == "fp32":
        return None, None
    if data is not None:
        agreement = measure_accuracy(
            lowered["fp32"], lowered[precision], data, threads=threads, progress=progress
        )
        return agreement.to_dict(), "measured now"
    report = read_json(graph.metadata_props, ACCURACY_KEY)
    if (
        precision == "int8"
        and report is not None
        and report.get("graph_sha256") == sha256(lowered[precision]).hexdigest()
    ):
        return report, "calibration"
    return None, None


def _choose(candidates: Sequence[Candidate], min_agreement: float) -> tuple[Candidate, str]:
    """The fastest that agrees as asked, and the reason in words."""
    notes = []
    fit = []
    for candidate in candidates:
        assert candidate.latency_ms is not None
        note = f"{candidate.precision} {candidate.latency_ms['p50']:.2f} ms"
        if candidate.agreement is not None and candidate.accuracy is not None:
            note += f", agreement {candidate.agreement:.3f} on {candidate.accuracy['images']} frames"
        elif candidate.accuracy is not None:
            note += ", agreement unknown (the task has no measure of it)"
        elif candidate.agreement is None:
            note += ", agreement not measured (give frames with --data)"
        if candidate.agreement is not None and candidate.agreement >= min_agreement:
            fit.append(candidate)
        elif candidate.agreement is not None:
            note += f", below {min_agreement:.3f}"
        notes.append(note)
    best = min(fit, key=lambda candidate: candidate.latency_ms["p50"] if candidate.latency_ms else 0.0)
    return best, f"{best.precision} is the fastest that agrees as asked ({'; '.join(notes)})"


def _with_report(content: bytes, chosen: Candidate) -> bytes:
    """The lowered model with what was measured in its metadata, but no times, which are the machine's."""
    import onnx

    proto = onnx.load_from_string(content)
    for entry in proto.metadata_props:
        if entry.key == BUILD_KEY:
            build_report = json.loads(entry.value)
            build_report |= {"convolutions": dict(chosen.convolutions), "accuracy": chosen.accuracy}
            entry.value = json.dumps(build_report, sort_keys=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _warnings(chosen: Candidate, table: QuantizationTable | None) -> list[str]:
    warnings = list(table.notes) if table is not None and chosen.precision == "int8" else []
    total = sum(chosen.convolutions.values())
    for name, count in chosen.convolutions.items():
        if name != chosen.precision:
            warnings.append(f"{count} of {total} convolutions run in {name} on this machine")
    if chosen.precision != "fp32" and chosen.accuracy is None:
        remedy = "give frames with --data"
        if chosen.precision == "int8" and table is not None and table.frames:
            remedy = f"calibrate again with this version, or {remedy}"
        warnings.append(f"the accuracy of this build was not measured: {remedy}")
    return warnings
