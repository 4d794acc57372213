"""What each adjustment brought: the quantized network with it and without it, on frames that were held out.

On both grids, everything is measured as it is in the end but for one thing that is taken away: the chosen
ranges (largest magnitudes instead), the finer grid of centred tensors (TensorRT's alone), the chosen steps of
the weights (the nearest instead), the moved biases. What loses more than half a dB on a grid, over all frames
and in the usual one, is taken out of the table before the next one is asked; so are biases that lose more on
one grid than they gain on the other. Over all frames, the few with the largest errors decide; a loss that the
usual frame does not have is chance, more often than not (benchmarks/LOG.md). Equalization was asked before
all else, on frames of calibration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

__all__ = ["Adjustment", "judging_inputs", "measure_adjustments"]

_FRAMES = 32
_TOLERABLE_DB = 0.5  # frames are few, and all but biases has been asked of other frames before


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """One of them.

    Attributes:
        name: `equalization`, `ranges`, `centring`, `rounding` or `bias correction`.
        accepted: whether it is in the table, or in the weights.
        gain_db: by how much the SQNR of all outputs is higher with it than without it, on TensorRT's grid, in
            the usual frame (the median of all; of equalization, over all frames).
        onnxruntime_gain_db: the same as ONNX Runtime runs it.
        extent: to how much of the network it was applied, in words.
    """

    name: str
    accepted: bool
    gain_db: float
    onnxruntime_gain_db: float
    extent: str

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return dataclasses.asdict(self)


def judging_inputs(model: ir.Model, image: ImageSpec, frames: FrameSet) -> list[NDArray[np.float32]]:
    """The network's input tensors for 32 frames at most, evenly spaced."""
    inputs = []
    preprocess = Preprocessor(image, batch=fixed_batch(model))
    for frame in frames.spaced(_FRAMES):
        for row in range(len(preprocess.tensor)):
            preprocess(frame, row)
        inputs.append(preprocess.tensor.copy())
    return inputs


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
    inputs = judging_inputs(model, image, frames)
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
        ("ranges", clipped, "tensors clipped", ranges),
        ("centring", centred, "tensors", centring),
        ("rounding", moved, "layers", lambda: {"weights": weight_scales(model), "rounding": "nearest"}),
        ("bias correction", len(table.biases), "layers", lambda: {"biases": {}}),
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
        total, usual = with_all.gains_db(without), with_all.usual_gains_db(without)
        least = min(max(pair) for pair in zip(total, usual, strict=True))
        accepted = least >= -_TOLERABLE_DB and (name != "bias correction" or sum(usual) >= 0)
        found.append(
            Adjustment(
                name=name,
                accepted=accepted,
                gain_db=round(usual[0], 2),
                onnxruntime_gain_db=round(usual[1], 2),
                extent=f"{count} {unit}",
            )
        )
        if not accepted:
            table, with_all = dataclasses.replace(table, **changes), without
    return table, tuple(found)
