"""Class names: from a file with one name a line, or one of the lists that come with edgecnn."""

from __future__ import annotations

import os
from pathlib import Path

from edgecnn.errors import SpecError

__all__ = ["read_labels"]

BUILT_IN = ("imagenet",)
LONGEST = 1 << 24  # characters


def read_labels(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names in order of class id.

    Args:
        source: `imagenet`, or a UTF-8 text file with one name a line (empty lines at the end are ignored).

    Raises:
        SpecError: no such file, or not a text file.
    """
    name = os.fspath(source)
    path = Path(__file__).with_name(f"{name}.txt") if name in BUILT_IN else Path(name)
    try:
        # utf-8-sig: Windows' editors put a mark in front. Reading as text has made \r\n into \n, and
        # splitlines would also split at characters that may be part of a name.
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ValueError("it is too long")
        lines = text.split("\n")
    except FileNotFoundError as error:
        raise SpecError(
            f"no labels file {name}",
            expected="a file with one class name a line, or " + ", ".join(BUILT_IN),
        ) from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name with a null byte
        raise SpecError(
            f"cannot read labels from {name}", got=str(error), expected="a UTF-8 text file"
        ) from error
    labels = [line.strip() for line in lines]
    while labels and not labels[-1]:
        labels.pop()
    if not labels:
        raise SpecError(f"labels file {name} is empty", expected="one class name a line")
    return tuple(labels)
