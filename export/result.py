"""What an export returns: the file, and how far it agrees with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecnn.backends import TensorInfo
from edgecnn.spec import ModelSpec

__all__ = ["ExportResult", "OutputParity", "ParityReport"]


@dataclass(frozen=True, kw_only=True)
class OutputParity:
    """How far one output of the exported model is from PyTorch's, over all inputs of the check.

    Attributes:
        name: the output's name in the ONNX graph.
        max_abs_error: largest difference of two elements, in the output's own units.
        relative_error: `max_abs_error` as a fraction of the reference's range (its largest value minus its
            smallest); for an integer or boolean output, the fraction of elements that differ.
        sqnr_db: 10 log10(Σ reference² / Σ (reference − output)²); None where they are equal bit by bit.
        cosine: cosine of the angle between the two, each taken as one long vector.
    """

    name: str
    max_abs_error: float
    relative_error: float
    sqnr_db: float | None
    cosine: float

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, without the name."""
        return {
            "max_abs_error": self.max_abs_error,
            "relative_error": self.relative_error,
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
        }


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The exported model in ONNX Runtime against the PyTorch module, on the same inputs.

    Attributes:
        outputs: one entry an output, in the graph's order.
        images: how many images were compared.
        batches: the batch sizes that were tried.
        tolerance: largest `relative_error` that was accepted.
        top1_agreement: for classification, the fraction of images for which both name the same class.
    """

    outputs: tuple[OutputParity, ...]
    images: int
    batches: tuple[int, ...]
    tolerance: float
    top1_agreement: float | None = None

    @property
    def worst(self) -> OutputParity:
        """The output with the largest relative error."""
        return max(self.outputs, key=lambda output: output.relative_error)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "outputs": {output.name: output.to_dict() for output in self.outputs},
            "images": self.images,
            "batches": list(self.batches),
            "tolerance": self.tolerance,
            "top1_agreement": self.top1_agreement,
        }


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """An exported model and what is known of it.

    Attributes:
        path: the ONNX file.
        size_bytes: its size.
        opset: the version of ONNX's operators that it uses.
        spec: what the file says of itself; the head may have been completed from the graph.
        inputs, outputs: the graph's, with None for a free batch.
        node_counts: operator → number of nodes, most frequent first.
        parity: measured against the PyTorch module before the file was written.
        exporter: `dynamo` (torch.export) or `torchscript`.
        notes: what the user should know, in words.
        seconds: how long it took.
    """

    path: Path
    size_bytes: int
    opset: int
    spec: ModelSpec
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    node_counts: Mapping[str, int]
    parity: ParityReport
    exporter: str
    notes: tuple[str, ...] = field(default=())
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        import json

        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "opset": self.opset,
            "inputs": [_tensor(info) for info in self.inputs],
            "outputs": [_tensor(info) for info in self.outputs],
            "nodes": dict(self.node_counts),
            "parity": self.parity.to_dict(),
            "exporter": self.exporter,
            "notes": list(self.notes),
            "spec": json.loads(self.spec.to_json()),
            "seconds": round(self.seconds, 3),
        }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "shape": list(info.shape), "dtype": info.dtype}
