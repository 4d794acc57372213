"""Several tasks that one network does at once, each with outputs of its own.

The head names them; each has its task, that task's head, its labels, and the outputs that are its own:

    {"lanes":   {"task": "segmentation", "outputs": ["lane_logits"], "labels": ["road", "lane"]},
     "objects": {"task": "detection", "outputs": ["boxes"], "head": {"format": "end_to_end"}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import MultiResult, Result
from edgecnn.spec import ModelSpec
from edgecnn.tasks import Task, create_task, read_head

__all__ = ["Part", "create"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the tasks.

    Attributes:
        task: its name.
        outputs: names of the outputs that it reads.
        head, labels: as in a ModelSpec.
    """

    task: str
    outputs: list[str]
    head: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


class DoSeveral:
    """Each task decodes its outputs → one MultiResult a frame."""

    def __init__(self, parts: Mapping[str, tuple[Task, Sequence[str]]]) -> None:
        self.parts = dict(parts)

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """As each task. Raises as they do."""
        columns = {
            name: task.decode({output: outputs[output] for output in own}, geometries)
            for name, (task, own) in self.parts.items()
        }
        return [
            MultiResult({name: results[index] for name, results in columns.items()})
            for index in range(len(geometries))
        ]

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """One over the other, in the order of the spec."""
        for name, (task, _) in self.parts.items():
            task.draw(image_bgr, cast("MultiResult", result)[name])

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """Each task's metrics, as `NAME.METRIC`."""
        first, second = cast("MultiResult", reference), cast("MultiResult", result)
        return {
            f"{name}.{metric}": value
            for name, (task, _) in self.parts.items()
            for metric, value in task.agreement(first[name], second[name]).items()
        }


def create(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> DoSeveral:
    """Make the task.

    Raises:
        SpecError: no task, one that is none or does not fit its outputs, or labels beside theirs.
    """
    if not spec.head:
        raise SpecError("which tasks does the network do?", expected='{"NAME": {"task": …, "outputs": […]}}')
    if spec.labels:
        raise SpecError("a network of several tasks has labels of its own", expected="labels in each task")
    infos = {info.name: info for info in outputs}
    parts = {}
    for name, given in spec.head.items():
        if not isinstance(given, Mapping) or given.get("task") == "multi_head":
            raise SpecError(
                f"{name} is no task", got=str(given)[:100], expected='{"task": …, "outputs": […]}'
            )
        part = read_head(spec, Part, given=given, of=f"head {name}")
        missing = [output for output in part.outputs if output not in infos]
        if missing or not part.outputs:
            raise SpecError(
                f"{name}: no such output",
                got=", ".join(missing) or "none",
                expected="one of " + ", ".join(infos),
            )
        own = replace(spec, task=part.task, head=part.head, labels=part.labels)
        try:
            task = create_task(own, [infos[output] for output in part.outputs])
        except SpecError as error:
            raise SpecError(
                f"{name}: {error.what}", got=error.got, expected=error.expected, remedy=error.remedy
            ) from error
        parts[name] = (task, tuple(part.outputs))
    return DoSeveral(parts)
