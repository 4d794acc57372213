"""Embedding: a frame becomes a direction, and what looks alike points the same way.

    vector = output / √Σ output²

`edgecnn.gallery` keeps such vectors and finds the one that is most like a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import InferenceError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import Embedding, Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks import read_head

__all__ = ["Head", "create"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """`output`: name of the output (N, D); the only one where None."""

    output: str | None = None


class Embed:
    """Vectors (N, D) → one Embedding of length 1 a frame."""

    def __init__(self, output: str) -> None:
        self.output = output

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """Flatten and normalize. Raises InferenceError where a vector has no direction."""
        raw = outputs[self.output][: len(geometries)].reshape(len(geometries), -1).astype(np.float64)
        lengths = np.sqrt((raw * raw).sum(axis=1, keepdims=True))
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise InferenceError(
                f"output {self.output} has no direction",
                got="zeros, NaN or infinity",
                remedy="Build it with --precision fp32, or check its weights",
            )
        return [Embedding(vector) for vector in (raw / lengths).astype(np.float32)]

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Nothing to draw."""

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """`embedding_agreement`, 0 where the vectors point away from each other."""
        return {
            "embedding_agreement": max(
                0.0, cast("Embedding", reference).similarity(cast("Embedding", result))
            )
        }


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> Embed:
    """Make the task. Raises SpecError where the outputs leave open which one is the vector."""
    head = read_head(spec, Head)
    names = [output.name for output in outputs]
    if head.output is None and len(names) != 1:
        raise SpecError(
            "which output is the vector?", got=", ".join(names), remedy="Name it: --head output=NAME"
        )
    name = head.output or names[0]
    if name not in names:
        raise SpecError("no such output", got=name, expected="one of " + ", ".join(names))
    shape = outputs[names.index(name)].shape
    if len(shape) < 2 or sum(side != 1 for side in shape[1:]) > 1:
        raise SpecError(f"output {name} is no vector", got=str(shape), expected="(N, D)")
    return Embed(name)
