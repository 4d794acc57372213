"""An evaluation as pictures: each curve and each confusion matrix, as PNG and SVG."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.errors import BackendUnavailableError, OutputError, OutputExistsError
from edgecnn.evaluation.scores import Confusion, Curve, Scores
from edgecnn.files import atomic_output

__all__ = ["check_plots", "write_plots"]

SUFFIXES = (".png", ".svg")
_ENDS = tuple(f"{what}{suffix}" for what in ("_curve", "confusion") for suffix in SUFFIXES)
MOST_NUMBERED = 20  # classes whose matrix has numbers in it
MOST_NAMED = 60  # classes whose names stand at the axes
MOST_SHOWN = 200  # classes; a matrix of more would show no single one
LONGEST_NAME = 24


def write_plots(scores: Scores, folder: str | os.PathLike[str], *, force: bool = False) -> list[Path]:
    """Draw what there is to be drawn: `pr_curve.png`, `confusion.png` …, with a head's name in front.

    Args:
        scores: what `evaluate` found.
        folder: made if it is not there.
        force: overwrite pictures that are there.

    Returns:
        The files, each written whole.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
        OutputError, OutputExistsError: they cannot be written.
    """
    target = check_plots(folder, force=force)
    written = []
    for name, drawn in _pictures(scores, ""):
        figure = _curve(drawn) if isinstance(drawn, Curve) else _matrix(drawn)
        for suffix in SUFFIXES:
            path = target / f"{name}{suffix}"
            with atomic_output(path, force=force) as temporary, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a class name in letters that the font does not have
                figure.savefig(temporary, format=suffix[1:])
            written.append(path)
    return written


def check_plots(folder: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Make the folder, and refuse early, before any long work. Raises as `write_plots`."""
    _figure(1, 1)
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        there = sorted(path for path in target.iterdir() if path.name.endswith(_ENDS))
    except OSError as error:
        raise OutputError(f"cannot make the folder {target}", got=os.strerror(error.errno or 0)) from error
    if there and not force:
        raise OutputExistsError(
            f"{target} holds plots already",
            got=", ".join(path.name for path in there[:6]),
            remedy="Use --force (force=True) to replace them, or another folder",
        )
    return target


def _pictures(scores: Scores, prefix: str) -> Iterator[tuple[str, Curve | Confusion]]:
    for curve in scores.curves:
        if curve.series:
            yield f"{prefix}{curve.name}", curve
    if scores.confusion is not None and len(scores.confusion.labels) <= MOST_SHOWN:
        yield f"{prefix}confusion", scores.confusion
    for index, (name, part) in enumerate(scores.parts.items()):
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:60]
        yield from _pictures(part, f"{prefix}{plain or index}_")


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailableError(
            "plots need matplotlib", got=str(error), remedy="pip install 'edgecnn[evaluate]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _curve(curve: Curve) -> Any:
    figure = _figure(6.4, 4.8)
    axes = figure.add_subplot()
    for index, (name, (x, y)) in enumerate(curve.series.items()):
        axes.plot(x, y, label=_plain(name), linewidth=2.5 if index == 0 else 1)
    axes.set_xlabel(curve.x_label)
    axes.set_ylabel(curve.y_label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if len(curve.series) > 1:
        for text in axes.legend(fontsize=8).get_texts():
            text.set_parse_math(False)
    return figure


def _matrix(confusion: Confusion) -> Any:
    """Each row in parts of its sum, so that rare classes are seen too."""
    counts = confusion.counts
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(14.0, 3.5 + 0.4 * len(counts))
    figure = _figure(side + 1, side)
    axes = figure.add_subplot()
    figure.colorbar(
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), ax=axes, label="share of the row", shrink=0.8
    )
    axes.set_xlabel("model")
    axes.set_ylabel(f"label, {confusion.of}")
    if len(counts) <= MOST_NAMED:
        names = [_plain(name) for name in confusion.labels]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_parse_math(False)
    if len(counts) <= MOST_NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                ink = "white" if shares[row, column] > 0.5 else "black"
                text = f"{count}" if counts.max() < 10_000 else f"{shares[row, column]:.1%}"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    return figure


def _plain(name: str) -> str:
    """A class name is data from elsewhere: on one line, of printable characters, not too long."""
    shown = "".join(c if c.isprintable() else " " for c in name)
    shown = shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib leaves such out of legends
