"""Automatic mixed precision: the cheapest set of layers that stays in float such that a budget is met.

Layers are taken out of INT8 one after the other: always the one that contributes most to the error
(`sensitivity`) for what it costs, its multiplications and a fixed part, since every change between float and
INT8 costs conversions as well. So a set grows, until the whole lowered model, measured on frames, meets the
budget. For each set the weights of the others are rounded anew: weights that make up for an error that is no
longer there would be an error themselves. From there the search goes back, half of the last step at a time.

The order is found on frames of calibration; all that the frames decide on which the sets are measured is a
number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from edgecnn.calibration.measurement import Measured
from edgecnn.calibration.mixed import Budget, Miss, TradeoffPoint
from edgecnn.calibration.second_order import LayerRounding
from edgecnn.calibration.sensitivity import LayerSensitivity
from edgecnn.quantization import QuantizationTable

__all__ = ["LEAST_SHARE", "Mix", "Trial", "int8_share", "order", "reason", "search"]

LEAST_SHARE = 0.5
"""Of the multiplications, what stays INT8 at least: beyond that, FP16 is the better choice."""

_FIXED_COST = 0.25  # of a layer in float, as a share of the mean layer's multiplications
_BISECTIONS = 4


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
        budget: that was asked for.
        chosen: the trial that meets it, or the best one.
        trials: all of them, the first one without any layer in float.
        sensitivity: what each layer's quantization does, and what became of it.
    """

    budget: Budget
    chosen: Trial
    trials: tuple[Trial, ...]
    sensitivity: tuple[LayerSensitivity, ...]

    @property
    def misses(self) -> tuple[Miss, ...]:
        """What of the budget does not hold."""
        return self.budget.misses(self.chosen.measured)

    @property
    def tradeoff(self) -> tuple[TradeoffPoint, ...]:
        """All sets in their order, with the SQNR that the next smaller one that was tried lets expect."""
        layers = [
            replace(layer, int8=layer.int8 or layer.name in self.chosen.kept) for layer in self.sensitivity
        ]
        tried = {trial.kept: trial for trial in self.trials}
        names = order(layers)
        points: list[TradeoffPoint] = []
        unit = 0.0
        for kept in (tuple(names[:count]) for count in range(len(names) + 1)):
            expected, trial = _error(layers, kept), tried.get(kept)
            if trial is not None and not points:
                unit = _relative_error(trial) / (expected or 1.0)
            error = unit * expected
            points.append(
                TradeoffPoint(
                    kept_in_float=kept,
                    int8_share=int8_share(layers, kept),
                    predicted_sqnr_db=-10 * math.log10(error) if error > 0 else math.inf,
                    accuracy=None if trial is None else trial.measured.accuracy,
                    symmetric=None if trial is None else trial.measured.symmetric,
                    target=self.budget.target,
                    chosen=trial is self.chosen,
                )
            )
            if trial is not None and expected > 0:
                unit = _relative_error(trial) / expected
        return tuple(points)

    def warnings(self, count: int, reported: Measured) -> Iterable[str]:
        """What the person who calibrates should know.

        Args:
            count: of the frames that chose.
            reported: the chosen set, on frames that had no part in the choice.
        """
        least = self.budget.min_agreement
        if least is not None and count * (1 - least) < 1:
            yield (
                f"an agreement of {least:g} on {count} frames lets none of them differ; "
                "more frames (--eval-data) choose better"
            )
        if self.misses:
            share = next(point.int8_share for point in self.tradeoff if point.chosen)
            yield (
                f"the budget is not met: {'; '.join(miss.words for miss in self.misses)}, with "
                f"{len(self.chosen.kept)} layers in float and {share:.0%} of the multiplications in INT8, "
                f"the best of {len(self.trials)} sets that were tried. "
                "Ask for less, calibrate with frames of more scenes, or build with --precision fp16"
            )
        elif misses := self.budget.misses(reported):
            yield (
                f"on {reported.accuracy.images} frames that had no part in the choice it is "
                f"{'; '.join(miss.words for miss in misses)}: ask for a little more than is needed"
            )


def search(
    budget: Budget,
    layers: Sequence[LayerSensitivity],
    first: Trial,
    attempt: Callable[[tuple[str, ...]], Trial],
) -> Mix:
    """The smallest set that meets the budget, as far as about a dozen trials tell.

    Args:
        budget: what must hold; without one, nothing is tried.
        layers: with all of them in INT8 that can be.
        first: without any layer in float.
        attempt: makes a trial of a set.
    """
    names = order(layers)
    trials = [first]
    failed = met = first
    while misses := budget.misses(met.measured):
        count = _next_count(budget, layers, names, met, misses)
        if count is None:
            break
        failed, met = met, attempt(tuple(names[:count]))
        trials.append(met)
    if misses:
        met = max(trials, key=lambda one: (-len(budget.misses(one.measured)), budget.sqnr_db(one.measured)))
    for _ in range(0 if misses else _BISECTIONS):
        if len(met.kept) - len(failed.kept) < 2:
            break
        middle = attempt(met.kept[: (len(failed.kept) + len(met.kept)) // 2])
        trials.append(middle)
        if budget.misses(middle.measured):
            failed = middle
        else:
            met = middle
    kept = met.table.kept_in_float
    return Mix(
        budget=budget,
        chosen=met,
        trials=tuple(trials),
        sensitivity=tuple(
            replace(layer, int8=False, reason=kept[layer.name]) if layer.name in kept else layer
            for layer in layers
        ),
    )


def order(layers: Sequence[LayerSensitivity]) -> list[str]:
    """In which order layers are taken out of INT8, as long as enough of the multiplications stays there."""
    if not layers:
        return []
    fixed = _FIXED_COST * sum(layer.macs for layer in layers) / len(layers) or 1.0
    candidates = [layer for layer in layers if layer.int8]
    taken: list[str] = []
    for layer in sorted(candidates, key=lambda one: one.contribution / (one.macs + fixed), reverse=True):
        if int8_share(layers, [*taken, layer.name]) >= LEAST_SHARE:
            taken.append(layer.name)
    return taken


def int8_share(layers: Sequence[LayerSensitivity], kept: Sequence[str]) -> float:
    """The share of the multiplications that is INT8 with these layers in float; of layers, if unknown."""
    weights = {layer.name: layer.macs for layer in layers}
    if not any(weights.values()):
        weights = dict.fromkeys(weights, 1)
    quantized = sum(weights[layer.name] for layer in layers if layer.int8 and layer.name not in kept)
    return quantized / max(1, sum(weights.values()))


def reason(layers: Sequence[LayerSensitivity], name: str) -> str:
    """Why a layer stays in float, for the table."""
    layer = next(layer for layer in layers if layer.name == name)
    error, macs = _error(layers, ()) or 1.0, sum(one.macs for one in layers) or 1
    part = "not finite in INT8"  # and beside it, the others' parts are nothing
    if math.isfinite(layer.contribution):
        part = f"{layer.contribution / error:.1%} of the error"
    return f"mixed precision: {part}, {layer.macs / macs:.1%} of the multiplications"


def _relative_error(trial: Trial) -> float:
    return 10 ** (-trial.measured.symmetric.worst_sqnr_db / 10)


def _error(layers: Sequence[LayerSensitivity], kept: Sequence[str]) -> float:
    return sum(layer.contribution for layer in layers if layer.name not in kept)


def _next_count(
    budget: Budget,
    layers: Sequence[LayerSensitivity],
    names: Sequence[str],
    trial: Trial,
    misses: Sequence[Miss],
) -> int | None:
    """How many layers to try next: as many as the SQNR seems to need.

    Where something else than SQNR is missing, which nothing predicts, at least twice as many as before. None
    where no layer is left to take.
    """
    before = len(trial.kept)
    if before == len(names):
        return None
    least = before + 1
    if any(miss.measure != "sqnr" for miss in misses):
        least = min(len(names), max(2 * before, least))
    if budget.min_sqnr_db is None:
        return least
    allowed = _error(layers, trial.kept) * 10 ** ((budget.sqnr_db(trial.measured) - budget.min_sqnr_db) / 10)
    counts = range(least, len(names))
    return next((count for count in counts if _error(layers, names[:count]) <= allowed), len(names))
