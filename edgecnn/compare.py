"""How far two models agree on the same frames.

Over all frames and elements of an output, with `ref` the first model's values and `x` the second's:

    SQNR   = 10 · log10(Σ ref² / Σ (ref − x)²)   in dB
    cosine = Σ ref · x / (√Σ ref² · √Σ x²)

and the task's own metrics, such as `top1_agreement`, averaged over the frames. Sums are kept, not tensors:
memory does not grow with the number of frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import DataError, InputError
from edgecnn.model import Model
from edgecnn.preprocess import Preprocessor
from edgecnn.progress import Progress, no_progress

__all__ = ["Agreement", "OutputAgreement", "OutputSums", "compare"]


@dataclass(frozen=True, kw_only=True)
class OutputAgreement:
    """One output of the network.

    Attributes:
        sqnr_db: None where the two are identical to the bit.
        cosine: 1 for the same direction; None where one of the two is all zero.
        max_abs_error: largest difference of one element.
    """

    sqnr_db: float | None
    cosine: float | None
    max_abs_error: float

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"sqnr_db": self.sqnr_db, "cosine": self.cosine, "max_abs_error": self.max_abs_error}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What `compare` found.

    Attributes:
        images: how many frames were compared.
        outputs: output name → how far the numbers agree.
        metrics: metric of the task → mean over the frames, in [0, 1].
    """

    images: int
    outputs: Mapping[str, OutputAgreement]
    metrics: Mapping[str, float]

    @property
    def worst_sqnr_db(self) -> float:
        """The lowest SQNR of all outputs; infinite where all are identical."""
        return min(
            (math.inf if o.sqnr_db is None else o.sqnr_db for o in self.outputs.values()), default=math.inf
        )

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object: `images`, `outputs`, and the task's metrics by name."""
        outputs = {name: output.to_dict() for name, output in self.outputs.items()}
        return {"images": self.images, "outputs": outputs, **self.metrics}


class OutputSums:
    """Running sums over two versions of one tensor. Memory does not grow."""

    def __init__(self) -> None:
        self.reference = self.other = self.product = self.error = self.worst = 0.0

    def add(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        """Take in two arrays of one shape, of any real type."""
        first, second = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        difference = first - second
        self.reference += float(first @ first)
        self.other += float(second @ second)
        self.product += float(first @ second)
        self.error += float(difference @ difference)
        self.worst = max(self.worst, float(np.abs(difference).max(initial=0.0)))

    def result(self) -> OutputAgreement:
        """The agreement over all that was added."""
        norm = math.sqrt(self.reference) * math.sqrt(self.other)
        cosine = min(1.0, self.product / norm) if norm else None  # rounding may give a little more than 1
        sqnr = None
        if self.error > 0:
            sqnr = 10 * math.log10(self.reference / self.error) if self.reference > 0 else -math.inf
            sqnr = max(sqnr, -999.0)  # a reference of zeros: JSON has no infinity
        return OutputAgreement(sqnr_db=sqnr, cosine=cosine, max_abs_error=self.worst)


def compare(
    reference: Model,
    other: Model,
    frames: Iterable[NDArray[np.uint8]],
    *,
    total: int | None = None,
    progress: Progress = no_progress,
) -> Agreement:
    """Run two models on the same frames, each with its own preprocessing.

    Args:
        reference: the one that is taken as right, usually FP32.
        other: the one that is judged.
        frames: (H, W, 3) uint8 BGR, one after the other; only one is held at a time.
        total: how many frames there will be, for the progress.

    Raises:
        InputError: the models' tasks or outputs do not correspond.
        DataError: there is no frame, or an output is not finite.
    """
    if reference.spec.task != other.spec.task:
        raise InputError(
            "the two models have different tasks", got=other.spec.task, expected=reference.spec.task
        )
    pairs = _pair_outputs(reference, other)
    sums = {name: OutputSums() for name in pairs}
    metrics: dict[str, float] = {}
    images = 0
    first, second = _Runner(reference), _Runner(other)
    for frame in frames:
        reference_outputs, reference_result = first(frame, images)
        other_outputs, other_result = second(frame, images)
        for name, other_name in pairs.items():
            sums[name].add(reference_outputs[name], other_outputs[other_name])
        for metric, value in reference.task.agreement(reference_result, other_result).items():
            metrics[metric] = metrics.get(metric, 0.0) + value
        images += 1
        progress("comparing", images, total)
    if not images:
        raise DataError("nothing to compare with", got="no frames", expected="at least one")
    means = {metric: value / images for metric, value in metrics.items()}
    return Agreement(
        images=images, outputs={name: entry.result() for name, entry in sums.items()}, metrics=means
    )


class _Runner:
    """A frame → a model's outputs and its result, without a pool in between."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.preprocess = Preprocessor(model.spec.image, batch=model.input.shape[0] or 1)

    def __call__(self, frame: NDArray[np.uint8], index: int) -> tuple[dict[str, NDArray[Any]], Any]:
        geometry = self.preprocess(frame)
        outputs = self.model.backend.run({self.model.input.name: self.preprocess.tensor})
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise DataError(
                    f"output {name} of {self.model.name} is infinite or NaN", got=f"on frame {index}"
                )
        return {name: array[:1] for name, array in outputs.items()}, self.model.task.decode(
            outputs, [geometry]
        )[0]


def _pair_outputs(reference: Model, other: Model) -> dict[str, str]:
    """Output of the one → output of the other: by name, else by position."""
    first, second = reference.backend.outputs, other.backend.outputs
    names = [info.name for info in second]
    if {info.name for info in first} == set(names):
        names = [info.name for info in first]
    shapes = {info.name: info.shape[1:] for info in second}
    if len(first) != len(names) or any(
        info.shape[1:] != shapes[name] for info, name in zip(first, names, strict=True)
    ):
        raise InputError(
            "the two models' outputs do not correspond",
            got=", ".join(f"{info.name} {info.shape}" for info in second),
            expected=", ".join(f"{info.name} {info.shape}" for info in first),
        )
    return {info.name: name for info, name in zip(first, names, strict=True)}
