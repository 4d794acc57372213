"""The steps of a recipe: frames → what the tensors are like → ranges → the weights' steps → adjustments.

Each step takes values and gives new ones. What they come to is a `Way` to quantize the network, which can
round the weights anew for another set of layers in float. The plain way, largest magnitudes and nearest
steps, is one as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn import __version__
from edgecnn.calibration.adjustments import Adjustment, measure_adjustments
from edgecnn.calibration.centring import centre
from edgecnn.calibration.equalization import Equalization, equalize
from edgecnn.calibration.interchange import on_frames
from edgecnn.calibration.observation import observe_activations, weight_scales
from edgecnn.calibration.observers import TensorStats
from edgecnn.calibration.ranges import choose_range
from edgecnn.calibration.recipe import Recipe, Rounding
from edgecnn.calibration.sample import KeptFrames, diversity
from edgecnn.calibration.second_order import LayerRounding, round_network
from edgecnn.calibration.selection import largest_ranges, select_ranges
from edgecnn.dataset import FrameSet
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ImageSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Observed", "Rounded", "Way", "make_way", "observe", "plain_way"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """What frames showed of the float model.

    Attributes:
        stats: tensor → statistics.
        inputs: input tensors of the frames that were kept to round the weights by.
        plain: the table of the plain way.
    """

    stats: Mapping[str, TensorStats]
    inputs: Sequence[NDArray[np.float32]]
    plain: QuantizationTable


class Rounded(NamedTuple):
    """A table with its weights' steps, and what was done for each layer."""

    table: QuantizationTable
    layers: tuple[LayerRounding, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """A way to quantize the network.

    Attributes:
        model: the float model, equalized where that helps.
        stats: of its tensors.
        inputs: as in `Observed`.
        unrounded: the table with the nearest steps.
        rounding: of the weights.
        adjustments: what `auto` changed; what it took out stays out, whatever is rounded anew.
    """

    model: ir.Model
    stats: Mapping[str, TensorStats]
    inputs: Sequence[NDArray[np.float32]]
    unrounded: QuantizationTable
    rounding: Rounding
    adjustments: tuple[Adjustment, ...] = ()

    @property
    def moves_weights(self) -> bool:
        """Whether weights may have steps other than the nearest."""
        return self.rounding != "nearest" and "rounding" not in self._rejected

    @property
    def _rejected(self) -> set[str]:
        return {one.name for one in self.adjustments if not one.accepted}

    def rounded(self, recipe: Recipe, more_in_float: Mapping[str, str] | None = None) -> Rounded:
        """Round all weights; `more_in_float` are layers that leave INT8, and why."""
        kept_in_float = {**self.unrounded.kept_in_float, **(more_in_float or {})}
        table = dataclasses.replace(self.unrounded, kept_in_float=kept_in_float)
        if self.rounding == "nearest":
            return Rounded(table)
        adaptive = self.rounding == "adaround"
        found = round_network(
            self.model,
            table,
            self.inputs,
            adaptive=adaptive,
            threads=recipe.threads,
            progress=recipe.progress,
        )
        return self.without_rejected(Rounded(*found))

    def without_rejected(self, rounded: Rounded) -> Rounded:
        """Take out what adjustments took out."""
        table, layers = rounded
        if "rounding" in self._rejected:
            table, layers = dataclasses.replace(table, weights=self.unrounded.weights, rounding="nearest"), ()
        if "bias correction" in self._rejected:
            table = dataclasses.replace(table, biases={})
            layers = tuple(dataclasses.replace(layer, bias_factor=0.0) for layer in layers)
        return Rounded(table, layers)


def observe(model: ir.Model, image: ImageSpec, frames: FrameSet, recipe: Recipe) -> Observed:
    """Run frames through the float model. Raises as `weight_scales` and `observe_activations` do."""
    weights = weight_scales(model)
    needs_inputs = recipe.measures_layers or not recipe.is_plain
    kept = KeptFrames(frames, model, image, total=frames.count if needs_inputs else None)
    stats, count, digest = observe_activations(
        model,
        image,
        kept,
        histograms=recipe.method != "minmax" or recipe.reports,
        threads=recipe.threads,
        total=frames.count,
        progress=recipe.progress,
    )
    plain = QuantizationTable(
        activations={name: choose_range(entry, "minmax") for name, entry in stats.items()},
        weights=weights,
        method="minmax",
        frames=count,
        frames_sha256=digest,
        tool=f"edgecnn {__version__}",
        software=_software(),
        diversity=diversity(kept.thumbnails),
    )
    return Observed(stats=stats, inputs=kept.tensors, plain=plain)


def plain_way(model: ir.Model, observed: Observed) -> Way:
    """Largest magnitudes and nearest steps."""
    return Way(
        model=model,
        stats=observed.stats,
        inputs=observed.inputs,
        unrounded=observed.plain,
        rounding="nearest",
    )


def make_way(
    model: ir.Model, image: ImageSpec, observed: Observed, judging: FrameSet, recipe: Recipe
) -> tuple[Way, Rounded]:
    """What a recipe comes to; frames that were held out judge the adjustments of `auto`."""
    way = dataclasses.replace(plain_way(model, observed), rounding=recipe.rounding)
    if recipe.imported is not None:
        way = dataclasses.replace(way, unrounded=on_frames(recipe.imported, observed.plain))
    elif recipe.method == "auto":
        way, equalization = _chosen_by_effect(way, image, recipe)
        return _adjusted(way, way.rounded(recipe), equalization, image, judging, recipe)
    elif recipe.method != "minmax":
        method = recipe.method
        ranges = {name: choose_range(entry, method) for name, entry in observed.stats.items()}
        unrounded = dataclasses.replace(observed.plain, activations=ranges, method=method)
        way = dataclasses.replace(way, unrounded=unrounded)
    return way, way.rounded(recipe)


def _chosen_by_effect(plain: Way, image: ImageSpec, recipe: Recipe) -> tuple[Way, Equalization | None]:
    """Equalize where it helps, centre, and choose of all ranges what disturbs the layers behind least."""
    threads, progress, inputs = recipe.threads, recipe.progress, plain.inputs
    model = plain.model.clone()  # equalization changes weights
    equalization = equalize(model, plain.unrounded, plain.stats, inputs, threads=threads, progress=progress)
    accepted = equalization is not None and equalization.accepted
    stats = equalization.stats if equalization is not None and accepted else plain.stats
    table = dataclasses.replace(
        plain.unrounded,
        activations=largest_ranges(model, stats),
        weights=weight_scales(model),
        method="auto",
    )
    table = centre(model, table, inputs, threads=threads, progress=progress)
    ranges = select_ranges(
        model,
        stats,
        inputs,
        centred={name for name, entry in table.activations.items() if entry.centred},
        image=image,
        threads=threads,
        progress=progress,
    )
    table = dataclasses.replace(table, activations=ranges)
    return dataclasses.replace(plain, model=model, stats=stats, unrounded=table), equalization


def _adjusted(
    way: Way,
    rounded: Rounded,
    equalization: Equalization | None,
    image: ImageSpec,
    judging: FrameSet,
    recipe: Recipe,
) -> tuple[Way, Rounded]:
    """Take out what does not help on other frames."""
    table, adjustments = measure_adjustments(
        way.model,
        image,
        rounded.table,
        largest_ranges(way.model, way.stats),
        equalization,
        judging,
        threads=recipe.threads,
        progress=recipe.progress,
    )
    unrounded = dataclasses.replace(way.unrounded, activations=table.activations)
    adjusted = dataclasses.replace(way, unrounded=unrounded, adjustments=adjustments)
    return adjusted, adjusted.without_rejected(Rounded(table, rounded.layers))


def _software() -> dict[str, str]:
    """The packages that the numbers depend on."""
    import onnxruntime

    return {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
