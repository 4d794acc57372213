"""What a model finds in a frame: frozen objects of NumPy arrays, the same for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgecnn.detections import Detections
from edgecnn.errors import InputError
from edgecnn.masks import Crop, encode_runs

__all__ = [
    "UNSEEN",
    "Anomaly",
    "ClassScore",
    "Classification",
    "Detections",
    "Embedding",
    "MultiResult",
    "RawOutputs",
    "Result",
    "Segmentation",
    "ValueMap",
]

UNSEEN = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
"""In a class map, by its dtype: a pixel that the network was not shown, beside a crop."""


@runtime_checkable
class Result(Protocol):
    """What every result can do."""

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object, in the form that docs/results.md lists."""


class ClassScore(NamedTuple):
    """One class and how likely it is; `label` is the class id as text where the model has no labels."""

    id: int
    label: str
    score: float


@dataclass(frozen=True, eq=False)
class Classification:
    """Which classes a frame shows.

    Attributes:
        scores: (C,) float32, one a class, in [0, 1]; they sum to 1 unless the model is multi-label.
        labels: class names by class id, or empty.
    """

    scores: NDArray[np.float32]
    labels: tuple[str, ...] = ()

    def top(self, k: int = 5) -> list[ClassScore]:
        """The `k` most likely classes, or all if there are fewer; best first, equal scores by class id."""
        if k < 0:
            raise InputError("k is wrong", got=str(k), expected="0 or more")
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [self._class(int(index)) for index in order]

    @property
    def best(self) -> ClassScore:
        """The most likely class."""
        return self._class(int(np.argmax(self.scores)))

    def to_dict(self) -> dict[str, Any]:
        """`{"classes": [{"id", "label", "score"}, …]}` with the five most likely."""
        return {"classes": [entry._asdict() for entry in self.top(5)]}

    def _class(self, index: int) -> ClassScore:
        label = self.labels[index] if index < len(self.labels) else str(index)
        return ClassScore(index, label, float(self.scores[index]))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Which class each pixel of a frame belongs to.

    Attributes:
        class_map: (H, W) class ids, uint8, or uint16 where there are more than 255 classes; `UNSEEN` where
            the network was not shown the pixel.
        labels: class names by class id, or empty.
    """

    class_map: NDArray[np.uint8] | NDArray[np.uint16]
    labels: tuple[str, ...] = ()

    @property
    def class_ids(self) -> list[int]:
        """The classes that the frame shows, in rising order."""
        counts = np.bincount(self.class_map.ravel())
        return [int(index) for index in np.flatnonzero(counts) if index != UNSEEN[self.class_map.dtype]]

    def mask(self, class_id: int) -> NDArray[np.bool_]:
        """(H, W) bool: where that class is."""
        mask: NDArray[np.bool_] = self.class_map == class_id
        return mask

    def label(self, class_id: int) -> str:
        """Name of a class; its id as text where the model has no labels."""
        return self.labels[class_id] if class_id < len(self.labels) else str(class_id)

    def to_dict(self) -> dict[str, Any]:
        """`{"class_ids", "labels", "shares", "masks"}` of the classes that there are.

        `shares` are parts of the frame in [0, 1], `masks` COCO's run lengths.
        """
        ids = self.class_ids
        height, width = self.class_map.shape
        masks = [self.mask(index) for index in ids]
        return {
            "class_ids": ids,
            "labels": [self.label(index) for index in ids],
            "shares": [round(float(mask.mean()), 6) for mask in masks],
            "masks": [encode_runs(Crop(0, 0, mask), (height, width)) for mask in masks],
        }


@dataclass(frozen=True, eq=False)
class Embedding:
    """What a frame looks like, as a direction: similar things point the same way.

    Attributes:
        vector: (D,) float32 of length 1.
    """

    vector: NDArray[np.float32]

    def similarity(self, other: Embedding) -> float:
        """Cosine of the angle between the two, in [-1, 1]."""
        return float(np.clip(self.vector @ other.vector, -1, 1))

    def to_dict(self) -> dict[str, Any]:
        """`{"embedding": [numbers]}`."""
        return {"embedding": self.vector.tolist()}


@dataclass(frozen=True, eq=False)
class ValueMap:
    """A number for each pixel, such as depth.

    Attributes:
        values: (H, W) float32 at the frame's resolution; NaN where the network was not shown the pixel.
        unit: what the numbers are, such as `m`; empty where they have no unit.
    """

    values: NDArray[np.float32]
    unit: str = ""

    def to_dict(self) -> dict[str, Any]:
        """`{"unit", "min", "median", "max", "mean"}`: the map itself would be millions of numbers."""
        values = self.values[np.isfinite(self.values)]
        numbers: dict[str, Any] = {"min": np.min, "median": np.median, "max": np.max, "mean": np.mean}
        found = {name: float(of(values)) if values.size else None for name, of in numbers.items()}
        return {"unit": self.unit, **found}


@dataclass(frozen=True, eq=False)
class Anomaly:
    """How unusual a frame is, and where.

    Attributes:
        score: the higher, the more unusual.
        threshold: from which score on it is an anomaly.
        heat_map: (H, W) float32 at the frame's resolution, NaN where the network was not shown the pixel;
            None for a network that says only how much.
    """

    score: float
    threshold: float
    heat_map: NDArray[np.float32] | None = None

    @property
    def is_anomalous(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.score >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """`{"score", "threshold", "is_anomalous"}`, and `hottest_xy` in pixels where there is a heat map."""
        found: dict[str, Any] = {
            "score": self.score,
            "threshold": self.threshold,
            "is_anomalous": self.is_anomalous,
        }
        if self.heat_map is not None and not np.isnan(self.heat_map).all():
            row, column = np.unravel_index(np.nanargmax(self.heat_map), self.heat_map.shape)
            found["hottest_xy"] = [float(column) + 0.5, float(row) + 0.5]
        return found


@dataclass(frozen=True, eq=False)
class MultiResult:
    """Results of several tasks that one network does.

    Attributes:
        results: name of the task's head, as in the spec → its result.
    """

    results: Mapping[str, Result]

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def to_dict(self) -> dict[str, Any]:
        """`{"results": {name: result}}`."""
        return {"results": {name: result.to_dict() for name, result in self.results.items()}}


@dataclass(frozen=True, eq=False)
class RawOutputs:
    """A network's outputs as they are, for a task that edgecnn does not know.

    Attributes:
        tensors: output name → array without the batch axis.
    """

    tensors: Mapping[str, NDArray[Any]]

    def to_dict(self) -> dict[str, Any]:
        """`{"outputs": {name: {"shape", "dtype", "values"}}}`, the values as nested lists.

        JSON has no infinity and no NaN: None stands for both.
        """
        return {
            "outputs": {
                name: {"shape": list(array.shape), "dtype": str(array.dtype), "values": _as_lists(array)}
                for name, array in self.tensors.items()
            }
        }


def _as_lists(array: NDArray[Any]) -> Any:
    finite = np.isfinite(array)
    if not finite.all():
        array = array.astype(object)
        array[~finite] = None
    return array.tolist()
