"""`timm:NAME` and `torchvision:NAME`: architectures by name. Nothing is downloaded unless asked for.

Both libraries know how their models were trained to be fed, which becomes the default spec.

- timm's `pretrained_cfg`: input size, mean, std, `crop_pct` and interpolation. timm scales images with PIL,
  which averages when shrinking; edgecnn's `area` is what comes closest, for bicubic as for bilinear. The
  image is scaled to floor(size / crop_pct).
- torchvision's weights carry the transforms of their evaluation, also without the weights themselves.
"""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any

from edgecnn.errors import ExportError, SpecError
from edgecnn.export.sources import Source
from edgecnn.export.sources.factory import Arguments
from edgecnn.export.torch_boundary import essential_line, quiet, require
from edgecnn.spec import Interpolation, ModelSpec, image_spec

if TYPE_CHECKING:
    import torch

__all__ = ["COLLECTIONS", "load"]

COLLECTIONS = ("timm", "torchvision")

_SHRINKS_LIKE_PIL: Interpolation = "area"


def load(collection: str, name: str, arguments: Arguments) -> Source:
    """Make a model of a collection, with random weights.

    Raises:
        BackendUnavailableError: the collection is not installed, or not usable.
        ExportError: no model of that name, or arguments that it does not take.
    """
    require(collection, remedy=f"pip install {collection}")
    if arguments.positional:
        raise ExportError(
            f"{collection}: models take named arguments", got="--arg VALUE", expected="--arg KEY=VALUE"
        )
    make = _make_timm if collection == "timm" else _make_torchvision
    module, spec = make(name, arguments.named)
    trained = arguments.named.get("pretrained") or arguments.named.get("weights")  # the user's own wish
    random = f"{collection}:{name} has random weights: give trained ones with --weights FILE"
    return Source(
        module=module,
        name=name,
        origin={"factory": f"{collection}:{name}"},
        spec=spec,
        notes=() if trained else (random,),
    )


def _make_timm(name: str, named: dict[str, Any]) -> tuple[torch.nn.Module, ModelSpec | None]:
    import timm

    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise _unknown("timm", name, known)
    with quiet():
        module = _build("timm", name, lambda: timm.create_model(name, **{"pretrained": False, **named}))
    return module, _timm_spec(name, getattr(module, "pretrained_cfg", None) or {})


def _timm_spec(name: str, config: dict[str, Any]) -> ModelSpec | None:
    if "input_size" not in config:
        return None
    channels, *size = config["input_size"]
    size_hw = (int(size[0]), int(size[1]))
    fraction = float(config.get("crop_pct") or 1.0)
    stretched = config.get("crop_mode") == "squash"
    try:
        image = image_spec(
            None,
            size_hw=size_hw,
            color="GRAY" if channels == 1 else "RGB",
            resize="stretch" if stretched else "crop",
            resize_hw=None if stretched else tuple(math.floor(side / fraction) for side in size_hw),
            interpolation=_SHRINKS_LIKE_PIL,
            mean=tuple(config.get("mean", (0.0,) * channels)),
            std=tuple(config.get("std", (1.0,) * channels)),
        )
    except SpecError:  # five-channel satellite images and the like: the user has to say
        return None
    return ModelSpec(task="classification", image=image, name=name)


def _make_torchvision(name: str, named: dict[str, Any]) -> tuple[torch.nn.Module, ModelSpec | None]:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise _unknown("torchvision", name, known)
    options: dict[str, Any] = {"weights": None}
    if name not in models.list_models(
        module=models
    ):  # detection, segmentation: or the backbone is downloaded
        options["weights_backbone"] = None
    with quiet():
        module = _build("torchvision", name, lambda: models.get_model(name, **{**options, **named}))
    return module, _torchvision_spec(name)


def _torchvision_spec(name: str) -> ModelSpec | None:
    """From the transforms of the architecture's first weights; None for what they do not tell."""
    from torchvision import models
    from torchvision.transforms._presets import ImageClassification, SemanticSegmentation

    weights = next(iter(models.get_model_weights(name)), None)
    transforms = weights.transforms() if weights is not None else None
    if isinstance(transforms, SemanticSegmentation):
        (side,) = transforms.resize_size  # of the shorter side; a network for a device has one size
        image = image_spec(
            None,
            size_hw=(side, side),
            resize="letterbox",
            interpolation=_SHRINKS_LIKE_PIL,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        )
        return ModelSpec(task="segmentation", image=image, name=name)
    if not isinstance(transforms, ImageClassification):
        return None
    cut, scaled = transforms.crop_size[0], transforms.resize_size[0]
    image = image_spec(
        None,
        size_hw=(cut, cut),
        resize="crop",
        resize_hw=(scaled, scaled),
        interpolation=_SHRINKS_LIKE_PIL,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    return ModelSpec(task="classification", image=image, name=name)


def _build(collection: str, name: str, make: Any) -> Any:
    try:
        return make()
    except Exception as error:  # a wrong argument surfaces deep in somebody's constructor
        raise ExportError(f"{collection} cannot make {name} like this", got=essential_line(error)) from error


def _unknown(collection: str, name: str, known: list[str]) -> ExportError:
    close = difflib.get_close_matches(name, known, n=3) or [entry for entry in known if name in entry][:3]
    return ExportError(
        f"{collection} has no model {name!r}",
        got=f"{len(known)} others",
        remedy=f"Perhaps {', '.join(close)}" if close else f"{collection}.list_models() names them",
    )
