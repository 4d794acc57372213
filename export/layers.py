"""Layer by layer: where along the network two versions of a model start to differ.

Tensors are found by name: a lowering keeps the float model's names, and gives what an 8-bit tensor stands
for the same name with `.dq` behind it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.compare import OutputAgreement, OutputSums
from edgecnn.errors import DataError, InputError
from edgecnn.export.graph import fixed_batch, load_graph, to_bytes
from edgecnn.export.placement import activations
from edgecnn.preprocess import Preprocessor
from edgecnn.progress import Progress, no_progress
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ExposedModel", "compare_graphs", "compare_layers"]

DEQUANTIZED = ".dq"


def compare_layers(
    reference: str | os.PathLike[str],
    model: str | os.PathLike[str],
    image: ImageSpec,
    frames: Iterable[NDArray[np.uint8]],
    *,
    progress: Progress = no_progress,
) -> list[tuple[str, OutputAgreement]]:
    """Compare every tensor that both models have, in the reference's order.

    Both run node by node as written, without ONNX Runtime's fusions, which would remove tensors.

    Raises:
        InputError: the two have no tensor in common, or one of another shape.
        DataError: there is no frame.
    """
    return compare_graphs(
        load_graph(reference), load_graph(model), image, frames, name=str(model), progress=progress
    )


def compare_graphs(
    reference: ir.Model,
    model: ir.Model,
    image: ImageSpec,
    frames: Iterable[NDArray[np.uint8]],
    *,
    name: str = "the second model",
    progress: Progress = no_progress,
) -> list[tuple[str, OutputAgreement]]:
    """As `compare_layers`, for models that are loaded; both get more outputs.

    `name` is what to call the second one in messages.
    """
    first, second = reference, model
    theirs = {str(value.name) for node in second.graph for value in node.outputs}
    pairs: dict[str, str] = {}
    for value in activations(first.graph):
        tensor = str(value.name)
        counterpart = next((n for n in (tensor + DEQUANTIZED, tensor) if n in theirs), None)
        if counterpart is not None and value.producer() is not None:
            pairs[tensor] = counterpart
    if not pairs:
        raise InputError("the two models share no tensor names", expected="two versions of one model")
    ours, others = ExposedModel(first, list(pairs)), ExposedModel(second, list(pairs.values()))
    sums = {name: OutputSums() for name in pairs}
    preprocess = Preprocessor(image, batch=ours.batch)
    count = 0
    for count, frame in enumerate(frames, start=1):
        for row in range(ours.batch):
            preprocess(frame, row)
        tensors = zip(pairs, ours(preprocess.tensor), others(preprocess.tensor), strict=True)
        for tensor, one, other in tensors:
            if one.shape != other.shape:
                raise InputError(
                    f"{tensor} has another shape in {name}", got=str(other.shape), expected=str(one.shape)
                )
            sums[tensor].add(one, other)
        progress("comparing layers", count, None)
    if not count:
        raise DataError("nothing to compare with", got="no frames", expected="at least one")
    return [(tensor, entry.result()) for tensor, entry in sums.items()]


class ExposedModel:
    """A model whose inner tensors come out, computed node by node."""

    def __init__(self, model: ir.Model, names: list[str]) -> None:
        self.names = names
        self.input = str(model.graph.inputs[0].name)
        self.batch = fixed_batch(model)
        present = {str(value.name) for value in model.graph.outputs}
        wanted = set(names) - present
        for node in model.graph:
            model.graph.outputs.extend(value for value in node.outputs if value.name in wanted)
        self.session = create_session(to_bytes(model), optimized=False)

    def __call__(self, tensor: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Input tensor → the named tensors."""
        values: list[NDArray[Any]] = self.session.run(self.names, {self.input: tensor})
        return values
