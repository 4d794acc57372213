"""The exported graph against PyTorch: the same inputs, the same outputs, or the layer where they part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.errors import ParityError
from edgecnn.export.capture import Capture
from edgecnn.export.parity import Comparison, relative_error, top1_agreement
from edgecnn.export.reference import Reference
from edgecnn.export.result import OutputParity, ParityReport
from edgecnn.export.torch_boundary import essential_line, quiet
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["compare"]


def compare(
    model: onnx.ModelProto,
    captured: Capture,
    torch_names: Mapping[str, str],
    reference: Reference,
    images: Sequence[NDArray[np.float32]],
    spec: ModelSpec,
    *,
    tolerance: float,
) -> ParityReport:
    """Run the exported graph in ONNX Runtime and the module in PyTorch, on every input.

    Args:
        model: the exported graph, as it will be written.
        captured: what it was made from.
        torch_names: name of a tensor of the graph → name of the torch node that computes the same.
        reference: the PyTorch side, inside its `evaluating()`.
        images: input tensors, of every batch size that the graph promises to take.
        spec: with the head completed.
        tolerance: largest accepted relative error of an output.

    Raises:
        ParityError: they differ by more. It names the first layer that does, where that can be known.
    """
    session = create_session(model.SerializeToString())
    names = [value.name for value in model.graph.output]
    comparisons = [Comparison(name) for name in names]
    scores: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
    scores_at = names.index(spec.head.get("output") or names[0])
    worst_image, worst_error = images[0], -1.0
    for image in images:
        expected = list(reference.run(image).values())
        actual = _run_session(session, names, image)
        for name, comparison, r, y in zip(names, comparisons, expected, actual, strict=True):
            if r.shape != y.shape or r.dtype != y.dtype:
                raise ParityError(
                    f"output {name} has another form in ONNX than in PyTorch",
                    got=f"{y.dtype} {y.shape} for a batch of {len(image)}",
                    expected=f"{r.dtype} {r.shape}",
                    remedy="The module's shapes may depend on the batch: use --batch N",
                )
            comparison.add(r, y)
            error = relative_error(r, y)
            if error > worst_error or math.isnan(error):
                worst_image, worst_error = image, error
        scores[0].append(expected[scores_at])
        scores[1].append(actual[scores_at])
    failed = [comparison for comparison in comparisons if not comparison.relative_error <= tolerance]
    if failed:
        raise _parity_error(
            failed[0].result(),
            tolerance,
            _blame(model, captured, torch_names, reference, worst_image, tolerance),
        )
    return ParityReport(
        outputs=tuple(comparison.result() for comparison in comparisons),
        images=sum(len(image) for image in images),
        batches=tuple(sorted({len(image) for image in images})),
        tolerance=tolerance,
        top1_agreement=top1_agreement(*scores) if spec.task == "classification" else None,
    )


def _run_session(session: Any, names: list[str], image: NDArray[np.float32]) -> list[NDArray[Any]]:
    try:
        values: list[NDArray[Any]] = session.run(names, {"image": image})
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        raise ParityError(
            f"the exported graph does not run with a batch of {len(image)}",
            got=essential_line(error),
            remedy="The module's shapes may depend on the batch: use --batch N",
        ) from error
    return values


def _blame(
    model: onnx.ModelProto,
    captured: Capture,
    torch_names: Mapping[str, str],
    reference: Reference,
    image: NDArray[np.float32],
    tolerance: float,
) -> str:
    """Where the two part, in words."""
    import torch

    from edgecnn.export.divergence import first_divergence

    if captured.program is None:
        return "in a layer that cannot be named, since the tracer keeps no trace of them"
    try:
        with quiet():
            found = first_divergence(
                model, captured.program, torch_names, torch.from_numpy(image), tolerance=tolerance
            )
    except Exception as error:  # a diagnosis that fails must not hide what it was to explain
        return f"in a layer that could not be found ({essential_line(error)})"
    if found is None:
        return "in no single layer: ONNX Runtime's optimizer changes the result"
    return f"first in layer {found.node} ({found.operator}), by {found.relative_error:.2g} of its range"


def _parity_error(worst: OutputParity, tolerance: float, where: str) -> ParityError:
    return ParityError(
        f"the exported graph differs from PyTorch in output {worst.name}",
        got=f"an error of {worst.max_abs_error:.3g}, {worst.relative_error:.2g} of its range, {where}",
        expected=f"at most {tolerance:g} of the range",
        remedy="Nothing was written. Try another --opset or --exporter, or accept it with --tolerance",
    )
