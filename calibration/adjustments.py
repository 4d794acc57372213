"""What each adjustment brought: the quantized network with it and without it, on frames that were held out.

On both grids, everything is measured as it is in the end but for one thing that is taken away: the chosen
ranges (largest magnitudes instead), the finer grid of centred tensors (TensorRT's alone), the chosen steps of
the weights (the nearest instead), the moved biases. What loses on a grid, by more than the standard error of
its mean over the frames' sources, is taken out of the table before the next one is asked. Sources count, and
not frames or errors: the error over all frames is that of the few where it is largest, often of one photo
(benchmarks/LOG.md). Equalization was asked before all else, on frames of calibration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.calibration.equalization import Equalization
from edgecnn.calibration.observation import weight_scales
from edgecnn.calibration.outputs import Errors, errors_on_grids, outputs_of
from edgecnn.dataset import FrameSet
from edgecnn.export.graph import fixed_batch
from edgecnn.preprocess import Preprocessor
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import ActivationRange, QuantizationTable
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Adjustment", "Judges", "judges_of", "measure_adjustments"]

_FRAMES = 32
_FEWEST_SOURCES = 4  # with fewer, each frame counts as one


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """One of them.

    Attributes:
        name: `equalization`, `ranges`, `centring`, `rounding` or `bias correction`.
        accepted: whether it is in the table, or in the weights.
        gain_db: by how much the SQNR of all outputs is higher with it than without it, on TensorRT's grid;
            the mean over the frames' sources (of equalization, over all frames at once).
        gain_error_db: the standard error of that mean; None where it is none.
        onnxruntime_gain_db, onnxruntime_gain_error_db: the same as ONNX Runtime runs it.
        extent: to how much of the network it was applied, in words.
    """

    name: str
    accepted: bool
    gain_db: float
    gain_error_db: float | None = None
    onnxruntime_gain_db: float
    onnxruntime_gain_error_db: float | None = None
    extent: str

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return dataclasses.asdict(self)


class Judges(NamedTuple):
    """Frames that judge: the network's input tensor for each, and which source it comes from."""

    inputs: Sequence[NDArray[np.float32]]
    sources: Sequence[object]


def judges_of(model: ir.Model, image: ImageSpec, frames: FrameSet) -> Judges:
    """32 frames at most, evenly spaced."""
    some, inputs = frames.spaced(_FRAMES), []
    preprocess = Preprocessor(image, batch=fixed_batch(model))
    for frame in some:
        for row in range(len(preprocess.tensor)):
            preprocess(frame, row)
        inputs.append(preprocess.tensor.copy())
    # Where a file could not be read, it is not known which one.
    known = len(inputs) == some.count and len(set(some.sources)) >= _FEWEST_SOURCES
    return Judges(inputs, some.sources if known else range(len(inputs)))


def measure_adjustments(
    model: ir.Model,
    image: ImageSpec,
    table: QuantizationTable,
    largest: dict[str, ActivationRange],
    equalization: Equalization | None,
    frames: FrameSet,
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[QuantizationTable, tuple[Adjustment, ...]]:
    """Measure all that a table has, and take out what does not help.

    Args:
        model: the float model, equalized or not.
        image: how a frame becomes its input tensor.
        table: what calibration found.
        largest: the ranges of the largest magnitudes.
        equalization: what was tried of it.
        frames: held out; at most 32, evenly spaced, are used.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as variants are done.
    """
    inputs, sources = judges_of(model, image, frames)
    plain = {name: entry for name, entry in largest.items() if name in table.activations}
    reference = outputs_of(model, inputs, threads=threads)

    def ranges() -> dict[str, Any]:
        unclipped = {
            name: dataclasses.replace(entry, centred=table.activations[name].centred)
            for name, entry in plain.items()
        }
        return {"activations": {**table.activations, **unclipped}}

    def centring() -> dict[str, Any]:
        entries = table.activations.items()
        return {"activations": {name: dataclasses.replace(entry, centred=False) for name, entry in entries}}

    clipped = sum(entry.amax < plain[name].amax for name, entry in table.activations.items() if name in plain)
    centred = sum(entry.centred for entry in table.activations.values())
    moved = sum(entry.moves is not None for entry in table.weights.values())
    variants: list[tuple[str, int, str, Callable[[], dict[str, Any]]]] = [
        ("ranges", clipped, "clipped tensor", ranges),
        ("centring", centred, "tensor", centring),
        ("rounding", moved, "layer", lambda: {"weights": weight_scales(model), "rounding": "nearest"}),
        ("bias correction", len(table.biases), "layer", lambda: {"biases": {}}),
    ]

    def errors(changes: dict[str, Any]) -> Errors:
        tried = dataclasses.replace(table, **changes)
        return errors_on_grids(model, tried, inputs, reference, threads=threads)

    with_all, found = errors({}), []
    if equalization is not None:
        found.append(
            Adjustment(
                name="equalization",
                accepted=equalization.accepted,
                gain_db=round(equalization.gain_db, 2),
                onnxruntime_gain_db=round(equalization.onnxruntime_gain_db, 2),
                extent=f"{equalization.layers} layers",
            )
        )
    for done, (name, count, unit, without_it) in enumerate(variants, start=1):
        progress("adjustments", done, len(variants))
        if not count:
            continue
        changes = without_it()
        without = errors(changes)
        symmetric, onnxruntime = with_all.gains_by_source(without, sources)
        accepted = not (symmetric.is_loss or onnxruntime.is_loss)
        found.append(
            Adjustment(
                name=name,
                accepted=accepted,
                gain_db=round(symmetric.mean_db, 2),
                gain_error_db=round(symmetric.error_db, 2),
                onnxruntime_gain_db=round(onnxruntime.mean_db, 2),
                onnxruntime_gain_error_db=round(onnxruntime.error_db, 2),
                extent=f"{count} {unit}{'' if count == 1 else 's'}",
            )
        )
        if not accepted:
            table, with_all = dataclasses.replace(table, **changes), without
    return table, tuple(found)
