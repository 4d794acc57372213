"""What a pipeline hands to a sink, made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera import Frame, Sink
from edgecnn.pipeline import Latency, Output
from edgecnn.results import Classification
from tests.colours import solid


class AnyResult:
    """A result of a task that may come one day."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = dict(fields)

    def to_dict(self) -> dict[str, Any]:
        return self.fields


def output(
    image: NDArray[np.uint8] | None = None,
    index: int = 0,
    *,
    path: Path | None = None,
    source: str = "s",
    score: float = 0.5,
    captured_at: float = 12.5,
    result: Mapping[str, Any] | None = None,
) -> Output:
    """One frame, red unless said otherwise, and two classes unless said otherwise."""
    image = solid("red") if image is None else image
    found: Any = Classification(np.array([score, 1 - score], np.float32), ("cat", "dog"))
    if result is not None:
        found = AnyResult(result)
    return Output(found, Frame(image, index, captured_at, source, path), Latency(1, 2, 3, 4, 10.25))


def fresh(image: NDArray[np.uint8], index: int = 0) -> Output:
    """One that was captured now."""
    return output(image, index, captured_at=monotonic())


def write_all(sink: Sink, images: Iterable[NDArray[np.uint8]]) -> None:
    """Everything, and close."""
    with sink:
        for index, image in enumerate(images):
            sink.write(output(image, index))
