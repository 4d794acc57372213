"""The options that say how a model is used: for `export`, and wherever a foreign ONNX file is read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from edgecnn.backends import open_backend
from edgecnn.cli.common import Size
from edgecnn.labels import read_labels
from edgecnn.spec import PRESETS, Color, ImageSpec, Interpolation, Layout, ModelSpec, Resize, image_spec
from edgecnn.tasks import available_tasks

__all__ = ["SpecOptions", "model_spec", "spec_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """`R,G,B` or one number."""

    name = "R,G,B"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers; expected R,G,B, such as 0.485,0.456,0.406")


class _Setting(click.ParamType):  # type: ignore[type-arg]  # as above
    """`KEY=VALUE`, the value being JSON where it can be read as such, and text otherwise."""

    name = "KEY=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[str, Any]:
        import msgspec

        if isinstance(value, tuple):
            return value
        key, separator, text = str(value).partition("=")
        if not key or not separator:
            self.fail(f"{value!r} is no setting; expected KEY=VALUE, such as multi_label=true")
        try:
            return key, msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return key, text


def _complete_task(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in available_tasks() if name.startswith(incomplete)]


# option of the command line → field of ImageSpec, or argument of image_spec
_IMAGE_OPTIONS = {
    "input_size": "size_hw",
    "layout": "layout",
    "color": "color",
    "resize": "resize",
    "resize_to": "resize_hw",
    "crop_fraction": "crop_fraction",
    "interpolation": "interpolation",
    "pad_value": "pad_value",
    "scale": "scale",
    "mean": "mean",
    "std": "std",
}

_OPTIONS = (
    click.option(
        "--task",
        shell_complete=_complete_task,
        help=f"What the outputs mean: {', '.join(available_tasks())}.",
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Preprocessing of a family of models; the options below override it.",
    ),
    click.option("--input-size", type=Size(), help="Input of the network in pixels."),
    click.option("--layout", type=click.Choice(get_args(Layout)), help="Order of the input's axes."),
    click.option("--color", type=click.Choice(get_args(Color)), help="Order of the channels."),
    click.option("--resize", type=click.Choice(get_args(Resize)), help="How a frame fits into the input."),
    click.option(
        "--resize-to", type=Size(), help="With --resize crop: the size to cover before the centre is cut out."
    ),
    click.option(
        "--crop-fraction", type=float, help="With --resize crop: the same as a fraction, such as 0.875."
    ),
    click.option(
        "--interpolation",
        type=click.Choice(get_args(Interpolation)),
        help="`area` is closest to PIL's antialiasing.",
    ),
    click.option(
        "--pad-value", type=click.IntRange(0, 255), help="With --resize letterbox: grey level of the border."
    ),
    click.option("--scale", type=float, help="normalized = (pixel · SCALE − MEAN) / STD."),
    click.option("--mean", type=_Numbers(), help="In units of pixel · scale, in the order of --color."),
    click.option("--std", type=_Numbers(), help="As --mean."),
    click.option("--labels", type=click.Path(), help="File with one class name a line, or `imagenet`."),
    click.option(
        "--scores", type=click.Choice(["logits", "probabilities"]), help="What a classifier's output holds."
    ),
    click.option(
        "--head", type=_Setting(), multiple=True, help="Another option of the task, such as multi_label=true."
    ),
)


@dataclass(frozen=True)
class SpecOptions:
    """What the user said of the spec; None where nothing was said.

    Attributes:
        task, preset, labels, scores: as the options of these names.
        image: arguments for `image_spec`.
        head: settings of the task.
    """

    task: str | None
    preset: str | None
    labels: str | None
    scores: str | None
    image: dict[str, Any]
    head: Mapping[str, Any] = field(default_factory=dict)

    @property
    def any_given(self) -> bool:
        """Whether the user said anything at all."""
        given = (self.task, self.preset, self.labels, self.scores, *self.image.values(), *self.head)
        return any(value is not None for value in given)

    def resolve(self, base: ModelSpec | None = None) -> ModelSpec | None:
        """The spec: `base` (the model's own) with these options over it, or one made from them alone.

        Returns None where there is neither a base nor any option. Raises SpecError.
        """
        if not self.any_given:
            return base
        image = self._image(base.image if base else None)
        labels = None if self.labels is None else read_labels(self.labels)
        head = {**({} if self.scores is None else {"scores": self.scores}), **self.head}
        if base is None:
            return ModelSpec(task=self.task or "classification", image=image, labels=labels or (), head=head)
        task = self.task or base.task
        return replace(
            base,
            task=task,
            image=image,
            labels=base.labels if labels is None else labels,
            # another task's settings would mean nothing to this one
            head={**(base.head if task == base.task else {}), **head},
        )

    def _image(self, base: ImageSpec | None) -> ImageSpec:
        if base is None:
            return image_spec(self.preset, **self.image)
        if self.preset is None:
            return image_spec(base, **self.image)
        # a preset says how frames are prepared; size and layout are the graph's own
        graph = {"size_hw": base.size_hw, "layout": base.layout}
        given = {name: value for name, value in self.image.items() if value is not None}
        return image_spec(self.preset, **{**graph, **given})


def model_spec(path: Path, options: SpecOptions) -> ModelSpec | None:
    """The options over the spec in a model's file; None where nothing was said: the file's own is used."""
    if not options.any_given:
        return None
    backend, _ = open_backend(path)
    try:
        return options.resolve(ModelSpec.from_metadata(backend.metadata))
    finally:
        backend.close()


def spec_options(function: _Function) -> _Function:
    """Adds the options above; the command gets them as one parameter `spec_options: SpecOptions`."""

    @functools.wraps(function)
    def wrapper(**options: Any) -> Any:
        said = {name: options.pop(name) for name in ("task", "preset", "labels", "scores")}
        image = {argument: options.pop(option) for option, argument in _IMAGE_OPTIONS.items()}
        head = dict(options.pop("head"))
        return function(spec_options=SpecOptions(**said, image=image, head=head), **options)

    decorated: Any = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: _Function = decorated
    return result
