"""The calibration report as one HTML page: no scripts, nothing from the network, light, dark and on paper.

Names come from the model's file and could hold anything, so every text is escaped; a content security
policy in the page forbids the rest.
"""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from edgecnn.calibration.report_plots import Point, depth_plot, tradeoff_plot
from edgecnn.calibration.report_tables import (
    adjustments_section,
    decibels,
    fp16_section,
    layers_section,
    ranges_section,
    short,
    table,
)

if TYPE_CHECKING:
    from edgecnn.calibration.report import Report
    from edgecnn.compare import Agreement

__all__ = ["render"]

_GRIDS = {
    None: "the lower of both grids",
    "onnxruntime": "as ONNX Runtime runs it",
    "tensorrt": "on TensorRT’s grid",
}

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""


def render(report: Report) -> str:
    """The page. The same report gives the same text."""
    sections = [
        ("accuracy", "Accuracy", _accuracy(report)),
        ("adjustments", "Adjustments", adjustments_section(report)),
        ("depth", "Error by depth", _depth(report)),
        ("tradeoff", "Mixed precision", _tradeoff(report)),
        ("layers", "Layers", layers_section(report)),
        ("ranges", "Ranges", ranges_section(report)),
        ("fp16", "FP16", fp16_section(report.half)),
    ]
    present = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in present)
    body = "\n".join(
        f'<section id="{key}"><h2>{title}</h2>{content}</section>' for key, title, content in present
    )
    name = escape(report.name)
    style = (files("edgecnn.calibration") / "report.css").read_text(encoding="utf-8")
    software = ", ".join(f"{key} {version}" for key, version in sorted(report.table.software.items()))
    return (
        f"{_HEAD}<title>{name}: calibration</title>\n<style>\n{style}</style></head>\n"
        f'<body><header><p class="kicker">Calibration report</p><h1>{name}</h1>{_facts(report)}</header>'
        f"{_warnings(report)}<nav>{links}</nav>\n<main>{body}</main>\n"
        f"<footer>{escape(report.table.tool)}, {escape(software)}</footer></body></html>\n"
    )


def _facts(report: Report) -> str:
    found = report.table
    frames = _count(found.frames, "frame")
    if found.diversity is not None:
        frames += f", like {found.diversity:.1f} different ones"
    facts = [
        ("Task", report.task),
        ("Input", report.input),
        ("Ranges", f"{found.method}, {_count(len(found.activations), 'tensor')}"),
        ("Weights", f"{found.rounding} steps, {_count(len(found.weights), 'layer')}"),
        ("Calibrated on", frames),
        ("Measured on", _count(report.accuracy.images, "held-out frame")),
    ]
    if report.budget is not None:
        facts.append(("Budget", f"{report.budget}: {'met' if report.budget_met else 'not met'}"))
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts)
    digest = f'<p class="hash">SHA-256 of the frames <code>{escape(found.frames_sha256)}</code></p>'
    return f'<dl class="facts">{items}</dl>{digest}'


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in report.warnings)
    return f'<div class="warnings" role="note"><strong>Warnings</strong><ul>{items}</ul></div>'


def _accuracy(report: Report) -> str:
    accuracy, symmetric, plain, half = report.accuracy, report.symmetric, report.plain, report.half.accuracy
    columns: list[tuple[str, Agreement]] = [
        ("INT8, as ONNX Runtime runs it", accuracy),
        ("INT8, on TensorRT’s grid", symmetric),
    ]
    if plain is not None:
        columns.append(("the plain way, as ONNX Runtime runs it", plain))
    if half is not None:
        columns.append((f"FP16, {_count(half.images, 'frame')}", half))
    beside = "" if plain is None else f"the plain way: {decibels(plain.worst_sqnr_db)}"
    cards = [
        _card("SQNR, ONNX Runtime", decibels(accuracy.worst_sqnr_db), beside),
        _card("SQNR, TensorRT’s grid", decibels(symmetric.worst_sqnr_db), "all else in FP32"),
    ]
    for metric, value in accuracy.metrics.items():
        other = symmetric.metrics.get(metric)
        note = "" if other is None else f"{other:.1%} on TensorRT’s grid"
        cards.append(_card(_words(metric), f"{value:.1%}", note))
    count = sum(row.int8 for row in report.layers)
    cards.append(
        _card("Operations in INT8", f"{report.int8_share:.1%}", f"{count} of {len(report.layers)} layers")
    )
    rows = []
    for name in accuracy.outputs:
        outputs = [agreement.outputs.get(name) for _, agreement in columns]
        rows += [
            (
                f"{name}: SQNR",
                [
                    "–" if o is None else decibels(math.inf if o.sqnr_db is None else o.sqnr_db)
                    for o in outputs
                ],
            ),
            (f"{name}: cosine", [_number(None if o is None else o.cosine, ".5f") for o in outputs]),
            (f"{name}: largest error", [_number(None if o is None else o.max_abs_error) for o in outputs]),
        ]
    for metric in accuracy.metrics:
        values = [agreement.metrics.get(metric) for _, agreement in columns]
        rows.append((_words(metric), [_number(value, ".1%") for value in values]))
    body = "".join(
        f"<tr><th>{escape(title)}</th>{''.join(f'<td>{value}</td>' for value in values)}</tr>"
        for title, values in rows
    )
    known = "calibration did not see"
    if report.chosen_on_same_frames:
        known = "chose no ranges and no steps, but decided which adjustments were kept, if any"
    words = f"Against FP32, on frames that {known}."
    if plain is not None:
        words += " The plain way: largest magnitudes and nearest steps."
    numbers = table("numbers", ["", *(title for title, _ in columns)], body)
    return f'<div class="cards">{"".join(cards)}</div><p>{words}</p>{numbers}'


def _depth(report: Report) -> str:
    known = [(index, name, value) for index, (name, value) in enumerate(report.depth) if value is not None]
    if len(known) < 2:
        return ""
    lowest = min(known, key=lambda item: item[2])[0]
    points = []
    for index, (name, value) in enumerate(report.depth):
        title = f"{name}: {'identical' if value is None else f'{value:.1f} dB'}"
        label = short(title, 44) if index == lowest else None
        points.append(Point(x=index, y=value, title=title, marked=label is not None, label=label, below=True))
    falls = [(name, fall) for name, fall in report.falls.items() if fall > 0.5]
    steepest = sorted(falls, key=lambda item: -item[1])[:3]
    words = "; ".join(f"{fall:.1f} dB at <code>{escape(name)}</code>" for name, fall in steepest)
    return (
        "<p>SQNR of each tensor against FP32, on TensorRT’s grid, "
        f"{_count(report.depth_frames, 'held-out frame')}. "
        f"{'Steepest falls below what a tensor is computed from: ' + words + '.' if words else ''}</p>"
        + depth_plot(points)
    )


def _tradeoff(report: Report) -> str:
    points = report.tradeoff
    predicted = [(100 * point.int8_share, point.predicted_sqnr_db) for point in points]
    grids = _GRIDS[None if report.budget is None else report.budget.target]
    plots = [
        (
            f"SQNR, {grids}; dashed: predicted",
            tradeoff_plot(_tradeoff_marks(report, "dB"), predicted, "dB"),
        ),
        (
            f"Agreement with FP32, {grids}",
            tradeoff_plot(_tradeoff_marks(report, "%"), [], "%"),
        ),
    ]
    drawn = "".join(
        f"<figure><figcaption>{title}</figcaption>{plot}</figure>" for title, plot in plots if plot
    )
    if not drawn:
        return ""
    kept = [escape(name) for point in points if point.chosen for name in point.kept_in_float]
    names = f"<p>In float: {', '.join(f'<code>{name}</code>' for name in kept)}.</p>" if kept else ""
    words = "Layers leave INT8 one after the other, first those that gain most for what they cost."
    if report.budget is None:
        words += " No budget was given, so none did; dashed is what it would bring."
    return f"<p>{words}</p>{drawn}{names}"


def _tradeoff_marks(report: Report, unit: str) -> list[Point]:
    marks = []
    for point in report.tradeoff:
        value = point.sqnr_db
        if unit == "%":
            value = None if point.agreement is None else 100 * point.agreement
        count = len(point.kept_in_float)
        title = f"{_count(count, 'layer')} in float, {point.int8_share:.1%} of the operations in INT8"
        if value is not None:
            title += f": {value:.1f} {unit}"
        label = f"{'' if report.budget is None else 'chosen: '}{count} in float" if point.chosen else None
        marks.append(Point(x=100 * point.int8_share, y=value, title=title, marked=point.chosen, label=label))
    return marks


def _card(title: str, value: str, note: str) -> str:
    return (
        f'<div class="card"><span>{escape(title)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: float | None, form: str = ".3g") -> str:
    return "–" if value is None else format(value, form)


def _words(metric: str) -> str:
    text = metric.replace(".", ": ").replace("_", " ").replace(" iou", " IoU")
    return text[:1].upper() + text[1:]
