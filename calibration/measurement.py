"""What INT8 costs with a table, measured on both grids that there are."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from edgecnn.backends.onnxruntime import OnnxRuntimeBackend
from edgecnn.compare import Agreement, compare
from edgecnn.dataset import FrameSet, image_frames, open_frames
from edgecnn.evaluation import (
    Labelled,
    LabelledByModel,
    LabelledSet,
    evaluate,
    higher_is_better,
    open_if_labelled,
)
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering import Target, lower_graph
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.metadata import QUANTIZATION_KEY
from edgecnn.model import Model
from edgecnn.progress import Progress
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["GridCost", "Measured", "Measuring", "agreements", "open_with_labels"]

_TOLERABLE_DB = 1.0


class GridCost(NamedTuple):
    """What INT8 costs on one of the two grids.

    Attributes:
        target: whose grid it is.
        words: what to call it in a sentence.
        accuracy: against the float model.
        drops: as in `Measured`.
    """

    target: Target
    words: str
    accuracy: Agreement
    drops: Mapping[str, float]


class Measured(NamedTuple):
    """What INT8 costs with a table.

    Attributes:
        accuracy: as ONNX Runtime runs it.
        symmetric: on the table's own grid, which TensorRT gets, with all else in FP32.
        lowered: the bytes of the model that ONNX Runtime gets.
        drops: metric → by how much it is worse than FP32's, in points of a hundred (of an error, in its own
            unit), as ONNX Runtime runs it and on TensorRT's grid; empty where none was asked for.
    """

    accuracy: Agreement
    symmetric: Agreement
    lowered: bytes
    drops: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})

    @property
    def grids(self) -> tuple[GridCost, GridCost]:
        """Both of them."""
        return (
            GridCost("onnxruntime", "as ONNX Runtime runs it", self.accuracy, self.drops[0]),
            GridCost("tensorrt", "on TensorRT's grid", self.symmetric, self.drops[1]),
        )

    def worse_than(self, other: Measured) -> str | None:
        """In words, on which of the two grids it is worse; None where neither is worse in earnest.

        A loss counts where it is more than the gain on the other grid, or more than 1 dB: frames are few.
        """
        pairs = [
            (one.accuracy.worst_sqnr_db, two.accuracy.worst_sqnr_db, one.words)
            for one, two in zip(self.grids, other.grids, strict=True)
        ]
        losses = [(two - one if one < two else 0.0, one, two, grid) for one, two, grid in pairs]
        loss, one_db, two_db, grid = max(losses)
        more_lost = sum(one for one, _, _ in pairs) < sum(two for _, two, _ in pairs)
        if loss > _TOLERABLE_DB or (loss > 0 and more_lost):
            return f"{one_db:.1f} dB instead of {two_db:.1f} {grid}"
        return None


def agreements(agreement: Agreement) -> dict[str, float]:
    """The metrics by which two models are said to agree."""
    return {name: value for name, value in agreement.metrics.items() if name.endswith("_agreement")}


def open_with_labels(
    path: str | os.PathLike[str], spec: ModelSpec, *, limit: int | None
) -> tuple[FrameSet, LabelledSet | None]:
    """Frames, and their labels where `edgecnn.evaluation` finds some for the spec's task.

    Raises:
        DataError: labels that are damaged or not the model's, or no frames.
        SourceError: the video or camera cannot be opened.
    """
    labelled = open_if_labelled(path, spec, limit=limit)
    if labelled is None:
        return open_frames(path, limit=limit), None
    return image_frames([item.path for item in labelled.items], labelled.name), labelled


class Measuring:
    """Compares a model with a table to itself in float.

    Args:
        model: the float model; a change of its metadata is seen.
        frames: to compare on.
        metrics: of `edgecnn.evaluation`, whose drops are wanted.
        labelled: labels for those metrics, in an order that the frames' positions are places in; where None,
            what the float model finds is taken as right.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as frames are done.
    """

    def __init__(
        self,
        model: ir.Model,
        frames: FrameSet,
        *,
        metrics: Collection[str] = (),
        labelled: LabelledSet | None = None,
        threads: int | None,
        progress: Progress,
    ) -> None:
        self.model, self.frames = model, frames
        self._metrics = metrics
        self._labelled = labelled
        self._threads = threads
        self._progress = progress

    def __call__(self, table: QuantizationTable, stage: str) -> Measured:
        """Measure; `stage` is what the progress is called."""
        quantized = self.model.clone()
        quantized.metadata_props[QUANTIZATION_KEY] = table.to_json()
        lowered = to_bytes(lower_graph(quantized, "int8"))
        quantize(quantized.graph, table, set(quantized.graph))
        with ExitStack() as stack:

            def opened(content: bytes, name: str) -> Model:
                return stack.enter_context(
                    Model(OnnxRuntimeBackend(content, threads=self._threads), name=name)
                )

            exact = opened(to_bytes(self.model), "the FP32 model")
            grids = [opened(content, "the lowered model") for content in (lowered, to_bytes(quantized))]
            accuracy, symmetric = (
                self._compared(exact, model, stage, number) for number, model in enumerate(grids)
            )
            drops = [self._drops(exact, model) for model in grids] if self._metrics else [{}, {}]
        return Measured(accuracy, symmetric, lowered, (drops[0], drops[1]))

    def of(self, model: ir.Model) -> Measuring:
        """The same for another model."""
        other = copy.copy(self)
        other.model = model
        return other

    def on(self, frames: FrameSet) -> Measuring:
        """The same on other frames of the same set."""
        return Measuring(
            self.model,
            frames,
            metrics=self._metrics,
            labelled=self._labelled,
            threads=self._threads,
            progress=self._progress,
        )

    def agreements(self) -> dict[str, float]:
        """The task's metrics of agreement, of the float model with itself on one frame."""
        with Model(OnnxRuntimeBackend(to_bytes(self.model), threads=self._threads)) as exact:
            return agreements(compare(exact, exact, itertools.islice(self.frames, 1)))

    def scores(self) -> dict[str, float]:
        """The float model's own metrics on the frames, or on the labelled ones."""
        with Model(OnnxRuntimeBackend(to_bytes(self.model), threads=self._threads)) as exact:
            return self._scores(exact, exact)

    def _compared(self, exact: Model, model: Model, stage: str, number: int) -> Agreement:
        total = self.frames.count

        def both(_: str, done: int, __: int | None) -> None:
            self._progress(stage, number * total + done, 2 * total)

        return compare(exact, model, self.frames, total=total, progress=both)

    def _drops(self, exact: Model, model: Model) -> dict[str, float]:
        right, found = self._scores(exact, exact), self._scores(exact, model)
        return {
            name: 100 * (right[name] - found[name]) if higher_is_better(name) else found[name] - right[name]
            for name in self._metrics
        }

    def _scores(self, exact: Model, model: Model) -> dict[str, float]:
        labelled: Labelled = LabelledByModel(exact, self.frames)
        if self._labelled is not None:
            items = [self._labelled.items[position] for position in self.frames.positions]
            labelled = LabelledSet(self._labelled.name, items)
        return dict(evaluate(model, labelled, progress=self._progress).metrics)
