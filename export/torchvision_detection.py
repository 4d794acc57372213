"""torchvision's detectors as networks: what they compute around the network goes into the spec.

SSD, SSDlite, RetinaNet and FCOS resize and normalize their images, make anchors, decode and drop boxes in
Python. The network between is what a device runs; the rest is told by the module's own attributes: sizes,
mean and std, anchors, weights of the box coder, thresholds. R-CNNs run part of the network once for each
proposal, whose number depends on the image: they stay as they are.

torchvision sets a resized image into the upper left corner and fills with zeros behind normalization; here
it is centred, and the border has the mean colour. Boxes near the border of a frame may differ a little.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgecnn.export.sources import Source
from edgecnn.spec import ImageSpec, ModelSpec, image_spec

if TYPE_CHECKING:
    import torch

__all__ = ["as_network"]

PADDED_TO = 32  # torchvision pads images to multiples of this


def as_network(source: Source) -> Source:
    """The source with the network alone, and its spec; any other source as it is."""
    detection = sys.modules.get("torchvision.models.detection")  # its modules are made by nothing else
    if detection is None:
        return source
    module = source.module
    if isinstance(module, detection.ssd.SSD):
        network, head = _network(module), _ssd_head(module)
    elif isinstance(module, detection.retinanet.RetinaNet):
        network, head = _network(module), _retinanet_head(module)
    elif isinstance(module, detection.fcos.FCOS):
        network, head = _network(module), _fcos_head(module)
    else:
        return source
    spec = ModelSpec(
        task="detection", image=_image(module), head=head, labels=_labels(module), name=source.name
    )
    return replace(source, module=network, spec=spec)


def _network(module: Any) -> torch.nn.Module:
    """Backbone and heads, without what comes before and behind."""
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = module.backbone
            self.head = module.head

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            features = self.backbone(image)
            outputs: dict[str, torch.Tensor] = self.head(
                list(features.values()) if isinstance(features, Mapping) else [features]
            )
            return outputs

    return Network()


def _image(module: Any) -> ImageSpec:
    transform = module.transform
    mean = tuple(float(value) for value in transform.image_mean)
    std = tuple(float(value) for value in transform.image_std)
    fixed = getattr(transform, "fixed_size", None)
    if fixed is not None:  # (width, height)
        return image_spec(None, size_hw=(fixed[1], fixed[0]), resize="stretch", mean=mean, std=std)
    sides = (min(transform.min_size[-1], transform.max_size), transform.max_size)
    return image_spec(
        None,
        size_hw=[-(-side // PADDED_TO) * PADDED_TO for side in sides],
        resize="letterbox",
        pad_value=max(0, min(255, round(255 * sum(mean) / len(mean)))),
        mean=mean,
        std=std,
    )


def _labels(module: Any) -> tuple[str, ...]:
    """The COCO names of torchvision's own weights, where the number of classes is theirs."""
    from torchvision.models import detection

    weights: Any = detection.RetinaNet_ResNet50_FPN_Weights
    names = weights.COCO_V1.meta["categories"]
    return tuple(names) if _classes(module) == len(names) else ()


def _classes(module: Any) -> int:
    head = module.head.classification_head
    if hasattr(head, "num_classes"):
        return int(head.num_classes)
    return int(head.num_columns)  # SSD


def _selection(module: Any) -> dict[str, Any]:
    return {
        "min_score": float(module.score_thresh),
        "nms_iou": float(module.nms_thresh),
        "max_detections": int(module.detections_per_img),
        "multi_label": True,
        "boxes_output": "bbox_regression",
        "scores_output": "cls_logits",
    }


def _ssd_head(module: Any) -> dict[str, Any]:
    return {
        "format": "anchors",
        "levels": _default_boxes(module),
        "weights": list(module.box_coder.weights),
        "activation": "softmax",
        "background": "first",
        **_selection(module),
    }


def _default_boxes(module: Any) -> list[dict[str, Any]]:
    """SSD's: their sizes are parts of the image, their grids those of the features."""
    import torch

    generator = module.anchor_generator
    width, height = module.transform.fixed_size
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            features = list(module.backbone(torch.zeros(1, 3, height, width)).values())
    finally:
        module.train(training)
    levels = []
    for index, feature in enumerate(features):
        rows, columns = (int(side) for side in feature.shape[-2:])
        step = (width / columns, height / rows)
        if generator.steps is not None:
            step = (float(generator.steps[index]),) * 2
        sizes = generator._wh_pairs[index]
        sizes = sizes.clamp(min=0, max=1) if generator.clip else sizes
        scaled = (sizes.double() * torch.tensor([width, height])).tolist()
        levels.append({"grid_hw": [rows, columns], "step_xy": list(step), "sizes_wh": scaled, "offset": 0.5})
    return levels


def _retinanet_head(module: Any) -> dict[str, Any]:
    return {
        "format": "anchors",
        "levels": _grid_levels(module),
        "weights": list(module.box_coder.weights),
        "activation": "sigmoid",
        **_selection(module),
    }


def _fcos_head(module: Any) -> dict[str, Any]:
    return {
        "format": "fcos",
        "levels": _grid_levels(module),
        "centerness_output": "bbox_ctrness",
        **_selection(module),
    }


def _grid_levels(module: Any) -> list[dict[str, Any]]:
    """AnchorGenerator's: strides double from one level to the next, beginning with the first feature's."""
    import torch

    side = 512
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            features = list(module.backbone(torch.zeros(1, 3, side, side)).values())
    finally:
        module.train(training)
    levels = []
    for feature, cells in zip(features, module.anchor_generator.cell_anchors, strict=True):
        sizes = (cells[:, 2:] - cells[:, :2]).double().tolist()
        levels.append({"stride": side // int(feature.shape[-1]), "sizes_wh": sizes, "offset": 0.0})
    return levels
