"""How good a model is: labelled frames through it, and the task's metrics over what it finds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera.source import Skipped
from edgecnn.dataset import FrameSet
from edgecnn.errors import DataError, EdgeCNNError, InputError, UnlabelledError
from edgecnn.evaluation.labelled import Labelled, LabelledFrame, LabelledSet, Place
from edgecnn.evaluation.scores import Scores
from edgecnn.evaluation.tasks import Metric, available_metrics, metric_module, scoring_head
from edgecnn.geometry import Geometry
from edgecnn.progress import Progress, no_progress
from edgecnn.results import Result
from edgecnn.spec import ModelSpec
from edgecnn.tiling import AnyModel

__all__ = ["Evaluation", "LabelledByModel", "evaluate", "open_if_labelled", "open_labelled"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(Scores):
    """What `evaluate` found.

    Attributes:
        task: the model's.
        images: how many frames were looked at.
        skipped: images that could not be read, with the reason.
    """

    task: str
    images: int
    skipped: tuple[Skipped, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object: `task`, `images`, `skipped`, and what `Scores` has."""
        skipped = [{"path": str(path), "reason": reason} for path, reason in self.skipped]
        return {"task": self.task, "images": self.images, "skipped": skipped, **super().to_dict()}


def open_labelled(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    *,
    images: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> LabelledSet:
    """Open a labelled data set; docs/evaluation.md says how each task's is laid out.

    Args:
        path: a folder, or a file of labels.
        spec: the model's: its task says what labels are, its class names what they are called.
        images: the folder of the images, where they are not beside the labels.
        limit: images to use at most, evenly spaced.

    Raises:
        UnlabelledError: there are none.
        DataError: they cannot be read, are damaged, or their classes are not the model's.
    """
    if limit is not None and limit < 1:
        raise DataError("limit is wrong", got=str(limit), expected="a whole number from 1")
    place = Place(data=Path(path), images=None if images is None else Path(images), spec=spec)
    if not place.data.exists():
        raise DataError(f"no labelled data at {place.data}", expected="a folder, or a file of labels")
    if place.images is not None and not place.images.is_dir():
        raise DataError(f"no folder {place.images}", expected="a folder of images")
    return LabelledSet(place.data.name, metric_module(spec.task).labels(place)).limited(limit)


def open_if_labelled(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    *,
    images: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> LabelledSet | None:
    """As `open_labelled`, for what may be frames alone: None without labels, or for a task without metrics.

    Raises:
        DataError: labels that cannot be read, are damaged, or have other classes than the model.
    """
    place = Path(path)
    may_have_labels = (
        place.is_dir() or place.suffix.lower() in (".json", ".yaml", ".yml") or images is not None
    )
    if not may_have_labels or spec.task not in available_metrics():
        return None
    try:
        return open_labelled(place, spec, images=images, limit=limit)
    except UnlabelledError:
        return None


class LabelledByModel:
    """Frames without labels: what a model finds in them is taken as right.

    Args:
        model: usually FP32; its results are as its own head gives them.
        frames: (H, W, 3) uint8 BGR.

    Raises:
        DataError: results of this task cannot stand for labels.
    """

    def __init__(self, model: AnyModel, frames: FrameSet) -> None:
        self.name = frames.name
        self._model = model
        self._frames = frames
        module = metric_module(model.spec.task)
        if not hasattr(module, "truth_of"):
            raise DataError(f"results of the task {model.spec.task} are no labels", expected="labelled data")
        self._truth_of = partial(module.truth_of, model.spec)

    @property
    def count(self) -> int:
        """How many frames there will be, unreadable ones included."""
        return self._frames.count

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be read so far, each once."""
        return self._frames.skipped

    def __iter__(self) -> Iterator[LabelledFrame]:
        for index, frame in enumerate(self._frames):
            yield LabelledFrame(frame, self._truth_of(self._model(frame)), f"{self.name} {index}")


def evaluate(model: AnyModel, labelled: Labelled, *, progress: Progress = no_progress) -> Evaluation:
    """Run a model on labelled frames, and compute its task's metrics.

    Frames are held one batch at a time; what is kept is what the metric needs of labels and results.

    Args:
        model: with its own preprocessing, on its own backend; in tiles or a region where it is one of those.
        labelled: what `open_labelled` opened for this model's spec, or `LabelledByModel`.
        progress: hears of each batch.

    Raises:
        DataError: no frame could be read, or a label does not fit.
        InferenceError: the model failed.
        BackendUnavailableError: pycocotools is not installed, for the tasks that need it.
    """
    spec = model.spec
    metric = metric_module(spec.task).create(spec)
    looking: Any = model.with_head(scoring_head(spec))
    rows = model.batch_size or 1
    slot = looking.input_slots(1, rows)[0]
    images = 0
    waiting: list[tuple[Any, str, Geometry]] = []

    def run() -> None:
        nonlocal images
        try:
            outputs = looking.run_slot(slot, len(waiting))
        except InputError as error:  # a region outside of the frame, which is looked at alone
            raise _of_image(error, waiting[0][1]) from error
        results = looking.decode(outputs, [geometry for _, _, geometry in waiting])
        for (truth, name, _), result in zip(waiting, results, strict=True):
            _add(metric, truth, result, name)
        images += len(waiting)
        waiting.clear()
        progress("evaluating", images, labelled.count)

    for image, truth, name in labelled:
        waiting.append((truth, name, _fill(slot, len(waiting), image, name)))
        if len(waiting) == rows:
            run()
    if waiting:
        run()
    if not images:
        raise DataError("nothing to evaluate with", got="no frames", expected="at least one")
    progress("metrics", 0, 1)  # of thousands of images, COCO's code takes a minute
    found: Scores = metric.scores()
    progress("metrics", 1, 1)
    own = {name: getattr(found, name) for name in Scores.__dataclass_fields__}
    return Evaluation(task=spec.task, images=images, skipped=tuple(labelled.skipped), **own)


def _fill(slot: Any, index: int, image: NDArray[np.uint8], name: str) -> Geometry:
    try:
        geometry: Geometry = slot.fill(index, image)
        return geometry
    except EdgeCNNError as error:
        raise _of_image(error, name) from error


def _add(metric: Metric, truth: Any, result: Result, name: str) -> None:
    try:
        metric.add(truth, result)
    except DataError as error:
        raise _of_image(error, name) from error


def _of_image(error: EdgeCNNError, name: str) -> DataError:
    return DataError(f"{name}: {error.what}", got=error.got, expected=error.expected, remedy=error.remedy)
