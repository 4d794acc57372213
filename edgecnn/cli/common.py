"""What the commands share: --json, --force, tables, progress."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import click

from edgecnn.cli.systemd import journal_prefix
from edgecnn.progress import Progress, no_progress

__all__ = [
    "Size",
    "emit",
    "example_help",
    "force_option",
    "json_option",
    "logs_shown",
    "print_table",
    "printable",
    "progress_bar",
    "say",
    "threads_option",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def json_option(function: _Function) -> _Function:
    """Adds `--json` as the parameter `as_json`, and tells `main` for its errors: a file may say it too."""

    def tell(context: click.Context, parameter: click.Parameter, as_json: bool) -> bool:
        if context.obj is not None:
            context.obj["as_json"] = context.obj["as_json"] or as_json
        return as_json

    return click.option(
        "--json", "as_json", is_flag=True, callback=tell, help="One JSON object as the last line on stdout."
    )(function)


def force_option(function: _Function) -> _Function:
    """Adds `--force` as the parameter `force`."""
    return click.option("--force", is_flag=True, help="Overwrite what is there.")(function)


def threads_option(function: _Function) -> _Function:
    """Adds `--threads` as the parameter `threads`."""
    text = "CPU threads of one inference; ONNX Runtime's own choice by default."
    return click.option("--threads", type=click.IntRange(min=1), help=text)(function)


def emit(report: Mapping[str, Any], as_json: bool) -> None:
    """Print the report as one line of JSON where the user asked for it; tables are on stderr then."""
    if as_json:
        click.echo(json.dumps(report, allow_nan=False))


def say(text: str, level: int = logging.INFO) -> None:
    """A message for the person at the terminal, or for the journal: stderr, so that stdout stays data.

    Args:
        text: the message.
        level: its weight, as `logging` counts; journald is told.
    """
    click.echo(journal_prefix(level) + printable(text), err=True)


@contextlib.contextmanager
def logs_shown(level: int) -> Iterator[None]:
    """Show what the library logs at this level and above, a line a message."""
    handler, logger = _Say(level), logging.getLogger("edgecnn")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Say(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(" ".join(self.format(record).splitlines()), record.levelno)
        except Exception:
            self.handleError(record)


def printable(text: str) -> str:
    """The text with everything escaped that could steer a terminal, or that it could not show.

    Names of files, labels and a model's metadata are data from elsewhere.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def by_reason(nodes: Mapping[str, str]) -> list[str]:
    """Node → reason as lines: the nodes that share a reason, three of them by name, and the reason."""
    reasons: dict[str, list[str]] = {}
    for node, reason in nodes.items():
        reasons.setdefault(reason, []).append(node)
    lines = []
    for reason, names in reasons.items():
        others = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(printable(f"{', '.join(names[:3])}{others}: {reason}"))
    return lines


def print_table(
    title: str,
    rows: Sequence[Sequence[object]],
    header: Sequence[str],
    *,
    as_json: bool = False,
    align: Literal["left", "right"] = "right",
) -> None:
    """A table on stdout, or on stderr where stdout is JSON. `align` is for the columns after the first."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else align, overflow="fold")
    for row in rows:
        table.add_row(*(printable(str(cell)) for cell in row))
    console = Console(stderr=as_json, soft_wrap=False, markup=False)
    if not console.is_terminal:
        console.width = 120  # a pipe or a log has no width of its own
    console.print(printable(title), soft_wrap=True)
    console.print(table)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress function that draws bars on stderr, with the time left; silent where that is no terminal."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        stages: dict[str, Any] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        yield show


class Size(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """`HxW`, or one number for a square → (height, width) in pixels."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int]:
        """Parse, or fail with what was expected."""
        if isinstance(value, tuple):
            return value
        sides = re.fullmatch(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", str(value).lower(), re.ASCII)
        if sides is None:
            self.fail(f"{value!r} is no size; expected HxW, such as 224x224")
        return int(sides[1]), int(sides[2] or sides[1])


def example_help(text: str) -> str:
    """Examples for the end of a command's --help, kept line by line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in text.strip().splitlines())
