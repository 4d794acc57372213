"""What each adjustment brought: the quantized network with it and without it, on frames that were held out.

On TensorRT's grid, everything is measured as it is in the end but for one thing that is taken away: the
chosen ranges (largest magnitudes instead), the finer grid of centred tensors, the chosen steps of the
weights (the nearest instead), the moved biases. Biases that do not help here are taken out of the table.
Equalization was asked before all else, with frames of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends.onnxruntime import create_session
from edgecnn.calibration.equalization import Equalization
from edgecnn.calibration.observation import weight_scales
from edgecnn.export.graph import fixed_batch, to_bytes
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.preprocess import Preprocessor
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import ActivationRange, QuantizationTable
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Adjustment", "measure_adjustments"]

_FRAMES = 32
_TOLERABLE_DB = 0.5  # frames are few, and all but biases has been asked of other frames before


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """One of them.

    Attributes:
        name: `equalization`, `ranges`, `centring`, `rounding` or `bias correction`.
        accepted: whether it is in the table, or in the weights.
        gain_db: by how much the SQNR of all outputs is higher with it than without it.
        extent: to how much of the network it was applied, in words.
    """

    name: str
    accepted: bool
    gain_db: float
    extent: str

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return dataclasses.asdict(self)


def measure_adjustments(
    model: ir.Model,
    image: ImageSpec,
    table: QuantizationTable,
    largest: dict[str, ActivationRange],
    equalization: Equalization | None,
    frames: Iterable[NDArray[np.uint8]],
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
        frames: held out, (H, W, 3) uint8 BGR; at most 32 are used.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as variants are done.
    """
    inputs = []
    preprocess = Preprocessor(image, batch=fixed_batch(model))
    for frame in itertools.islice(frames, _FRAMES):
        for row in range(len(preprocess.tensor)):
            preprocess(frame, row)
        inputs.append(preprocess.tensor.copy())
    plain = {name: entry for name, entry in largest.items() if name in table.activations}
    reference = _outputs(to_bytes(model), inputs, threads)

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

    def noise(changes: dict[str, Any]) -> float:
        quantized = model.clone()
        quantize(quantized.graph, dataclasses.replace(table, **changes), set(quantized.graph))
        found = _outputs(to_bytes(quantized), inputs, threads)
        return float(np.square(found - reference).sum())

    with_all, found = noise({}), []
    if equalization is not None:
        found.append(
            Adjustment(
                name="equalization",
                accepted=equalization.accepted,
                gain_db=round(equalization.gain_db, 2),
                extent=f"{equalization.pairs} pairs of convolutions",
            )
        )
    for done, (name, count, unit, without_it) in enumerate(variants, start=1):
        progress("adjustments", done, len(variants))
        if not count:
            continue
        changes = without_it()
        without = noise(changes)
        gain = 10 * math.log10(without / with_all) if with_all > 0 and without > 0 else 0.0
        accepted = gain >= (0.0 if name == "bias correction" else -_TOLERABLE_DB)
        found.append(
            Adjustment(name=name, accepted=accepted, gain_db=round(gain, 2), extent=f"{count} {unit}")
        )
        if not accepted:
            table, with_all = dataclasses.replace(table, **changes), without
    return table, tuple(found)


def _outputs(
    content: bytes, inputs: Iterable[NDArray[np.float32]], threads: int | None
) -> NDArray[np.float64]:
    """All outputs side by side, (frames, numbers)."""
    session = create_session(content, threads=threads, optimized=False)
    name = session.get_inputs()[0].name
    rows = [[np.asarray(one, np.float64).ravel() for one in session.run(None, {name: x})] for x in inputs]
    return np.stack([np.concatenate(row) for row in rows])
