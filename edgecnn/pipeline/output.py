"""What a pipeline gives: a frame, what the models found in it, and where the time went."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera import Frame
from edgecnn.results import Result

__all__ = ["Latency", "Output", "as_bgr"]


class Latency(NamedTuple):
    """Where one frame's time went, in milliseconds. What is missing from the total was spent waiting.

    Attributes:
        capture_ms: waiting for the source, decoding included.
        preprocess_ms, infer_ms, postprocess_ms: in the models; of a batch, all of it.
        total_ms: from `frame.captured_at` until the result was there: how old the result is.
    """

    capture_ms: float
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float
    total_ms: float


def as_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy as (H, W, 3): grey frames get three channels, transparency is left out."""
    if image.ndim == 2:
        image = image[:, :, np.newaxis]
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return np.array(image[:, :, :3], order="C")


@dataclass(frozen=True, eq=False)
class Output:
    """One frame and what was found in it.

    Attributes:
        result: what the model found; the first one's where there are several.
        frame: the frame; its image is as the camera gave it.
        latency: where the time went.
        results: model's name → result, where the pipeline was given models by name; empty otherwise.
        camera: which of the pipeline's sources the frame is from, from 0.
    """

    result: Result
    frame: Frame
    latency: Latency
    _draw: Callable[[NDArray[np.uint8], Result], None] | None = field(default=None, repr=False)
    results: Mapping[str, Result] = field(default_factory=dict)
    camera: int = 0
    _to_bgr: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = field(default=as_bgr, repr=False)
    _drawn: list[NDArray[np.uint8]] = field(default_factory=list, init=False, repr=False)
    _drawing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def picture(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR: a copy of the frame, whatever bytes the camera gives."""
        return self._to_bgr(self.frame.image)

    @property
    def annotated(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR: `picture` with the results on it, drawn when first asked for.

        All sinks share it, each in its own thread: draw on a copy.
        """
        with self._drawing:
            if not self._drawn:
                picture = self.picture
                if self._draw is not None:
                    self._draw(picture, self.result)
                self._drawn.append(picture)
            return self._drawn[0]

    def shown_as(self, picture: NDArray[np.uint8]) -> Output:
        """The same output with another picture as `annotated`: a drawing of your own, for any sink.

        Args:
            picture: (H, W, 3) uint8 BGR; not copied.
        """
        other = replace(self)
        other._drawn.append(picture)
        return other

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of one frame, as JSON-lines sinks write it.

        `captured_at` is in seconds of the monotonic clock; `age_ms` is how old the frame was with its result.
        Named models give `results`, an object by name, instead of `result`.
        """
        found: dict[str, Any] = {"result": self.result.to_dict()}
        if self.results:
            found = {"results": {name: result.to_dict() for name, result in self.results.items()}}
        return {
            "index": self.frame.index,
            "source": self.frame.source,
            "captured_at": round(self.frame.captured_at, 6),
            "age_ms": round(self.latency.total_ms, 3),
            "dropped": self.frame.dropped,
            **found,
        }
