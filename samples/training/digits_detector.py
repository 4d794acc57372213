"""Train a detector of handwritten digits on photos: 144 × 192 pixels in, boxes with one of ten classes out.

python -m samples.training.digits_detector
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from edgecnn.evaluation import evaluate, open_labelled
from edgecnn.model import Model
from edgecnn.spec import ModelSpec, image_spec
from samples.training.digits_network import STRIDE, BoxHead, Features, as_tensor, box_loss, decode, targets_of
from samples.training.loop import finish, parse, train
from samples.training.scenes import LABELS, Scenes, write_coco

__all__ = ["HEIGHTS", "SIZE_HW", "TEST_HW", "Detector", "main"]

SIZE_HW = (144, 192)
TEST_HW = (288, 384)
HEIGHTS = (0.15, 0.45)  # of a digit, as a part of the frame's
GRID_HW = (SIZE_HW[0] // STRIDE, SIZE_HW[1] // STRIDE)
BATCH = 24
CALIBRATION_FRAMES = 160


class Detector(nn.Module):
    """(N, 3, 144, 192) → (N, 14, 432): cx, cy, w, h in pixels and ten scores for each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Features()
        self.head = BoxHead()

    def raw(self, images: torch.Tensor) -> torch.Tensor:
        """What the loss takes."""
        raw: torch.Tensor = self.head(self.features(images)[-1])
        return raw

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What is exported: boxes decoded in the graph."""
        return decode(self.raw(images), GRID_HW)


def main() -> None:
    """Train, export, calibrate, evaluate."""
    options = parse(__doc__, steps=2400)
    torch.manual_seed(options.seed)
    network = Detector()
    scenes = Scenes("train", size_hw=SIZE_HW, seed=options.seed, heights=HEIGHTS)

    def loss(step: int) -> torch.Tensor:
        batch = [scenes[BATCH * step + index] for index in range(BATCH)]
        return box_loss(network.raw(as_tensor(batch)), targets_of(batch, GRID_HW), GRID_HW)

    training = train(network, loss, steps=options.steps, seed=options.seed)
    spec = ModelSpec(
        task="detection",
        image=image_spec("unit", size_hw=SIZE_HW, resize="letterbox", interpolation="area"),
        head={"format": "yolo", "objectness": False, "rows_first": False, "nms_iou": 0.5},
        labels=LABELS,
        name="digits, detector",
    )
    with tempfile.TemporaryDirectory() as folder:
        test = Scenes("test", size_hw=TEST_HW, heights=HEIGHTS)
        write_coco(Path(folder), [test[number] for number in range(options.test_frames)])

        def measure(model: Model) -> Mapping[str, float]:
            metrics = evaluate(model, open_labelled(folder, model.spec)).metrics
            return {name: metrics[name] for name in ("map_50_95", "map_50")}

        seen = Scenes("train", size_hw=TEST_HW, seed=options.seed + 1, heights=HEIGHTS)
        finish(
            network,
            spec,
            name="digits_detector",
            frames=[seen[number].frame for number in range(CALIBRATION_FRAMES)],
            evaluate=measure,
            training=training,
            test_set=f"{options.test_frames} scenes of 288 × 384 with other people's digits on other photos",
            output=options.output,
        )


if __name__ == "__main__":
    main()
