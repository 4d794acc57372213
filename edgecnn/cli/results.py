"""Results for the person at the terminal: a line a frame, or how far it is, and a summary at the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from edgecnn.cli.common import printable, progress_bar

if TYPE_CHECKING:
    from edgecnn.pipeline import Output, PipelineStats
    from edgecnn.results import Result

__all__ = ["counted", "print_line", "summary"]


def print_line(output: Output, *, as_json: bool) -> None:
    """One line a frame, on stderr where stdout is JSON."""
    frame = output.frame
    found = [f"{name}: {_describe(result)}" for name, result in output.results.items()]
    text = "  ".join(found) or _describe(output.result)
    click.echo(f"{frame.index:6}  {printable(frame.source)}  {printable(text)}", err=as_json)


@contextlib.contextmanager
def counted(total: int | None) -> Iterator[Callable[[Output], None]]:
    """Progress instead, where the results go elsewhere."""
    done = 0
    with progress_bar() as progress:

        def show(output: Output) -> None:
            nonlocal done
            done += 1
            progress("run", done, total)

        yield show


def summary(stats: PipelineStats) -> str:
    """What a run has done, in one line."""
    parts = [f"{stats.frames} frames"]
    if stats.fps is not None:
        parts.append(f"in {stats.seconds:.1f} s, {stats.fps:.1f} fps")
    for name, count in (
        ("skipped", stats.skipped),
        ("dropped", stats.dropped),
        ("reconnects", stats.reconnects),
    ):
        if count:
            parts.append(f"{count} {name}")
    stages = ", ".join(f"{name} {ms['p50']:.1f}" for name, ms in stats.stages_ms.items())
    return ", ".join(parts) + (f"; median ms: {stages}" if stages else "")


def _describe(result: Result) -> str:
    """A result in a few words: the best class, or the start of its JSON."""
    from edgecnn.results import Classification

    if isinstance(result, Classification):
        best = result.best
        return f"{best.score:6.1%}  {best.label}"
    text = json.dumps(result.to_dict())
    return text if len(text) <= 100 else f"{text[:99]}…"
