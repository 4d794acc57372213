"""What a model finds in a frame: frozen objects of NumPy arrays, the same for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgecnn.errors import InputError

__all__ = ["ClassScore", "Classification", "RawOutputs", "Result"]


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
