"""Formats of boxes: how networks write down what they found. One module a format, by name.

A format is a module in this package with

    Head                                  its options, a dataclass over `Selection`
    create(head, spec, outputs, extra)    → BoxFormat; raises SpecError where the outputs do not fit
    reading(spec, outputs, extra)         the options with which the outputs can be this format; None if not

`extra` is how many numbers follow those of a box in the same row: mask coefficients, keypoints.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import InferenceError, SpecError
from edgecnn.spec import ModelSpec
from edgecnn.tasks import read_head
from edgecnn.values import check

__all__ = [
    "BoxFormat",
    "Candidates",
    "Selection",
    "available_formats",
    "find_format",
    "not_finite",
    "open_format",
    "pick_output",
]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of the boxes that a network gives are kept: options of every format.

    Attributes:
        min_score: a box is kept where its score is above this.
        class_min_scores: label or class id as text → the same for one class, in place of `min_score`.
        nms_iou: of two boxes with an intersection over union above this, the surer is kept; None keeps both.
        class_agnostic: they need not be of the same class.
        max_detections: the surest so many are kept.
        min_side_px: width and height of a kept box are at least this, in pixels of the frame.
    """

    min_score: float = 0.25
    class_min_scores: dict[str, float] = field(default_factory=dict)
    nms_iou: float | None = 0.45
    class_agnostic: bool = False
    max_detections: int = 300
    min_side_px: float = 0.0

    def __post_init__(self) -> None:
        scores = [self.min_score, *self.class_min_scores.values()]
        check("min_score", scores, all(0 <= score <= 1 for score in scores), "0 to 1")
        check("nms_iou", self.nms_iou, self.nms_iou is None or 0 <= self.nms_iou <= 1, "0 to 1, or null")
        check("max_detections", self.max_detections, self.max_detections >= 1, "1 or more")
        check("min_side_px", self.min_side_px, self.min_side_px >= 0, "0 or more")

    @property
    def lowest_score(self) -> float:
        """No class has a lower threshold."""
        return min(self.min_score, *self.class_min_scores.values(), 1.0)


class Candidates(NamedTuple):
    """Boxes of one frame before any is dropped for another, in pixels of the network's input.

    Attributes:
        boxes_xyxy: (n, 4) float: left, top, right, bottom; of an oriented box before it is turned.
        scores: (n,) float32, above the lowest threshold.
        class_ids: (n,) integers.
        extras: (n, E): what follows the box in its row.
        angles_rad: (n,) of oriented boxes: turned about their centre, clockwise on the screen.
    """

    boxes_xyxy: NDArray[Any]
    scores: NDArray[Any]
    class_ids: NDArray[Any]
    extras: NDArray[Any] | None = None
    angles_rad: NDArray[Any] | None = None

    def take(self, chosen: NDArray[Any]) -> Candidates:
        """Those that a mask or indices select."""
        return Candidates(*(None if part is None else part[chosen] for part in self))  # type: ignore[arg-type]


class BoxFormat(Protocol):
    """Reads boxes from a network's outputs.

    Attributes:
        class_counts: how many labels fit; empty where the outputs do not say.
    """

    class_counts: tuple[int, ...]

    def read(self, outputs: Mapping[str, NDArray[Any]], index: int) -> Candidates:
        """The boxes of the frame `index`. Raises InferenceError where scores are NaN or infinite."""


def available_formats() -> tuple[str, ...]:
    """Names of the formats of this version."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def open_format(
    spec: ModelSpec, outputs: Sequence[TensorInfo], *, head: Mapping[str, Any], extra: int = 0
) -> tuple[BoxFormat, Selection]:
    """The format that a head names, or the only one that fits the outputs.

    Args:
        spec: the model's; its labels and its input's size.
        outputs: those that may hold boxes.
        head: options of the format.
        extra: numbers behind each box.

    Raises:
        SpecError: an unknown format, wrong options, outputs or labels that do not fit, or several formats
            that do.
    """
    head = find_format(spec, outputs, head=head, extra=extra)
    module = _module(head["format"])
    options: Selection = read_head(spec, module.Head, given=head, of=f"{spec.task} head ({head['format']})")
    opened: BoxFormat = module.create(options, spec, outputs, extra)
    counts = opened.class_counts
    if spec.labels and counts and len(spec.labels) not in counts:
        raise SpecError(
            "labels do not fit the model",
            got=f"{len(spec.labels)} labels",
            expected=f"{' or '.join(map(str, counts))}, one a class",
        )
    names = {*spec.labels, *map(str, range(max(counts, default=1 << 16)))}
    unknown = sorted(set(options.class_min_scores) - names)
    check("class_min_scores", ", ".join(unknown), not unknown, "labels or class ids of the model")
    return opened, options


def find_format(
    spec: ModelSpec, outputs: Sequence[TensorInfo], *, head: Mapping[str, Any], extra: int = 0
) -> dict[str, Any]:
    """The head, with the format in it: as given, else the only one that fits. Raises SpecError."""
    names = available_formats()
    if "format" in head:
        if head["format"] not in names:
            raise SpecError("unknown format of boxes", got=str(head["format"]), expected=", ".join(names))
        return dict(head)
    readings = {name: _module(name).reading(spec, outputs, extra) for name in names}
    fitting = {name: found for name, found in readings.items() if found is not None}
    if len(fitting) == 1:
        ((name, found),) = fitting.items()
        return {"format": name, **found, **head}
    shapes = ", ".join(f"{info.name} {info.shape}" for info in outputs)
    if not fitting:
        raise SpecError(
            "the outputs are none of the formats of boxes that edgecnn knows",
            got=shapes,
            expected=", ".join(names),
            remedy="If they are one, say which: --head format=NAME. Else use --task raw",
        )
    raise SpecError(
        "the outputs leave open how boxes are written in them",
        got=shapes,
        expected=" or ".join(fitting),
        remedy="Say which: " + " or ".join(f"--head format={name}" for name in fitting),
    )


def pick_output(outputs: Sequence[TensorInfo], name: str | None, what: str, rank: int) -> TensorInfo:
    """The output of that name, or the only one with `rank` axes. Raises SpecError."""
    fitting = [info for info in outputs if (info.name == name if name else len(info.shape) == rank)]
    if len(fitting) != 1:
        raise SpecError(
            f"no such output for {what}" if name else f"which output holds {what}?",
            got=name or ", ".join(f"{info.name} {info.shape}" for info in outputs),
            expected=", ".join(info.name for info in outputs) if name else f"one with {rank} axes",
            remedy=f"Name it: --head {what}=NAME",
        )
    return fitting[0]


def not_finite(name: str) -> InferenceError:
    """The error for an output that holds NaN or infinity where a number must be."""
    return InferenceError(
        f"output {name} is infinite or NaN",
        expected="finite scores and boxes",
        remedy="The network overflows: build it with --precision fp32, or check its preprocessing",
    )


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
