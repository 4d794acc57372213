"""What a recipe brings: measured beside the plain way, with layers in float as a budget takes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecnn.calibration.adjustments import Adjustment, judges_of
from edgecnn.calibration.measurement import Measured, Measuring
from edgecnn.calibration.observers import TensorStats
from edgecnn.calibration.outputs import errors_on_grids, outputs_of
from edgecnn.calibration.recipe import Recipe
from edgecnn.calibration.search import Mix, Trial, reason, search
from edgecnn.calibration.sensitivity import measure_sensitivities
from edgecnn.calibration.way import Rounded, Way, make_way, observe, plain_way
from edgecnn.dataset import FrameSet
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Outcome", "find_outcome"]

_NARROW = 5.0
"""Frames that amount to fewer different ones are said to be too much alike; see docs/quantization.md."""

_PLAINLY = "the largest magnitudes and nearest steps"


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What calibration found. The frames that it was found by are no longer held.

    Attributes:
        model: the float model, equalized where that was kept.
        stats: of its tensors.
        adjustments: what `auto` changed; empty where the plain way was kept.
        chosen: the table, what rounding did, and what INT8 costs.
        plain_table: of the plain way; plain: what INT8 costs with it, None where just that was asked for.
        mix: the search for layers in float; None where it was not asked for.
        warnings: what the person who calibrates should know.
    """

    model: ir.Model
    stats: Mapping[str, TensorStats]
    adjustments: tuple[Adjustment, ...]
    chosen: Trial
    plain_table: QuantizationTable
    plain: Measured | None
    mix: Mix | None
    warnings: tuple[str, ...]

    def on_other_frames(self, measuring: Measuring, frames: FrameSet) -> Outcome:
        """What it costs on frames that had no part in the choice; `measuring` is of the model as it came."""
        measuring = measuring.on(frames)
        measured = measuring.of(self.model)(self.chosen.table, "comparing on other frames")
        plain = self.plain and measuring(self.plain_table, "comparing with the plain way on other frames")
        return dataclasses.replace(
            self, chosen=dataclasses.replace(self.chosen, measured=measured), plain=plain
        )


def find_outcome(
    model: ir.Model, image: ImageSpec, frames: FrameSet, measuring: Measuring, recipe: Recipe
) -> Outcome:
    """Carry a recipe out.

    Args:
        model: the float model, which stays as it is.
        image: how a frame becomes its input tensor.
        frames: to calibrate with.
        measuring: of the model, on frames that were held out; they judge.
        recipe: how the table is to be made.

    Raises:
        BuildError, DataError: as `observe` does.
    """
    observed = observe(model, image, frames, recipe)
    plain = plain_way(model, observed)
    way, rounded = make_way(model, image, observed, measuring.frames, recipe)
    first = _trial(rounded, measuring.of(way.model)(rounded.table, "comparing"))
    warnings = _narrow(observed.plain)
    if recipe.imported is not None:
        warnings += recipe.imported.warnings
    plainly = None
    if not recipe.is_plain:
        plainly = measuring(plain.unrounded, "comparing with the plain way")
        worse = first.measured.worse_than(plainly)
        by_name = way.unrounded.method != "auto"  # then it is what was asked for, and only said to be worse
        if worse is not None and (by_name or _loses(way, rounded, plain, image, measuring.frames, recipe)):
            words = f"{way.unrounded.method} ranges with {recipe.rounding} rounding gave {worse}"
            warnings.append(f"{words}, which {_PLAINLY} give" if by_name else f"{words}: {_PLAINLY} are kept")
            if not by_name:
                way, first = plain, _trial(Rounded(plain.unrounded), plainly)
    mix = _mix(way, first, measuring.of(way.model), recipe) if recipe.measures_layers else None
    return Outcome(
        model=way.model,
        stats=way.stats,
        adjustments=way.adjustments,
        chosen=first if mix is None else mix.chosen,
        plain_table=plain.unrounded,
        plain=plainly,
        mix=mix,
        warnings=tuple(warnings),
    )


def _loses(
    way: Way, rounded: Rounded, plain: Way, image: ImageSpec, frames: FrameSet, recipe: Recipe
) -> bool:
    """Whether a way loses against the plain one by more than chance, over the frames' sources, on a grid."""
    inputs, sources = judges_of(plain.model, image, frames)
    reference = outputs_of(plain.model, inputs, threads=recipe.threads)
    errors, plainly = (
        errors_on_grids(one.model, table, inputs, reference, threads=recipe.threads)
        for one, table in ((way, rounded.table), (plain, plain.unrounded))
    )
    return any(gain.is_loss for gain in errors.gains_by_source(plainly, sources))


def _narrow(table: QuantizationTable) -> list[str]:
    if table.diversity is None or not table.frames >= _NARROW > table.diversity:
        return []
    return [
        f"the {table.frames} calibration frames are much alike: they are like {table.diversity:.1f} "
        "different ones; add frames of other scenes"
    ]


def _mix(way: Way, first: Trial, measuring: Measuring, recipe: Recipe) -> Mix:
    """Which layers stay in float."""
    sensitivities = measure_sensitivities(
        way.model,
        way.unrounded,
        way.inputs,
        second_order=way.moves_weights,
        threads=recipe.threads,
        progress=recipe.progress,
    )

    def attempt(names: tuple[str, ...]) -> Trial:
        rounded = way.rounded(recipe, {name: reason(sensitivities, name) for name in names})
        measured = measuring(rounded.table, f"comparing with {len(names)} layers in float")
        return _trial(rounded, measured, names)

    return search(recipe.budget, sensitivities, first, attempt)


def _trial(rounded: Rounded, measured: Measured, kept: tuple[str, ...] = ()) -> Trial:
    return Trial(kept=kept, table=rounded.table, layers=rounded.layers, measured=measured)
