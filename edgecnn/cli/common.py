"""What the commands share: --json, --force, tables, progress."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import click

from edgecnn.progress import Progress, no_progress

__all__ = ["Size", "emit", "example_help", "force_option", "json_option", "print_table", "progress_bar", "say", "threads_option"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def json_option(function: _Function) -> _Function:
    """Adds `--json` as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line on stdout.")(function)


def force_option(function: _Function) -> _Function:
    """Adds `--force` as the parameter `force`."""
    return click.option("--force", is_flag=True, help="Overwrite what is there.")(function)


def threads_option(function: _Function) -> _Function:
    """Adds `--threads` as the parameter `threads`."""
    text = "CPU threads of one inference; ONNX Runtime's own choice by default."
    return click.option("--threads", type=click.IntRange(min=1), help=text)(function)


def emit(report: Mapping[str, Any], as_json: bool) -> None:
    """Print the report as one line of JSON where the user asked for it (tables are then for stderr's reader)."""
    if as_json:
        click.echo(json.dumps(report, allow_nan=False))


def say(text: str) -> None:
    """A message for the person at the terminal: stderr, so that stdout stays data."""
    click.echo(text, err=True)


def print_table(title: str, rows: Sequence[Sequence[object]], header: Sequence[str], *, as_json: bool = False, align: Literal["left", "right"] = "right") -> None:
    """A table on stdout, or on stderr where stdout is JSON. `align` is for the columns after the first."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else align, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(stderr=as_json, soft_wrap=False, markup=False)
    if not console.is_terminal:
        console.width = 120  # a pipe or a log has no width of its own
    console.print(title, soft_wrap=True)
    console.print(table)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress function that draws bars on stderr with the time left; silent when that is not a terminal."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        stages: dict[str, Any] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        yield show


class Size(click.ParamType):
    """`HxW`, or one number for a square → (height, width) in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[int, int]:
        """Parse, or fail with what was expected."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) in (1, 2) and all(part.isdigit() for part in parts):
            return int(parts[0]), int(parts[-1])
        self.fail(f"{value!r} is no size; expected HxW, such as 224x224")


def example_help(text: str) -> str:
    """Examples for the end of a command's --help, kept line by line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in text.strip().splitlines())
