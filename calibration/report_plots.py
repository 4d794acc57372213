"""The report's plots, as small pieces of SVG that take their colours from the page.

Written directly and not with a plotting library: a page shows a histogram for each of up to a few hundred
tensors, in half a kilobyte each, and the same picture must do in light, in dark and on paper, which takes
CSS classes in place of colours. The same values give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from edgecnn.calibration.observers import TensorStats

__all__ = ["Point", "depth_plot", "histogram", "saturated", "tradeoff_plot"]

_WIDTH, _HEIGHT = 860, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 24, 34
_HISTOGRAM = (160, 36)  # one unit a bin and a half: integers are short
_BARS = 80
_CEILING_DB = 80.0
"""What is more exact than that is drawn there."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One mark of a plot.

    Attributes:
        x, y: in the plot's units; y None where nothing is known.
        title: what is shown under the pointer.
        marked: drawn larger, in the second colour.
        label: written beside it, above or below.
    """

    x: float
    y: float | None
    title: str
    marked: bool = False
    label: str | None = None
    below: bool = False


def saturated(stats: TensorStats, amax: float) -> float | None:
    """The share of the observed values that lie beyond `amax`, to one bin; None without a histogram."""
    if stats.counts is None or not stats.counts.any():
        return None
    if amax >= stats.amax:  # what is equal to it lies in the same bin
        return 0.0
    first = math.ceil(amax / stats.bin_width * (1 - 1e-6))
    return float(stats.counts[first:].sum() / stats.counts.sum())


def histogram(stats: TensorStats, amax: float) -> str:
    """Magnitudes from zero to the largest one, counts on a logarithmic scale, what saturates apart."""
    if stats.counts is None or stats.amax == 0:
        return ""
    width, height = _HISTOGRAM
    end = max(stats.amax, amax)
    bars = _rebinned(stats, end)
    heights = np.log1p(bars) / math.log1p(max(float(bars.max()), 1.0))
    tops = [height - round(float(value) * (height - 2)) for value in heights]
    cut = round(width * amax / end)
    border = min(_BARS, math.ceil(_BARS * amax / end - 1e-9))
    parts = [_area(tops[:border], 0, width, height, "h")]
    if border < _BARS:
        parts.append(_area(tops[border:], border, width, height, "s"))
    return (
        f'<svg class="hist" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        + "".join(parts)
        + f'<path class="cut" d="M{cut} 0V{height}"/></svg>'
    )


def _rebinned(stats: TensorStats, end: float) -> NDArray[np.float64]:
    """(_BARS,) counts over [0, end], each bin's count at its middle."""
    assert stats.counts is not None
    used = np.flatnonzero(stats.counts)
    middles = (used + 0.5) * stats.bin_width
    where = np.minimum((middles / end * _BARS).astype(np.int64), _BARS - 1)
    return np.bincount(where, weights=stats.counts[used], minlength=_BARS).astype(np.float64)


def _area(tops: Sequence[int], first: int, width: int, height: int, css: str) -> str:
    """A staircase, in relative steps, which are the shortest."""
    step = width // _BARS
    path, level = f"M{first * step} {height}", height
    run = 0
    for top in tops:
        if top != level:
            path += (f"h{run}" if run else "") + f"v{top - level}"
            level, run = top, 0
        run += step
    return f'<path class="{css}" d="{path}h{run}V{height}z"/>'


def depth_plot(points: Sequence[Point]) -> str:
    """SQNR along the network, in dB: x is the position, y the SQNR, infinite where identical."""
    known = [point for point in points if point.y is not None]
    if len(known) < 2:
        return ""
    top = min(_CEILING_DB, max(min(point.y or 0.0, _CEILING_DB) for point in known))
    axes = _Axes((0, max(point.x for point in points)), _decibel_range([*(p.y or 0.0 for p in known), top]))
    line = _line([(point.x, point.y or 0.0) for point in known], axes, "line")
    return axes.svg(
        "SQNR along the network, in dB", [line, *_marks(known, axes)], "tensors, in the network's order"
    )


def tradeoff_plot(measured: Sequence[Point], predicted: Sequence[tuple[float, float]], unit: str) -> str:
    """What INT8 costs against how much is INT8: x the share of operations in percent, y dB or percent."""
    known = [point for point in measured if point.y is not None and math.isfinite(point.y)]
    line = [(x, y) for x, y in predicted if math.isfinite(y)]
    values = [*(point.y or 0.0 for point in known), *(y for _, y in line)]
    shares = [*(point.x for point in known), *(x for x, _ in line)]
    if len(set(shares)) < 2:  # one point is no trade-off
        return ""
    low = min(shares)
    heights = _decibel_range(values) if unit == "dB" else _percent_range(values)
    axes = _Axes((low - 0.03 * (100 - low) - 0.2, 100.2), heights)
    drawn = [_line(sorted(line), axes, "predicted")] if len(line) > 1 else []
    axes.x_ticks = _ticks(low, 100, 6)
    return axes.svg(
        f"{unit} against the share of operations in INT8",
        [*drawn, *_marks(known, axes)],
        "share of operations in INT8, %",
    )


class _Axes:
    """Units → pixels, with ticks."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = x, y
        self.x_ticks: Sequence[float] = ()

    def at(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self.x, self.y
        across = (x - x0) / ((x1 - x0) or 1)
        up = (min(max(y, y0), y1) - y0) / ((y1 - y0) or 1)
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    def svg(self, title: str, content: Sequence[str], x_title: str) -> str:
        parts = []
        for tick in _ticks(*self.y, 6):
            _, y = self.at(self.x[0], tick)
            parts.append(f'<path class="rule" d="M{_LEFT} {y:g}H{_WIDTH - _RIGHT}"/>')
            parts.append(
                f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>'
            )
        for tick in self.x_ticks:
            x, _ = self.at(tick, self.y[0])
            parts.append(_text("tick", x, _HEIGHT - _BOTTOM + 16, "middle", f"{tick:g}"))
        low = _HEIGHT - _BOTTOM
        parts.append(f'<path class="axis" d="M{_LEFT} {low}H{_WIDTH - _RIGHT}"/>')
        parts.append(_text("tick", _WIDTH - _RIGHT, _HEIGHT - 3, "end", x_title))
        return (
            f'<div class="scroll"><svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(title)}">{"".join([*parts, *content])}</svg></div>'
        )


def _line(points: Sequence[tuple[float, float]], axes: _Axes, css: str) -> str:
    places = [axes.at(x, y) for x, y in points]
    return f'<path class="{css}" d="M' + "L".join(f"{x:g} {y:g}" for x, y in places) + '"/>'


def _text(css: str, x: float, y: float, anchor: str, words: str) -> str:
    return f'<text class="{css}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def _marks(points: Sequence[Point], axes: _Axes) -> list[str]:
    found = []
    for point in points:
        x, y = axes.at(point.x, point.y or 0.0)
        css = "mark" if point.marked else "dot"
        found.append(
            f'<circle class="{css}" cx="{x:g}" cy="{y:g}" r="{5 if point.marked else 3}">'
            f"<title>{escape(point.title)}</title></circle>"
        )
        if point.label is not None:
            anchor = "start" if x < _WIDTH / 4 else "end" if x > _WIDTH * 3 / 4 else "middle"
            found.append(_text("label", x, y + 19 if point.below else y - 11, anchor, point.label))
    return found


def _decibel_range(values: Sequence[float]) -> tuple[float, float]:
    finite = [min(value, _CEILING_DB) for value in values]
    return 5 * math.floor((min(finite) - 3) / 5), 5 * math.ceil((max(finite) + 2) / 5)  # room for a label


def _percent_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = max(0.15 * (high - low), 0.5)
    return max(0.0, low - pad), min(high + pad, 100.0)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between both, about `count` of them."""
    raw = max(high - low, 1e-9) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [
        round(index * step, 10)
        for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]
