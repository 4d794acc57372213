"""The calibration report's layers, ranges and FP16: what grows with the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from edgecnn.calibration.report_plots import histogram, saturated

if TYPE_CHECKING:
    from edgecnn.calibration.report import Half, LayerRow, Report, TensorRow

__all__ = [
    "adjustments_section",
    "decibels",
    "fp16_section",
    "layers_section",
    "ranges_section",
    "short",
    "table",
]

_KEPT, _NOT_TAKEN = "kept", '<b class="float">not taken</b>'


def adjustments_section(report: Report) -> str:
    """A row each; empty without any."""
    if not report.adjustments:
        return ""
    head = ["", "Applied to", "On TensorRT’s grid", "As ONNX Runtime runs it", ""]
    body = "".join(
        f"<tr><td>{escape(one.name.capitalize())}</td><td>{escape(one.extent)}</td>"
        f'<td class="n">{_gain(one.gain_db, one.gain_error_db)}</td>'
        f'<td class="n">{_gain(one.onnxruntime_gain_db, one.onnxruntime_gain_error_db)}</td>'
        f"<td>{_KEPT if one.accepted else _NOT_TAKEN}</td></tr>"
        for one in report.adjustments
    )
    return (
        "<p>By how much the outputs’ SQNR is higher with each than without it: the mean over the frames’ "
        "sources, ± its standard error; of equalization over all frames that judged it.</p>"
        + table("adjustments", head, body)
    )


def _gain(gain_db: float, error_db: float | None) -> str:
    return f"{gain_db:+.1f} dB" + ("" if error_db is None else f" ± {error_db:.1f}")


def layers_section(report: Report) -> str:
    """A row a layer; empty without layers."""
    rows = report.layers
    if not rows:
        return ""
    most = max(row.share for row in rows) or 1.0
    worst = max((row.contribution for row in rows if row.contribution is not None), default=None)
    head = ["#", "Layer", "Operations", "Precision", "Weights", "Of the error", "SQNR here"]
    if worst is None:
        head.remove("Of the error")
    body = "".join(_layer(index, row, most, worst) for index, row in enumerate(rows, 1))
    return (
        "<p>“Weights”: what rounding by second-order information gains over the nearest steps, as SQNR of "
        "the layer’s output on frames that had no part in it. “SQNR here”: of the layer’s result, with all "
        "errors up to it.</p>" + table("layers", head, body)
    )


def _layer(index: int, row: LayerRow, most: float, worst: float | None) -> str:
    precision = '<b class="int8">INT8</b>'
    if not row.int8:
        precision = f'<b class="float">float</b> <small>{escape(row.reason or "")}</small>'
    cells = [
        f'<td class="n">{index}</td>',
        f'<td class="name">{escape(row.name)}<small>{escape(row.operator)}</small></td>',
        f'<td class="n">{_bar(row.share / most)}{row.share:.1%}</td>',
        f"<td>{precision}</td>",
        f'<td class="n">{_rounding(row)}</td>',
    ]
    if worst is not None:
        part = "–"
        if row.contribution is not None:
            part = f"{_bar(row.contribution / (worst or 1.0), 'error')}{row.contribution:.1%}"
        cells.append(f'<td class="n">{part}</td>')
    cells.append(f'<td class="n">{"–" if row.sqnr_db is None else decibels(row.sqnr_db)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _rounding(row: LayerRow) -> str:
    rounding = row.rounding
    if rounding is None or math.isinf(rounding.nearest_db) or math.isinf(rounding.chosen_db):
        return "–"
    if rounding.shrinkage is None:
        return '<span class="quiet" title="no other steps were confirmed">nearest</span>'
    title = f"{rounding.nearest_db:.1f} → {rounding.chosen_db:.1f} dB"
    return f'<span title="{title}">{rounding.chosen_db - rounding.nearest_db:+.1f} dB</span>'


def ranges_section(report: Report) -> str:
    """A histogram a tensor; empty without tensors."""
    if not report.tensors:
        return ""
    return (
        '<p class="legend">Magnitudes that were observed, from zero; counts on a logarithmic scale. '
        '<i class="key h"></i>represented <i class="key s"></i>saturates '
        '<i class="key c"></i>amax, where the range ends</p>'
        f'<div class="grid">{"".join(_tensor(row) for row in report.tensors)}</div>'
    )


def _tensor(row: TensorRow) -> str:
    entry, name = row.entry, escape(row.name)
    beyond = saturated(row.stats, entry.amax)
    lost = "" if beyond is None else f"{_percent(beyond)} saturates" if beyond else "nothing saturates"
    if row.stats.amax == 0:
        lost = "it was always zero"
    centred = ', <span title="from zero to amax, on TensorRT">254 steps</span>' if entry.centred else ""
    return (
        f'<div class="tensor"><h3 title="{name}">{escape(short(row.name, 48))}</h3>'
        f"{histogram(row.stats, entry.amax)}<p>{entry.low:.3g} … {entry.high:.3g}<br>"
        f"amax <b>{entry.amax:.4g}</b>, {escape(entry.method)}{centred}<br>{lost}</p></div>"
    )


def fp16_section(half: Half) -> str:
    """What FP16 costs, and what stays in FP32."""
    words = []
    if half.problem is not None:
        words.append(escape(half.problem) + ".")
    if half.accuracy is not None:
        words.append(
            f"Built as FP16, the network has an SQNR of <b>{decibels(half.accuracy.worst_sqnr_db)}</b> on "
            "held-out frames, with every tensor rounded to FP16."
        )
    if not half.kept:
        return f"<p>{' '.join([*words, 'No node has to stay in FP32.'])}</p>"
    words.append(f"{len(half.kept)} of its nodes stay in FP32:")
    rows = "".join(
        f"<tr><td>{escape(reason)}</td><td>{', '.join(nodes)}</td></tr>"
        for reason, nodes in _by_reason(half.kept).items()
    )
    return f"<p>{' '.join(words)}</p>{table('reasons', ['Reason', 'Nodes'], rows)}"


def _by_reason(kept: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in kept.items():
        reasons.setdefault(reason, []).append(f"<code>{escape(name)}</code>")
    return reasons


def table(css: str, head: list[str], body: str) -> str:
    """A table that is scrolled sideways where it is too wide; `body` is its rows, escaped."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def decibels(value: float) -> str:
    """A number of dB in words."""
    return "identical" if value == math.inf else f"{value:.1f} dB"


def short(text: str, length: int) -> str:
    """The end of a long name, which tells more than its start."""
    return text if len(text) <= length else "…" + text[1 - length :]


def _bar(share: float, css: str = "") -> str:
    return f'<i class="bar {css}" style="width:{max(0.0, min(share, 1.0)) * 56:.0f}px"></i>'


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 1e-5 else "< 0.001 %"
