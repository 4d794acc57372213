"""Train a network that says of each pixel of a photo whether it is part of a handwritten digit.

python -m samples.training.digits_semantic
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgecnn.evaluation import evaluate, open_labelled
from edgecnn.model import Model
from edgecnn.spec import ModelSpec, image_spec
from samples.training.digits_network import Features, FineMap, as_tensor
from samples.training.loop import finish, parse, train
from samples.training.scenes import Scenes, write_masks

__all__ = ["HEIGHTS", "SIZE_HW", "TEST_HW", "Semantic", "main"]

SIZE_HW = (144, 192)
TEST_HW = (288, 384)
HEIGHTS = (0.2, 0.5)
BATCH = 16
CALIBRATION_FRAMES = 160


class Semantic(nn.Module):
    """(N, 3, 144, 192) → (N, 1, 72, 96): one score, above 0 where there is a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Features()
        self.scores = FineMap(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores without sigmoid."""
        scores: torch.Tensor = self.scores(self.features(images))
        return scores


def main() -> None:
    """Train, export, calibrate, evaluate."""
    options = parse(__doc__, steps=1000)
    torch.manual_seed(options.seed)
    network = Semantic()
    scenes = Scenes("train", size_hw=SIZE_HW, seed=options.seed, heights=HEIGHTS)

    def loss(step: int) -> torch.Tensor:
        batch = [scenes[BATCH * step + index] for index in range(BATCH)]
        digits = torch.from_numpy(np.stack([scene.class_map for scene in batch]) > 0).float()
        shares = functional.avg_pool2d(digits[:, None], 2)  # of each cell
        scores = network(as_tensor(batch))
        shown = torch.sigmoid(scores)
        dice = 1 - (2 * (shown * shares).sum() + 1) / ((shown + shares).sum() + 1)
        return functional.binary_cross_entropy_with_logits(scores, shares) + dice

    training = train(network, loss, steps=options.steps, seed=options.seed)
    spec = ModelSpec(
        task="segmentation",
        image=image_spec("unit", size_hw=SIZE_HW, resize="letterbox", interpolation="area"),
        labels=("photo", "digit"),
        name="digits, semantic segmenter",
    )
    with tempfile.TemporaryDirectory() as folder:
        test = Scenes("test", size_hw=TEST_HW, heights=HEIGHTS)
        write_masks(Path(folder), [test[number] for number in range(options.test_frames)], binary=True)

        def measure(model: Model) -> Mapping[str, float]:
            metrics = evaluate(model, open_labelled(folder, model.spec)).metrics
            return {name: metrics[name] for name in ("foreground_iou", "pixel_accuracy")}

        seen = Scenes("train", size_hw=TEST_HW, seed=options.seed + 1, heights=HEIGHTS)
        finish(
            network,
            spec,
            name="digits_semantic",
            frames=[seen[number].frame for number in range(CALIBRATION_FRAMES)],
            evaluate=measure,
            training=training,
            test_set=f"{options.test_frames} scenes of 288 × 384 with other people's digits on other photos",
            output=options.output,
        )


if __name__ == "__main__":
    main()
