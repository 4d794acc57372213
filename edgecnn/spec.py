"""What a model says of itself: its task, how a frame becomes its input, what its outputs mean.

The spec is stored as JSON in the ONNX file's `metadata_props` under the key `edgecnn.spec` (or beside a
TensorRT plan), so one file carries everything that calibration, evaluation and the runtime need, and all
three read the same. Every value is explicit: a preset such as `imagenet` is resolved into numbers when the
spec is made, and its name is not stored.

From frame to input tensor:

    frame (H, W, 3) uint8 BGR ─▶ resize policy ─▶ colour order ─▶ (pixel · scale − mean) / std ─▶ layout

`pixel` is 0 … 255, and mean and std are in the units of `pixel · scale`. torchvision's convention has
scale 1/255 and mean and std in [0, 1]; EfficientNet-Lite has scale 1, mean 127 and std 128.

Resize policies, for a frame of H × W and an input of h × w:
- `stretch`: to h × w, aspect ratio ignored.
- `letterbox`: aspect ratio kept; scaled by min(h / H, w / W), centred, the border filled with `pad_value`.
- `crop`: aspect ratio kept; scaled to cover `resize_hw`, then the centre h × w is cut out.
  `resize_hw=(256, 256)` and `size_hw=(224, 224)` is torchvision's Resize(256) + CenterCrop(224).

Interpolation: `nearest`, `linear` and `cubic` are OpenCV's, which do not low-pass before shrinking; `area`
averages when shrinking and is `linear` when enlarging, and is the closest to what PIL and torchvision
(antialias) trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, cast, get_args

from edgecnn.errors import SpecError
from edgecnn.metadata import SPEC_KEY

__all__ = ["PRESETS", "Color", "ImageSpec", "Interpolation", "Layout", "ModelSpec", "Resize", "image_spec", "override"]

SPEC_VERSION = 1

Layout = Literal["NCHW", "NHWC"]
Color = Literal["RGB", "BGR", "GRAY"]
Resize = Literal["stretch", "letterbox", "crop"]
Interpolation = Literal["nearest", "linear", "cubic", "area"]

MAX_SIDE_PX = 16384


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How a camera's frame becomes the network's input; see the module's docstring for the formulas.

    Attributes:
        size_hw: height and width of the network's input, in pixels.
        layout: order of the input's axes: `NCHW` (PyTorch's) or `NHWC`.
        color: order of the channels that the network was trained with; `GRAY` has one channel.
        resize: resize policy.
        resize_hw: only for `crop`: the size that the scaled frame covers before the cut, in pixels.
        interpolation: how pixels are interpolated.
        pad_value: only for `letterbox`: grey level of the border, 0 … 255, before normalization.
        scale: factor on the pixel value.
        mean, std: one number a channel, in the order of `color`.
    """

    size_hw: tuple[int, int]
    layout: Layout = "NCHW"
    color: Color = "RGB"
    resize: Resize = "stretch"
    resize_hw: tuple[int, int] | None = None
    interpolation: Interpolation = "linear"
    pad_value: int = 114
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name, kind in (("layout", Layout), ("color", Color), ("resize", Resize), ("interpolation", Interpolation)):
            _check(name, getattr(self, name), getattr(self, name) in get_args(kind), "one of " + ", ".join(get_args(kind)))
        _check("size_hw", self.size_hw, _is_size(self.size_hw), f"two whole numbers from 1 to {MAX_SIDE_PX}")
        channels = self.channels
        for name in ("mean", "std"):
            values = getattr(self, name)
            _check(name, values, len(values) == channels, f"{channels} numbers for {self.color}")
            _check(name, values, all(abs(value) < 1e6 for value in values), "finite numbers")
        _check("std", self.std, all(value > 0 for value in self.std), "positive numbers")
        _check("scale", self.scale, 0 < self.scale < 1e6, "a positive number")
        _check("pad_value", self.pad_value, 0 <= self.pad_value <= 255, "0 to 255")
        if self.resize == "crop":
            fits = self.resize_hw is not None and _is_size(self.resize_hw) and all(
                outer >= inner for outer, inner in zip(self.resize_hw, self.size_hw, strict=True)
            )
            _check("resize_hw", self.resize_hw, fits, f"for crop, a size that holds {self.size_hw}")
        else:
            _check("resize_hw", self.resize_hw, self.resize_hw is None, f"nothing for {self.resize}")

    @property
    def channels(self) -> int:
        """1 for `GRAY`, otherwise 3."""
        return 1 if self.color == "GRAY" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one frame's input without the batch axis: (C, H, W) or (H, W, C)."""
        height, width = self.size_hw
        return (self.channels, height, width) if self.layout == "NCHW" else (height, width, self.channels)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model says of itself.

    Attributes:
        task: name of a module in `edgecnn.tasks`, such as `classification`.
        image: how a frame becomes the input.
        head: what the task needs to read the outputs; its keys are the task's own and checked by it.
        labels: class names by class id; empty where the model has none.
        name: what to call the model; for people only.
    """

    task: str
    image: ImageSpec
    head: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    name: str = ""
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        _check("task", self.task, self.task.isidentifier() and not self.task.startswith("_"), "a task's name")
        _check("version", self.version, self.version == SPEC_VERSION, f"{SPEC_VERSION}; use a newer edgecnn to read it")

    def to_json(self) -> str:
        """The spec as one JSON object; the same spec gives the same text."""
        import msgspec

        return msgspec.json.encode(self, order="sorted").decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """Read what `to_json` wrote. Raises SpecError on anything else; the text is data, never code."""
        import msgspec

        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SpecError(
                "the model's spec cannot be read", got=str(error), remedy="Export the model again, or give the spec by options"
            ) from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelSpec | None:
        """The spec in an ONNX file's metadata, or None where a foreign file has none."""
        text = metadata.get(SPEC_KEY)
        return None if text is None else cls.from_json(text)


# What differs from ImageSpec's defaults, and the size that the field's models of that family are trained
# at. `crop_fraction` gives resize_hw = round(size_hw / crop_fraction).
PRESETS: dict[str, dict[str, Any]] = {
    # torchvision's and timm's ImageNet models (PIL, antialiased bilinear)
    "imagenet": {
        "size_hw": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "area",
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    },
    # TensorFlow's EfficientNet-Lite (bicubic, not antialiased)
    "efficientnet-lite": {
        "size_hw": (224, 224), "resize": "crop", "crop_fraction": 0.875, "interpolation": "cubic",
        "scale": 1.0, "mean": (127.0, 127.0, 127.0), "std": (128.0, 128.0, 128.0),
    },
    # Inception-style [-1, 1]
    "inception": {
        "size_hw": (299, 299), "resize": "crop", "crop_fraction": 0.875, "interpolation": "area",
        "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
    },
    # the YOLO family since v5
    "yolo": {"size_hw": (640, 640), "resize": "letterbox", "interpolation": "linear", "pad_value": 114},
    # plain [0, 1] RGB
    "unit": {"size_hw": (224, 224), "resize": "stretch", "interpolation": "linear"},
}  # fmt: skip


def image_spec(preset: str | None = None, **options: Any) -> ImageSpec:
    """Make an ImageSpec from a preset and options that override it.

    Args:
        preset: a name in `PRESETS`, or None to start from ImageSpec's own defaults.
        options: any field of ImageSpec, and `crop_fraction`; those that are None are left out. A single
            number for `mean` or `std` serves every channel.

    Raises:
        SpecError: unknown preset, or values that contradict each other.
    """
    if preset is not None and preset not in PRESETS:
        raise SpecError("unknown preset", got=preset, expected="one of " + ", ".join(PRESETS))
    values: dict[str, Any] = dict(PRESETS[preset]) if preset else {}
    given = {name: value for name, value in options.items() if value is not None}
    values.update(given)
    if "size_hw" not in values:
        raise SpecError("no input size", expected="a preset or size_hw (--input-size HxW)")
    crop_fraction = values.pop("crop_fraction", 0.875)
    if values.get("resize") == "crop" and "resize_hw" not in values:
        _check("crop_fraction", crop_fraction, 0 < crop_fraction <= 1, "more than 0, at most 1")
        height, width = values["size_hw"]
        values["resize_hw"] = (round(height / crop_fraction), round(width / crop_fraction))
    channels = 1 if values.get("color") == "GRAY" else 3
    for name, default in (("mean", 0.0), ("std", 1.0)):
        value = values.get(name, default)
        numbers = tuple(float(number) for number in value) if isinstance(value, Sequence) else (float(value),)
        if name not in given and len(numbers) != channels:
            numbers = (sum(numbers) / len(numbers),)  # a colour preset used for a grey network
        values[name] = numbers * channels if len(numbers) == 1 else numbers
    return ImageSpec(**values)


_Spec = TypeVar("_Spec", ImageSpec, ModelSpec)


def override(spec: _Spec, **options: Any) -> _Spec:
    """A copy of a spec with the options that are not None put in its place. Raises SpecError as its class does."""
    return replace(spec, **{name: value for name, value in options.items() if value is not None})


def _is_size(value: Any) -> bool:
    sides = cast("tuple[Any, ...]", value)
    return len(sides) == 2 and all(isinstance(side, int) and 1 <= side <= MAX_SIDE_PX for side in sides)


def _check(name: str, value: Any, correct: bool, expected: str) -> None:
    if not correct:
        raise SpecError(f"{name} is wrong", got=str(value), expected=expected)
