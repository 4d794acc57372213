"""What a model says of itself: its task, how a frame becomes its input, what its outputs mean.

The spec is stored as JSON in the ONNX file's `metadata_props` under the key `edgecnn.spec` (or beside a
TensorRT plan), so one file carries everything that calibration, evaluation and the runtime need, and all
three read the same. Every value is explicit: a preset such as `imagenet` is resolved into numbers when the
spec is made, and its name is not stored. A field that this version does not know is refused, not skipped: a
newer edgecnn that stores one does so because it changes the result.

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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from edgecnn.errors import SpecError
from edgecnn.metadata import SPEC_KEY
from edgecnn.values import as_json, check, is_text, number, numbers, whole, wholes

__all__ = ["PRESETS", "Color", "ImageSpec", "Interpolation", "Layout", "ModelSpec", "Resize", "image_spec"]

SPEC_VERSION = 1

Layout = Literal["NCHW", "NHWC"]
Color = Literal["RGB", "BGR", "GRAY"]
Resize = Literal["stretch", "letterbox", "crop"]
Interpolation = Literal["nearest", "linear", "cubic", "area"]

MAX_SIDE_PX = 16384
DEFAULT_CROP_FRACTION = 0.875


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

    Raises:
        SpecError: a value is of the wrong kind, out of range, or contradicts another.
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
        for name, kind in _CHOICES.items():
            value = getattr(self, name)
            check(name, value, isinstance(value, str) and value in get_args(kind), _one_of(get_args(kind)))
        size_hw = wholes(self.size_hw)
        self._settle("size_hw", size_hw, _is_size(size_hw), f"two whole numbers from 1 to {MAX_SIDE_PX}")
        for name, above, kind_of in (("mean", -1e6, "finite"), ("std", 1e-6, "positive")):
            values = numbers(getattr(self, name))
            fits = len(values) == self.channels and all(above < value < 1e6 for value in values)
            self._settle(name, values, fits, f"{self.channels} {kind_of} numbers for {self.color}")
        scale, pad_value = number(self.scale), whole(self.pad_value)
        self._settle("scale", scale, 0 < scale < 1e6, "a positive number")
        self._settle("pad_value", pad_value, 0 <= pad_value <= 255, "a whole number from 0 to 255")
        if self.resize == "crop":
            resize_hw = wholes(self.resize_hw)
            covers = _is_size(resize_hw) and all(map(int.__ge__, resize_hw, size_hw))
            self._settle("resize_hw", resize_hw, covers, f"for crop, a size from {size_hw} to {MAX_SIDE_PX}")
        else:
            check("resize_hw", self.resize_hw, self.resize_hw is None, f"nothing for {self.resize}")

    @property
    def channels(self) -> int:
        """1 for `GRAY`, otherwise 3."""
        return 1 if self.color == "GRAY" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one frame's input without the batch axis: (C, H, W) or (H, W, C)."""
        height, width = self.size_hw
        return (self.channels, height, width) if self.layout == "NCHW" else (height, width, self.channels)

    def _settle(self, name: str, value: Any, correct: bool, expected: str) -> None:
        """Put the plain value in place of what was given, or refuse that."""
        check(name, getattr(self, name), correct, expected)
        object.__setattr__(self, name, value)


_CHOICES = {"layout": Layout, "color": Color, "resize": Resize, "interpolation": Interpolation}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model says of itself.

    Attributes:
        task: name of a module in `edgecnn.tasks`, such as `classification`.
        image: how a frame becomes the input.
        head: what the task needs to read the outputs; its keys are the task's own and checked by it. Values
            are what JSON knows: text, numbers, booleans, None, lists and mappings of these.
        labels: class names by class id; empty where the model has none.
        name: what to call the model; for people only.

    Raises:
        SpecError: a value is of the wrong kind.
    """

    task: str
    image: ImageSpec
    head: Mapping[str, Any] = field(default_factory=dict, hash=False)  # a mapping cannot be hashed
    labels: tuple[str, ...] = ()
    name: str = ""
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        named = is_text(self.task) and self.task.isidentifier() and not self.task.startswith("_")
        check("task", self.task, named, "a task's name")
        check("image", self.image, isinstance(self.image, ImageSpec), "an ImageSpec")
        check("head", self.head, isinstance(self.head, Mapping), "a mapping")
        listed = isinstance(self.labels, (list, tuple))  # a text would pass as many labels of one letter
        check("labels", self.labels, listed, "a tuple of class names")
        wrong = [
            f"{label!r} for class {index}" for index, label in enumerate(self.labels) if not is_text(label)
        ]
        check("labels", ", ".join(wrong), not wrong, "class names as text")
        check("name", self.name, is_text(self.name), "text")
        known = type(self.version) is int and self.version == SPEC_VERSION
        check("version", self.version, known, str(SPEC_VERSION))
        object.__setattr__(self, "head", as_json("head", self.head))  # a copy: the caller's may change
        object.__setattr__(self, "labels", tuple(self.labels))

    def to_json(self) -> str:
        """The spec as one JSON object; the same spec gives the same text."""
        import msgspec

        return msgspec.json.encode(self, order="sorted").decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """Read what `to_json` wrote. Raises SpecError on anything else; the text is data, never code."""
        import msgspec

        try:
            raw = msgspec.json.decode(text)
            _refuse_unknown(raw)
            return msgspec.convert(raw, cls)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise SpecError(
                "the model's spec cannot be read",
                got=str(error),
                remedy="Export the model again, or give the spec by options",
            ) from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelSpec | None:
        """The spec in an ONNX file's metadata, in ours or in Ultralytics' words; None where there is none."""
        text = metadata.get(SPEC_KEY)
        if text is not None:
            return cls.from_json(text)
        from edgecnn.foreign import ultralytics_spec

        return ultralytics_spec(metadata)


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


def image_spec(
    preset: str | ImageSpec | None = None,
    *,
    size_hw: Sequence[int] | None = None,
    layout: Layout | None = None,
    color: Color | None = None,
    resize: Resize | None = None,
    resize_hw: Sequence[int] | None = None,
    crop_fraction: float | None = None,
    interpolation: Interpolation | None = None,
    pad_value: int | None = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> ImageSpec:
    """Make an ImageSpec from a starting point and options that override it.

    Where an option changes what another one followed from, that one follows again, unless it is given too:
    the size that a crop covers keeps its ratio to a new `size_hw`; mean and std are put in the order of a new
    `color`, and averaged for `GRAY`.

    Args:
        preset: a name in `PRESETS`, another ImageSpec, or None for ImageSpec's own defaults.
        size_hw, layout, color, resize, resize_hw, interpolation, pad_value, scale: as in ImageSpec.
        crop_fraction: only for `crop`, in place of `resize_hw`: the part of the scaled frame that is cut out.
        mean, std: as in ImageSpec; a single number serves every channel.

    Raises:
        SpecError: unknown preset, or values that contradict each other.
    """
    base = _starting_point(preset)
    options = {
        "size_hw": size_hw, "layout": layout, "color": color, "resize": resize,
        "interpolation": interpolation, "pad_value": pad_value, "scale": scale,
    }  # fmt: skip
    values = {**base, **{name: value for name, value in options.items() if value is not None}}
    if values["size_hw"] is None:
        raise SpecError("no input size", expected="a preset or size_hw (--input-size HxW)")
    if values["resize"] == "crop":
        values["resize_hw"] = _covered(base, values["size_hw"], resize_hw, crop_fraction)
    else:
        values["resize_hw"] = resize_hw  # ImageSpec refuses it
        check("crop_fraction", crop_fraction, crop_fraction is None, f"nothing for {values['resize']}")
    if values["resize"] != "letterbox":
        check("pad_value", pad_value, pad_value is None, f"nothing for {values['resize']}")
    for name, given in (("mean", mean), ("std", std)):
        values[name] = _by_channel(given, base, name, values["color"])
    values.pop("crop_fraction", None)
    return ImageSpec(**values)


def _starting_point(preset: str | ImageSpec | None) -> dict[str, Any]:
    """Every field of ImageSpec, `size_hw` None where it is still open."""
    if isinstance(preset, ImageSpec):
        return {item.name: getattr(preset, item.name) for item in fields(ImageSpec)}
    base = {item.name: item.default for item in fields(ImageSpec)} | {"size_hw": None}
    if preset is None:
        return base
    if not isinstance(preset, str) or preset not in PRESETS:
        raise SpecError("unknown preset", got=str(preset), expected=_one_of(PRESETS))
    return base | PRESETS[preset]


def _covered(
    base: Mapping[str, Any], size_hw: Any, resize_hw: Sequence[int] | None, crop_fraction: float | None
) -> Sequence[int]:
    """For `crop`, the size that the scaled frame covers: as given, else in the starting point's ratio."""
    if resize_hw is not None:
        check("crop_fraction", crop_fraction, crop_fraction is None, "nothing beside resize_hw")
        return resize_hw
    sides = wholes(size_hw)
    if crop_fraction is None and base["resize_hw"] is not None:
        ratios = [outer / inner for outer, inner in zip(base["resize_hw"], base["size_hw"], strict=True)]
        return [round(side * ratio) for side, ratio in zip(sides, ratios, strict=False)]
    fraction = number(
        base.get("crop_fraction", DEFAULT_CROP_FRACTION) if crop_fraction is None else crop_fraction
    )
    check("crop_fraction", crop_fraction, 0.01 <= fraction <= 1, "0.01 to 1")
    return [round(side / fraction) for side in sides]


def _by_channel(given: Any, base: Mapping[str, Any], name: str, color: str) -> Any:
    """Mean or std with one number a channel: as given, else the starting point's in the order of `color`."""
    if given is not None:
        listed = isinstance(given, Iterable) and not isinstance(given, str)
        values = tuple(given) if listed else (given,)
        return values * (1 if color == "GRAY" else 3) if len(values) == 1 else values
    values = base[name]
    if color == "GRAY":
        return (sum(values) / len(values),)
    if base["color"] == "GRAY":
        return values * 3
    return values if color == base["color"] else values[::-1]


def _refuse_unknown(raw: Any) -> None:
    """Fields that this version does not know, or another version: misread, they would give wrong results."""
    if not isinstance(raw, dict):
        return
    image = raw.get("image")
    unknown = sorted(raw.keys() - {item.name for item in fields(ModelSpec)})
    if isinstance(image, dict):
        unknown += [
            f"image.{name}" for name in sorted(image.keys() - {item.name for item in fields(ImageSpec)})
        ]
    version = raw.get("version", SPEC_VERSION)
    if unknown or version != SPEC_VERSION:
        raise SpecError(
            "the model's spec says what this version of edgecnn does not know",
            got=", ".join(unknown) or f"version {version}",
            expected=f"version {SPEC_VERSION}",
            remedy="Update: pip install --upgrade edgecnn",
        )


def _is_size(sides: tuple[int, ...]) -> bool:
    return len(sides) == 2 and all(1 <= side <= MAX_SIDE_PX for side in sides)


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(names)
