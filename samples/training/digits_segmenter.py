"""Train a network that finds handwritten digits on photos, each with its mask, put together from prototypes.

As YOLACT does it (Bolya et al. 2019): behind a box stand eight numbers, by which eight maps are added up.

python -m samples.training.digits_segmenter
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgecnn.evaluation import evaluate, open_labelled
from edgecnn.model import Model
from edgecnn.spec import ModelSpec, image_spec
from samples.training.digits_network import (
    STRIDE,
    BoxHead,
    Features,
    FineMap,
    Targets,
    as_tensor,
    box_loss,
    decode,
    targets_of,
)
from samples.training.loop import finish, parse, train
from samples.training.scenes import LABELS, Scene, Scenes, write_coco

__all__ = ["HEIGHTS", "SIZE_HW", "TEST_HW", "Segmenter", "main"]

SIZE_HW = (144, 192)
TEST_HW = (288, 384)
HEIGHTS = (0.2, 0.5)  # larger than the detector's: strokes are to be wider than a cell of the masks
GRID_HW = (SIZE_HW[0] // STRIDE, SIZE_HW[1] // STRIDE)
PROTOTYPES = 8
BATCH = 16
CALIBRATION_FRAMES = 160
_MOST_MASKS = 96  # of a batch, for the loss


class Segmenter(nn.Module):
    """(N, 3, 144, 192) → (N, 22, 432): box, scores, coefficients; and prototypes (N, 8, 72, 96)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Features()
        self.head = BoxHead(extra=PROTOTYPES)
        self.prototypes = FineMap(PROTOTYPES)

    def raw(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the loss takes."""
        features = self.features(images)
        return self.head(features[-1]), self.prototypes(features)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is exported: boxes decoded in the graph."""
        raw, prototypes = self.raw(images)
        return decode(raw, GRID_HW), prototypes


def mask_loss(
    raw: torch.Tensor, prototypes: torch.Tensor, targets: Targets, scenes: Sequence[Scene]
) -> torch.Tensor:
    """Cross-entropy and Dice of the masks inside their boxes, cell by cell of the prototypes."""
    step = max(1, len(targets.cell) // _MOST_MASKS + 1)
    image, cell, number, boxes = (part[::step] for part in targets[:4])
    if not len(cell):
        return prototypes.sum() * 0
    coefficients = raw[image, -PROTOTYPES:, cell]
    logits = (coefficients[:, :, None, None] * prototypes[image]).sum(1)  # (p, h, w)
    instances = torch.from_numpy(np.stack([scene.instances for scene in scenes]))
    truth = (instances[image] == (number + 1)[:, None, None]).float()
    truth = functional.avg_pool2d(truth, SIZE_HW[0] // prototypes.shape[-2])
    y = (torch.arange(logits.shape[1]) + 0.5)[None, :, None] * SIZE_HW[0] / logits.shape[1]
    x = (torch.arange(logits.shape[2]) + 0.5)[None, None] * SIZE_HW[1] / logits.shape[2]
    centre_x, centre_y, width, height = (column[:, None, None] for column in boxes.unbind(1))
    inside = (((x - centre_x).abs() < width / 2 + 2) & ((y - centre_y).abs() < height / 2 + 2)).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * inside
    shown = torch.sigmoid(logits) * inside
    dice = 1 - (2 * (shown * truth).sum((1, 2)) + 1) / ((shown + truth).sum((1, 2)) + 1)
    return (entropy.sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).mean() + dice.mean()


def main() -> None:
    """Train, export, calibrate, evaluate."""
    options = parse(__doc__, steps=1800)
    torch.manual_seed(options.seed)
    network = Segmenter()
    scenes = Scenes("train", size_hw=SIZE_HW, seed=options.seed, heights=HEIGHTS)

    def loss(step: int) -> torch.Tensor:
        batch = [scenes[BATCH * step + index] for index in range(BATCH)]
        targets = targets_of(batch, GRID_HW)
        raw, prototypes = network.raw(as_tensor(batch))
        return box_loss(raw, targets, GRID_HW) + 2 * mask_loss(raw, prototypes, targets, batch)

    training = train(network, loss, steps=options.steps, seed=options.seed)
    spec = ModelSpec(
        task="instance_segmentation",
        image=image_spec("unit", size_hw=SIZE_HW, resize="letterbox", interpolation="area"),
        head={
            "format": "yolo", "objectness": False, "rows_first": False, "nms_iou": 0.5,
            "output": "objects", "prototypes_output": "prototypes",
        },
        labels=LABELS,
        name="digits, instance segmenter",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        test = Scenes("test", size_hw=TEST_HW, heights=HEIGHTS)
        write_coco(Path(folder), [test[number] for number in range(options.test_frames)])

        def measure(model: Model) -> Mapping[str, float]:
            metrics = evaluate(model, open_labelled(folder, model.spec)).metrics
            return {name: metrics[name] for name in ("mask_map_50_95", "mask_map_50", "map_50_95", "map_50")}

        seen = Scenes("train", size_hw=TEST_HW, seed=options.seed + 1, heights=HEIGHTS)
        finish(
            network,
            spec,
            name="digits_segmenter",
            frames=[seen[number].frame for number in range(CALIBRATION_FRAMES)],
            evaluate=measure,
            training=training,
            test_set=f"{options.test_frames} scenes of 288 × 384 with other people's digits on other photos",
            output=options.output,
            output_names=("objects", "prototypes"),
        )


if __name__ == "__main__":
    main()
