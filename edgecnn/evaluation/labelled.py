"""Labelled frames: a set of images, and for each what a model should find in it.

What it should find has the form that the task's metric defines (`edgecnn.evaluation.tasks`). Images and
labels are read one at a time, when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera.images import read_image
from edgecnn.camera.source import Skipped
from edgecnn.errors import DataError, SourceError
from edgecnn.spec import ModelSpec

__all__ = ["Item", "Labelled", "LabelledFrame", "LabelledSet", "Place"]


class LabelledFrame(NamedTuple):
    """A frame (H, W, 3) uint8 BGR, what is to be found in it, and where it comes from."""

    image: NDArray[np.uint8]
    truth: Any
    name: str


class Item(NamedTuple):
    """An image file, and its label, read when it is called with the image's height and width in pixels."""

    path: Path
    read: Callable[[tuple[int, int]], Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where labels are, and for which model.

    Attributes:
        data: a folder or a file.
        images: where the images are, if they are elsewhere.
        spec: the model's: its task, head and class names.
    """

    data: Path
    images: Path | None
    spec: ModelSpec


class Labelled(Protocol):
    """Labelled frames, however they come about. They can be gone through again and again."""

    @property
    def name(self) -> str:
        """Where they come from, for messages."""

    @property
    def count(self) -> int | None:
        """How many there will be; None where that is unknown."""

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be read so far, each once."""

    def __iter__(self) -> Iterator[LabelledFrame]: ...


class LabelledSet:
    """Labelled image files.

    Args:
        name: where they come from.
        items: image and label of each.

    Raises:
        DataError: there are none.
    """

    def __init__(self, name: str, items: Sequence[Item]) -> None:
        if not items:
            raise DataError(f"no labelled images in {name}", expected="at least one")
        self.name = name
        self.items = items
        self._skipped: dict[Path, Skipped] = {}

    @property
    def count(self) -> int:
        """How many images there are, unreadable ones included."""
        return len(self.items)

    @property
    def skipped(self) -> list[Skipped]:
        """Images that could not be read so far. A label that cannot be read is an error."""
        return list(self._skipped.values())

    def limited(self, limit: int | None) -> LabelledSet:
        """At most so many of them, evenly spaced."""
        count = len(self.items)
        if limit is None or count <= limit:
            return self
        return LabelledSet(self.name, [self.items[index * count // limit] for index in range(limit)])

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """The images alone."""
        return (image for _, image in self._readable())

    def __iter__(self) -> Iterator[LabelledFrame]:
        for (path, read), image in self._readable():
            height, width = image.shape[:2]
            yield LabelledFrame(image, read((height, width)), str(path))

    def _readable(self) -> Iterator[tuple[Item, NDArray[np.uint8]]]:
        for item in self.items:
            image = self._image(item.path)
            if image is not None:
                yield item, image
        if len(self._skipped) == len(self.items):
            last = next(reversed(self._skipped.values()))
            raise DataError(
                f"none of these {len(self.items)} images of {self.name} can be read",
                got=f"{last.path}: {last.reason}",
            )

    def _image(self, path: Path) -> NDArray[np.uint8] | None:
        try:
            return read_image(path)
        except SourceError as error:
            self._skipped[path] = Skipped(path, error.got or error.what)
            return None
