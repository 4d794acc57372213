"""Tasks: from a network's outputs to a result, and from a result to a drawing.

A task is one module in this package with a function `create(spec, outputs) -> Task`. The spec names the
module, so that adding a task touches no other file. Where the shapes of the outputs tell what the head does
not say, the module has a function `complete(spec, outputs)` too, which gives the whole head.

A task outside this package is registered by the program that uses it (`register_task`). A spec is a part of a
file that anybody may have written: it names a task, and never what to import.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import Result
from edgecnn.spec import ModelSpec

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Task",
    "available_tasks",
    "complete_head",
    "create_task",
    "read_head",
    "register_task",
    "split_head",
]

_registered: dict[str, Any] = {}


class Task(Protocol):
    """What the runtime needs of a task. Safe from any thread."""

    def decode(self, outputs: Mapping[str, NDArray[Any]], geometries: Sequence[Geometry]) -> list[Result]:
        """One result a frame.

        Args:
            outputs: the network's, with a batch axis in front. It may be longer than there are frames: a
                network of a fixed batch is run with rows that nobody asked for at the end.
            geometries: one entry a frame.

        Raises:
            InferenceError: the outputs hold no result, such as NaN.
        """

    def draw(self, image_bgr: NDArray[np.uint8], result: Result) -> None:
        """Draw the result onto the frame (H, W, 3), in place."""

    def agreement(self, reference: Result, result: Result) -> dict[str, float]:
        """How far two results of one frame agree: metric → value in [0, 1], 1 where they say the same.

        `build --precision auto` goes by the lowest of those whose names end in `_agreement`.
        """


def register_task(name: str, create: Callable[[ModelSpec, Sequence[TensorInfo]], Task]) -> None:
    """Let specs name a task of your own, in this process.

        register_task("count", lambda spec, outputs: Count())
        edgecnn.load("model.onnx", spec=ModelSpec(task="count", image=…))

    Args:
        name: an identifier, which none of edgecnn's own tasks has; a second task of it replaces the first.
        create: makes the task; called with the model's spec and its outputs when a model is loaded. It raises
            SpecError where they do not fit.

    Raises:
        SpecError: a name that cannot be.
    """
    if not name.isidentifier() or name.startswith("_") or name in _own_tasks():
        raise SpecError(
            "no name for a task of your own", got=name, expected="an identifier, and none of edgecnn's tasks"
        )
    _registered[name] = SimpleNamespace(create=create)


def create_task(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> Task:
    """Make the task that the spec names.

    Raises:
        SpecError: no such task, or the head's options or the outputs do not fit it.
    """
    task: Task = _task_module(spec.task).create(spec, outputs)
    return task


def complete_head(spec: ModelSpec, outputs: Sequence[TensorInfo]) -> Mapping[str, Any]:
    """The spec's head with what the outputs' shapes tell, for tasks whose module has a function `complete`.

    Raises:
        SpecError: as `create_task`, or the shapes leave several readings, which the error names.
    """
    module = _task_module(spec.task)
    head: Mapping[str, Any] = module.complete(spec, outputs) if hasattr(module, "complete") else spec.head
    return head


def available_tasks() -> tuple[str, ...]:
    """Names of the tasks of this version, and of those that were registered."""
    return tuple(sorted({*_own_tasks(), *_registered}))


def _own_tasks() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}


def _task_module(name: str) -> Any:
    if name in _registered:
        return _registered[name]
    if name not in _own_tasks():
        raise SpecError(
            "unknown task",
            got=name,
            expected="one of " + ", ".join(available_tasks()),
            remedy="A task of your own: call edgecnn.tasks.register_task before the model is loaded",
        )
    return importlib.import_module(f"{__name__}.{name}")


_Head = TypeVar("_Head", bound="DataclassInstance")


def read_head(
    spec: ModelSpec, head_type: type[_Head], *, given: Mapping[str, Any] | None = None, of: str | None = None
) -> _Head:
    """The spec's head as a task's own dataclass.

    Args:
        spec: the model's.
        head_type: the dataclass.
        given: a part of the head, where the rest is read elsewhere.
        of: what to call it in an error.

    Raises:
        SpecError: unknown keys or wrong types.
    """
    import msgspec

    options = spec.head if given is None else given
    what = of or f"{spec.task} head"
    known = [item.name for item in fields(head_type)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SpecError(
            f"unknown option of the {what}",
            got=", ".join(unknown),
            expected="one of " + ", ".join(known) if known else "none",
        )
    try:
        return msgspec.convert(dict(options), head_type)
    except msgspec.ValidationError as error:
        raise SpecError(f"the {what} is wrong", got=str(error)) from error


def split_head(spec: ModelSpec, head_type: type[_Head]) -> tuple[_Head, dict[str, Any]]:
    """The keys of the spec's head that the dataclass knows, and the others. Raises SpecError."""
    known = {item.name for item in fields(head_type)}
    own = {name: value for name, value in spec.head.items() if name in known}
    rest = {name: value for name, value in spec.head.items() if name not in known}
    return read_head(spec, head_type, given=own), rest
