"""Progress of long work, as a function that the library calls and the caller may pass.

The library never prints. `edgecnn.cli.common.progress_bar` shows it on a terminal; a GUI or a test passes
its own.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "no_progress"]

Progress = Callable[[str, int, "int | None"], None]
"""`progress(stage, done, total)`: `done` of the stage's `total` steps are finished; None where unknown."""


def no_progress(stage: str, done: int, total: int | None) -> None:
    """Show nothing."""
