"""The options that say how a model is used: for `export`, and for a foreign ONNX file wherever one is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from edgecnn.backends import open_backend
from edgecnn.cli.common import Size
from edgecnn.errors import SpecError
from edgecnn.labels import read_labels
from edgecnn.spec import PRESETS, Color, ImageSpec, Interpolation, Layout, ModelSpec, Resize, image_spec, override

__all__ = ["SpecOptions", "model_spec", "spec_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Numbers(click.ParamType):
    """`R,G,B` or one number."""

    name = "R,G,B"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers; expected R,G,B, such as 0.485,0.456,0.406")


_OPTIONS = (
    click.option("--task", help="What the outputs mean: classification, raw."),
    click.option("--preset", type=click.Choice(list(PRESETS)), help="Preprocessing of a family of models; the options below override it."),
    click.option("--input-size", type=Size(), help="Input of the network in pixels."),
    click.option("--layout", type=click.Choice(get_args(Layout)), help="Order of the input's axes."),
    click.option("--color", type=click.Choice(get_args(Color)), help="Order of the channels."),
    click.option("--resize", type=click.Choice(get_args(Resize)), help="How a frame is fitted into the input."),
    click.option("--resize-to", type=Size(), help="With --resize crop: the size to cover before the centre is cut out."),
    click.option("--crop-fraction", type=float, help="With --resize crop: the same as a fraction, such as 0.875."),
    click.option("--interpolation", type=click.Choice(get_args(Interpolation)), help="`area` is closest to PIL's antialiasing."),
    click.option("--pad-value", type=click.IntRange(0, 255), help="With --resize letterbox: grey level of the border."),
    click.option("--scale", type=float, help="normalized = (pixel · SCALE − MEAN) / STD."),
    click.option("--mean", type=_Numbers(), help="In units of pixel · scale, in the order of --color."),
    click.option("--std", type=_Numbers(), help="As --mean."),
    click.option("--labels", help="File with one class name a line, or `imagenet`."),
    click.option("--scores", type=click.Choice(["logits", "probabilities"]), help="What a classifier's output holds."),
)  # fmt: skip


@dataclass(frozen=True)
class SpecOptions:
    """What the user said of the spec; None where nothing was said."""

    task: str | None
    preset: str | None
    labels: str | None
    scores: str | None
    image: dict[str, Any]

    @property
    def any_given(self) -> bool:
        """Whether the user said anything at all."""
        given = (self.task, self.preset, self.labels, self.scores, *self.image.values())
        return any(value is not None for value in given)

    def resolve(self, base: ModelSpec | None = None, *, default_preset: str | None = None) -> ModelSpec | None:
        """The spec: `base` (the model's own) with these options over it, or one made from them alone.

        Returns None where there is neither a base nor any option. Raises SpecError.
        """
        if base is None and not self.any_given and default_preset is None:
            return None
        image = self._image(base.image if base else None, default_preset)
        labels = read_labels(self.labels) if self.labels else None
        head = {"scores": self.scores} if self.scores else None
        if base is None:
            return ModelSpec(task=self.task or "classification", image=image, labels=labels or (), head=head or {})
        merged = {**base.head, **head} if head else None
        return override(base, task=self.task, image=image, labels=labels, head=merged)

    def _image(self, base: ImageSpec | None, default_preset: str | None) -> ImageSpec:
        if base is None or self.preset is not None:
            return image_spec(self.preset or default_preset, **self.image)
        given = {name: value for name, value in self.image.items() if value is not None}
        if not given:
            return base
        values = {name: getattr(base, name) for name in ImageSpec.__dataclass_fields__}
        if given.keys() & {"resize", "size_hw", "crop_fraction"}:
            values.pop("resize_hw")  # it followed from the old ones
        return image_spec(None, **{**values, **given})


def model_spec(path: Path, options: SpecOptions) -> ModelSpec | None:
    """The options over the spec in a model's file; None where nothing was said, so that the file's own is used."""
    if not options.any_given:
        return None
    backend, _ = open_backend(path)
    try:
        return options.resolve(ModelSpec.from_metadata(backend.metadata))
    finally:
        backend.close()


def spec_options(function: _Function) -> _Function:
    """Adds the options above; the command gets them as one parameter `spec_options: SpecOptions`."""
    import functools

    @functools.wraps(function)
    def wrapper(**options: Any) -> Any:
        taken = {name: options.pop(name) for name in ("task", "preset", "labels", "scores")}
        image = {
            "size_hw": options.pop("input_size"),
            "resize_hw": options.pop("resize_to"),
            **{
                name: options.pop(name)
                for name in ("layout", "color", "resize", "crop_fraction", "interpolation", "pad_value", "scale", "mean", "std")
            },
        }
        return function(spec_options=SpecOptions(**taken, image=image), **options)

    decorated: Any = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: _Function = decorated
    return result
