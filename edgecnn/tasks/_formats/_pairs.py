"""What formats with boxes in one output and scores in another share: options, outputs, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import SpecError
from edgecnn.tasks._formats import Selection
from edgecnn.tasks._formats._scores import Activation, above

__all__ = ["Pairs", "ScoresHead", "find_pairs", "named"]


@dataclass(frozen=True, kw_only=True)
class ScoresHead(Selection):
    """How to read boxes (N, A, 4) and scores (N, A, C) in two outputs.

    Attributes:
        activation: what is still to be done to the scores.
        background: which class says that there is nothing; class ids stay those of the network.
        multi_label: one box may be found as several classes.
        boxes_output, scores_output: their names; found by their shapes where None.
    """

    activation: Activation = "none"
    background: Literal["first", "last"] | None = None
    multi_label: bool = False
    boxes_output: str | None = None
    scores_output: str | None = None


class Pairs:
    """Scores of boxes that stand in another output.

    Attributes:
        boxes, scores: names of the outputs.
        count: how many boxes there are, None where the graph does not say.
        class_counts: how many labels fit.
    """

    def __init__(self, head: ScoresHead, boxes: TensorInfo, scores: TensorInfo) -> None:
        for info, last in ((boxes, 4), (scores, None)):
            if len(info.shape) != 3 or (last and info.shape[2] not in (None, last)):
                raise SpecError(
                    f"output {info.name} does not hold {'boxes' if last else 'scores'}",
                    got=str(info.shape),
                    expected="(N, boxes, 4)" if last else "(N, boxes, classes)",
                )
        counts = {boxes.shape[1], scores.shape[1]} - {None}
        if len(counts) > 1:
            raise SpecError(
                f"outputs {boxes.name} and {scores.name} have different numbers of boxes",
                got=f"{boxes.shape} and {scores.shape}",
            )
        self.head = head
        self.boxes, self.scores = boxes.name, scores.name
        self.count = counts.pop() if counts else None
        classes = scores.shape[2]
        self.class_counts: tuple[int, ...] = () if classes is None else (classes,)
        if classes is not None and head.background == "last":
            self.class_counts = (classes - 1, classes)

    def above(
        self, outputs: Mapping[str, NDArray[Any]], index: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """(indices of boxes, classes, scores) above the lowest threshold."""
        return self.above_of(outputs[self.scores][index].T)

    def above_of(
        self, values: NDArray[Any], activation: Activation | None = None
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """The same of scores (C, A)."""
        head = self.head
        activation = activation or head.activation
        if activation == "softmax" and head.background:  # it takes its share before it is left out
            with np.errstate(all="ignore"):
                exponentials = np.exp(values.astype(np.float32) - values.max(axis=0))
                values, activation = exponentials / exponentials.sum(axis=0), "none"
        first = 1 if head.background == "first" else 0
        last = -1 if head.background == "last" else None
        boxes, classes, scores = above(
            values[first:last],
            head.lowest_score,
            output=self.scores,
            activation=activation,
            multi_label=head.multi_label,
        )
        return boxes, classes + first, scores


def find_pairs(head: ScoresHead, outputs: Sequence[TensorInfo]) -> Pairs:
    """The two outputs, by name or by shape. Raises SpecError."""
    if head.boxes_output is not None:
        boxes = named(outputs, head.boxes_output)
    else:
        fitting = [info for info in outputs if len(info.shape) == 3 and info.shape[2] == 4]
        fitting = [info for info in fitting if info.name != head.scores_output]
        likely = [info for info in fitting if "box" in info.name]  # four classes look the same
        if len(likely or fitting) != 1:
            raise _unclear("boxes", outputs)
        boxes = (likely or fitting)[0]
    if head.scores_output is not None:
        return Pairs(head, boxes, named(outputs, head.scores_output))
    others = [info for info in outputs if len(info.shape) == 3 and info is not boxes]
    likely = [info for info in others if info.shape[2] != 1] or others  # one number a box is its centerness
    if len(likely) != 1:
        raise _unclear("scores", outputs)
    return Pairs(head, boxes, likely[0])


def named(outputs: Sequence[TensorInfo], name: str) -> TensorInfo:
    """The output of that name. Raises SpecError."""
    for info in outputs:
        if info.name == name:
            return info
    raise SpecError("no such output", got=name, expected="one of " + ", ".join(info.name for info in outputs))


def _unclear(what: str, outputs: Sequence[TensorInfo]) -> SpecError:
    return SpecError(
        f"which output holds the {what}?",
        got=", ".join(f"{info.name} {info.shape}" for info in outputs),
        remedy=f"Name it: --head {what}_output=NAME",
    )
