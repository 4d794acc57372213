"""Automatic mixed precision: the cheapest set of layers that stays in float such that a budget is met.

Layers are taken out of INT8 one after the other: always the one that takes most of the error away for what it
costs (`sensitivity`), its multiplications and a fixed part, since every change between float and INT8 costs
conversions as well. So a set grows, until the whole lowered model, measured on frames, meets the budget. With
each set the weights are rounded anew: weights that make up for an error that is no longer there would be an
error themselves. From there the search goes back, half of the last step at a time.

The sets are nested, so all that the frames decide is a number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgecnn.calibration.measurement import Measured, Measuring
from edgecnn.calibration.mixed import Budget, Miss, TradeoffPoint
from edgecnn.calibration.second_order import LayerRounding
from edgecnn.calibration.sensitivity import LayerSensitivity, Sensitivities, measure_sensitivities
from edgecnn.progress import Progress, no_progress
from edgecnn.quantization import QuantizationTable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LEAST_SHARE", "Mix", "Trial", "int8_share", "mix", "order", "search", "tradeoff"]

LEAST_SHARE = 0.5
"""Of the multiplications, what stays INT8 at least: beyond that, FP16 is the better choice."""

_FIXED_COST = 0.25  # of a layer in float, as a share of the mean layer's multiplications
_BISECTIONS = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """A set of layers in float that was tried.

    Attributes:
        kept: their names, the first that was taken out of INT8 first.
        table: with the others rounded for it; layers: what rounding did.
        measured: on the frames that choose.
    """

    kept: tuple[str, ...]
    table: QuantizationTable
    layers: tuple[LayerRounding, ...]
    measured: Measured


@dataclass(frozen=True, eq=False, kw_only=True)
class Mix:
    """What the search found.

    Attributes:
        chosen: the trial that meets the budget, or the best one.
        sensitivity: what each layer's quantization does, all of them in INT8, and what became of it.
        tradeoff: what was tried, and what was not.
        misses: what of the budget does not hold.
    """

    chosen: Trial
    sensitivity: tuple[LayerSensitivity, ...]
    tradeoff: tuple[TradeoffPoint, ...]
    misses: tuple[Miss, ...]


def search(
    budget: Budget,
    first: Trial,
    attempt: Callable[[tuple[str, ...]], Trial],
    sensitivities: Callable[[Trial], Sensitivities],
) -> tuple[Trial, list[Trial]]:
    """The smallest set that meets the budget, as far as a dozen trials tell.

    Args:
        budget: what must hold.
        first: without any layer in float.
        attempt: makes a trial of a set.
        sensitivities: of the layers, with a trial's table.

    Returns:
        The chosen trial – the best one where none meets the budget – and all of them.
    """
    trials = [first]
    failed = met = first
    while misses := budget.misses(met.measured):
        grown = _grown(budget, met, misses, sensitivities(met))
        if grown is None:
            best = max(trials, key=lambda one: (-len(budget.misses(one.measured)), one.measured.sqnr_db))
            return best, trials
        failed, met = met, attempt(grown)
        trials.append(met)
    for _ in range(_BISECTIONS):
        if len(met.kept) - len(failed.kept) < 2:
            break
        middle = attempt(met.kept[: (len(failed.kept) + len(met.kept)) // 2])
        trials.append(middle)
        if budget.misses(middle.measured):
            failed = middle
        else:
            met = middle
    return met, trials


def mix(
    model: ir.Model,
    budget: Budget,
    first: Trial,
    *,
    rounded: Callable[[Mapping[str, str]], tuple[QuantizationTable, tuple[LayerRounding, ...]]],
    measuring: Measuring,
    inputs: Sequence[NDArray[np.float32]],
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Mix:
    """Search on a model.

    Args:
        model: the float model.
        budget: what must hold; without one, only the sensitivities are measured.
        first: without any layer in float.
        rounded: layers in float, with the reason → the table for that.
        measuring: measures a table on the frames that choose.
        inputs: the network's input tensor for some frames of calibration, to measure sensitivities with.
        threads: CPU threads; ONNX Runtime's own choice where None.
        progress: called as things are done.
    """
    found: dict[tuple[str, ...], Sensitivities] = {}

    def sensitivities(trial: Trial) -> Sensitivities:
        if trial.kept not in found:
            found[trial.kept] = measure_sensitivities(
                model, trial.table, inputs, threads=threads, progress=progress
            )
        return found[trial.kept]

    def attempt(kept: tuple[str, ...]) -> Trial:
        layers = {layer.name: layer for layer in sensitivities(first).layers}
        whole = sum(layer.contribution for layer in layers.values())
        macs = sum(layer.macs for layer in layers.values())
        reasons = {
            name: f"mixed precision: {layers[name].contribution / (whole or 1):.0%} of the error, "
            f"{layers[name].macs / (macs or 1):.1%} of the multiplications"
            for name in kept
        }
        table, rounding = rounded(reasons)
        return Trial(
            kept=kept,
            table=table,
            layers=rounding,
            measured=measuring(table, f"comparing with {len(kept)} layers in float"),
        )

    chosen, trials = search(budget, first, attempt, sensitivities)
    return Mix(
        chosen=chosen,
        sensitivity=sensitivities(first).finally_with(chosen.table),
        tradeoff=tradeoff(trials, chosen, sensitivities(first)),
        misses=budget.misses(chosen.measured),
    )


def order(sensitivities: Sensitivities, kept: Sequence[str] = ()) -> Iterator[str]:
    """Which layers to take out of INT8 next, as long as enough of the multiplications stays INT8."""
    costs = {layer.name: layer.macs for layer in sensitivities.layers}
    fixed = _FIXED_COST * sum(costs.values()) / len(costs) or 1.0
    names, gram = sensitivities.names, sensitivities.gram
    taken = list(kept)
    while True:
        rest = [index for index, name in enumerate(names) if name not in taken]
        sums = gram[:, rest].sum(axis=1)
        gains = {
            names[index]: (2 * sums[index] - gram[index, index]) / (costs[names[index]] + fixed)
            for index in rest
            if int8_share(sensitivities.layers, [*taken, names[index]]) >= LEAST_SHARE
        }
        if not gains:
            return
        best = max(gains, key=lambda name: gains[name])
        taken.append(best)
        yield best


def int8_share(layers: Sequence[LayerSensitivity], kept: Sequence[str]) -> float:
    """The share of the multiplications that is INT8 with these layers in float; of layers, if unknown."""
    weights = {layer.name: layer.macs for layer in layers}
    if not any(weights.values()):
        weights = dict.fromkeys(weights, 1)
    quantized = sum(weights[layer.name] for layer in layers if layer.int8 and layer.name not in kept)
    return quantized / max(1, sum(weights.values()))


def tradeoff(
    trials: Sequence[Trial], chosen: Trial, sensitivities: Sensitivities
) -> tuple[TradeoffPoint, ...]:
    """The sets that were tried, and those that the layers' sensitivities propose, by size.

    Args:
        trials: the first one without any layer in float.
        chosen: one of them.
        sensitivities: with the first one's table.
    """
    whole = sensitivities.error(())
    unit = 10 ** (-trials[0].measured.symmetric.worst_sqnr_db / 10) / whole if whole > 0 else 0.0

    def point(kept: tuple[str, ...], trial: Trial | None) -> TradeoffPoint:
        error = unit * sensitivities.error(kept)
        return TradeoffPoint(
            kept_in_float=kept,
            int8_share=int8_share(sensitivities.layers, kept),
            predicted_sqnr_db=-10 * math.log10(error) if error > 0 else math.inf,
            accuracy=None if trial is None else trial.measured.accuracy,
            symmetric=None if trial is None else trial.measured.symmetric,
            chosen=trial is chosen,
        )

    points = {trial.kept: point(trial.kept, trial) for trial in trials}
    kept: tuple[str, ...] = ()
    for name in order(sensitivities):
        kept = (*kept, name)
        points.setdefault(kept, point(kept, None))
    return tuple(sorted(points.values(), key=lambda one: (len(one.kept_in_float), one.accuracy is None)))


def _grown(
    budget: Budget, trial: Trial, misses: Sequence[Miss], sensitivities: Sensitivities
) -> tuple[str, ...] | None:
    """The next set to try: as many more layers as the SQNR seems to need, at most twice as many as before.

    Where something else than SQNR is missing, which nothing predicts, it is twice as many. None where no
    layer is left to take.
    """
    most = max(1, len(trial.kept))
    before = sensitivities.error(trial.kept)
    share = 0.0  # of the error, what may be left
    if budget.min_sqnr_db is not None and all(miss.measure == "sqnr" for miss in misses):
        share = 10 ** ((trial.measured.sqnr_db - budget.min_sqnr_db) / 10)
    grown = list(trial.kept)
    for name in order(sensitivities, trial.kept):
        grown.append(name)
        if len(grown) - len(trial.kept) == most or sensitivities.error(grown) < share * before:
            break
    return tuple(grown) if len(grown) > len(trial.kept) else None
