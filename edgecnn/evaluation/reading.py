"""Reading labels as data: bounded, inside their own folder, and matched with the model's classes by name."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from edgecnn.camera.images import image_files
from edgecnn.errors import DataError, SourceError

__all__ = ["excerpt", "images_in", "inside", "match_classes", "read_bytes"]

_Key = TypeVar("_Key", bound=Hashable)

SHOWN = 12  # names in an error


def inside(folder: Path, name: str, *, where: str) -> Path:
    """The path that a label file names, which must lie in its folder.

    Args:
        folder: outside of which nothing is touched, whatever `..`, absolute paths or symbolic links say.
        name: as the label file has it.
        where: that file, for the error.

    Raises:
        DataError: it leads outside, or is no path.
    """
    try:
        target = (folder / name).resolve()
        is_inside = target.is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of links, a name too long
        raise DataError(f"{where} names no file", got=excerpt(name), expected="a path") from error
    if not is_inside:
        raise DataError(
            f"{where} names a file outside its folder",
            got=excerpt(name),
            expected=f"a path inside {folder}",
            remedy="If the images are there on purpose, give their folder with --images",
        )
    return target


def read_bytes(path: Path, *, most: int) -> bytes:
    """A label file's content. Raises DataError where it is missing, no file, or longer than `most` bytes."""
    if path.exists() and not path.is_file():  # a pipe or device may never begin, or never end
        raise DataError(f"cannot read labels from {path}", got="no regular file")
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise DataError(f"cannot read labels from {path}", got=os.strerror(error.errno or 0)) from error
    if len(data) > most:
        raise DataError(f"labels file {path} is too large", expected=f"at most {most >> 20} MiB")
    return data


def images_in(folder: Path) -> list[Path]:
    """Its images, in natural order. Raises DataError where there are none."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}", expected="a folder of images")
    try:
        return image_files(folder)
    except SourceError as error:
        raise DataError(error.what, got=error.got, expected=error.expected) from error


def match_classes(theirs: Mapping[_Key, str], labels: Sequence[str], *, where: str) -> dict[_Key, int]:
    """The data set's classes → the model's class ids, by name; upper case, `_` and `-` do not matter.

    Where the model has no class names, the data set's must be class ids.

    Args:
        theirs: what the data set calls a class by → its name.
        labels: the model's.
        where: the data set, for errors.

    Raises:
        DataError: a class that the model does not have, or a name that several of its classes have.
    """
    exact: dict[str, list[int]] = {}
    alike: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        exact.setdefault(label, []).append(index)
        alike.setdefault(_plain(label), []).append(index)
    found: dict[_Key, int] = {}
    unknown: list[str] = []
    for key, name in theirs.items():
        candidates = exact.get(name) or alike.get(_plain(name)) or []
        if not candidates and name.isascii() and name.isdigit() and len(name) < 7:
            candidates = [int(name)] if not labels or int(name) < len(labels) else []
        if len(candidates) > 1:
            raise DataError(
                f"several of the model's classes are called {excerpt(name)}",
                got=", ".join(map(str, candidates[:SHOWN])),
                remedy=f"Call the class in {where} by its number",
            )
        if candidates:
            found[key] = candidates[0]
        else:
            unknown.append(name)
    if unknown:
        raise DataError(
            f"{where} has classes that the model does not have",
            got=_listed(unknown),
            expected=f"among the model's {len(labels)}: {_listed(labels)}"
            if labels
            else "class ids, because the model has no class names",
            remedy="Rename them, or say how the model's classes are called: --labels FILE",
        )
    return found


def excerpt(text: str, most: int = 80) -> str:
    """The start of what a label file says, for an error."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(excerpt(name, 40) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
