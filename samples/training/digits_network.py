"""The network that finds digits, what it is to say, and its loss; for the detector and the segmenters.

Convolutions with batch norm and ReLU, which quantize well, down to a sixteenth of the size and back up to an
eighth. Each cell of that grid says of one object (as FCOS and YOLOX do it, without anchors):

    x, y     of its centre: that of the cell, moved by a share of the cell's width
    w, h     e to the power of what the network gives, times 32 pixels
    scores   one a class, logistic

An object belongs to the cells whose centres are less than 0.75 cells from its own. The loss is varifocal
(H. Zhang et al. 2021) for scores, whose aim is the IoU of the box, and 1 − IoU with smooth L1 for boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from samples.training.scenes import LABELS, Scene

__all__ = [
    "STRIDE",
    "BoxHead",
    "Features",
    "FineMap",
    "Targets",
    "as_tensor",
    "box_loss",
    "decode",
    "targets_of",
]

STRIDE = 8
UNIT_PX = 32.0
_REACH = 0.75  # in cells


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Features(nn.Module):
    """(N, 3, H, W) → maps of 16, 32 and 48 channels at a half, a quarter and an eighth of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 2)
        self.quarter = nn.Sequential(conv(16, 32, 2), conv(32, 32))
        self.eighth = nn.Sequential(conv(32, 48, 2), conv(48, 48))
        self.sixteenth = nn.Sequential(conv(48, 64, 2), conv(64, 64), conv(64, 48, kernel=1))
        self.merge = conv(48, 48)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The finest map first."""
        half = self.stem(images)
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        context = functional.interpolate(self.sixteenth(eighth), scale_factor=2, mode="nearest")
        return half, quarter, self.merge(eighth + context)


class BoxHead(nn.Module):
    """(N, 48, h, w) → raw (N, 4 + classes + extra, h · w): box, logits, and what else there is."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(48, 48), conv(48, 48))
        self.boxes = nn.Conv2d(48, 4, 1)
        self.classes = nn.Conv2d(48, len(LABELS), 1)
        self.extra = nn.Conv2d(48, extra, 1) if extra else None
        nn.init.constant_(self.classes.bias, -4.0)  # type: ignore[arg-type]  # at first nothing is a digit

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The three parts, one behind the other."""
        trunk = self.trunk(features)
        parts = [self.boxes(trunk), self.classes(trunk)]
        if self.extra is not None:
            parts.append(self.extra(trunk))
        return torch.cat(parts, 1).flatten(2)


class FineMap(nn.Module):
    """The maps of `Features` → (N, outputs, H / 2, W / 2), for masks."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.narrow = nn.ModuleList([conv(48, 32, kernel=1), conv(32, 16, kernel=1)])
        self.merge = nn.ModuleList([conv(32, 32), conv(16, 16)])
        self.last = nn.Sequential(conv(16, 16), nn.Conv2d(16, outputs, 1))

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """From the coarse to the fine."""
        half, quarter, coarse = features
        for narrow, merge, finer in zip(self.narrow, self.merge, (quarter, half), strict=True):
            coarse = merge(finer + functional.interpolate(narrow(coarse), scale_factor=2, mode="nearest"))
        fine: torch.Tensor = self.last(coarse)
        return fine


def decode(raw: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
    """Raw numbers → boxes cx, cy, w, h in pixels of the input, scores, the rest; the shape stays."""
    height, width = grid_hw
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.stack([x, y]).reshape(1, 2, -1) + 0.5
    classes = 4 + len(LABELS)
    return torch.cat(
        [
            (centres + raw[:, :2]) * STRIDE,
            torch.exp(raw[:, 2:4]) * UNIT_PX,
            torch.sigmoid(raw[:, 4:classes]),
            raw[:, classes:],
        ],
        1,
    )


class Targets(NamedTuple):
    """What the cells of a batch are to say, for those that have an object.

    Attributes:
        image: (p,) which of the batch.
        cell: (p,) which cell of its grid.
        object: (p,) which object of its image.
        boxes: (p, 4) cx, cy, w, h, pixels.
        classes: (p,).
    """

    image: torch.Tensor
    cell: torch.Tensor
    object: torch.Tensor
    boxes: torch.Tensor
    classes: torch.Tensor


def as_tensor(scenes: Sequence[Scene]) -> torch.Tensor:
    """Frames → (N, 3, H, W) RGB in [0, 1]."""
    frames = np.stack([scene.frame[..., ::-1] for scene in scenes])
    return torch.from_numpy(frames.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def targets_of(scenes: Sequence[Scene], grid_hw: tuple[int, int]) -> Targets:
    """The cells near each object's centre; where objects are close, a cell is the nearest one's."""
    y, x = np.mgrid[: grid_hw[0], : grid_hw[1]].reshape(2, -1) + 0.5
    parts: list[tuple[torch.Tensor, ...]] = []
    for number, scene in enumerate(scenes):
        if not len(scene.class_ids):
            continue
        boxes = np.concatenate(
            [
                (scene.boxes_xyxy[:, :2] + scene.boxes_xyxy[:, 2:]) / 2,
                scene.boxes_xyxy[:, 2:] - scene.boxes_xyxy[:, :2],
            ],
            axis=1,
        )
        away = np.maximum(*(np.abs(at - boxes[:, axis, None] / STRIDE) for axis, at in ((0, x), (1, y))))
        nearest = away.argmin(axis=0)
        cells = np.flatnonzero(away.min(axis=0) < _REACH)
        owner = nearest[cells]
        images = np.full(len(cells), number)
        columns = (images, cells, owner, boxes[owner], scene.class_ids[owner])
        parts.append(tuple(map(torch.from_numpy, columns)))
    if not parts:
        none = torch.zeros(0, dtype=torch.int64)
        return Targets(none, none, none, torch.zeros(0, 4), none)
    return Targets(*(torch.cat(column) for column in zip(*parts, strict=True)))


def box_loss(raw: torch.Tensor, targets: Targets, grid_hw: tuple[int, int]) -> torch.Tensor:
    """Scores and boxes of a batch; `raw` is (N, numbers, cells)."""
    decoded = decode(raw, grid_hw)
    found = decoded[targets.image, :4, targets.cell]
    iou = _iou(found, targets.boxes)
    cell = torch.tensor([grid_hw[1], 1])
    centres = torch.stack([targets.cell % cell[0], targets.cell // cell[0]], 1) + 0.5
    aims = torch.cat([targets.boxes[:, :2] / STRIDE - centres, (targets.boxes[:, 2:] / UNIT_PX).log()], 1)
    given = raw[targets.image, :4, targets.cell]
    boxes = (1 - iou).sum() + functional.smooth_l1_loss(given, aims, beta=0.1, reduction="sum")
    logits = raw[:, 4 : 4 + len(LABELS)]
    scores = torch.sigmoid(logits).detach()
    aim = torch.zeros_like(scores)
    aim[targets.image, targets.classes, targets.cell] = iou.detach().clamp(0.1, 1)
    weights = torch.where(aim > 0, aim, 0.75 * scores**2)
    classes = (weights * functional.binary_cross_entropy_with_logits(logits, aim, reduction="none")).sum()
    return (boxes + classes) / max(1, len(targets.cell))


def _iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(p, 4) and (p, 4) as cx, cy, w, h → (p,) intersection over union."""
    low = torch.maximum(first[:, :2] - first[:, 2:] / 2, second[:, :2] - second[:, 2:] / 2)
    high = torch.minimum(first[:, :2] + first[:, 2:] / 2, second[:, :2] + second[:, 2:] / 2)
    both = (high - low).clamp(min=0).prod(1)
    return both / (first[:, 2:].prod(1) + second[:, 2:].prod(1) - both)
