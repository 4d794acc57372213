"""Trains a driving network of three heads on rendered roads: what can be driven on, the lines, and the pose.

The pose is how far the vehicle is right of its lane's middle, in metres, and how far it points to the right
of the lane, in radians. Test scenes have other seeds and other photos than those of the training.

python -m samples.training.road
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, pixel_shuffle

from edgecnn.demo import packaged
from edgecnn.evaluation.tasks.segmentation import SegmentationMetric
from edgecnn.model import Model
from edgecnn.results import MultiResult, RawOutputs
from edgecnn.spec import ModelSpec, image_spec
from samples.training.loop import finish, parse, train
from samples.training.road_scenes import Scene, View, random_pose, render

__all__ = ["Road", "evaluate", "network_spec", "textures", "views"]

INPUT_HW = (96, 160)
TRAINING_VIEWS = 2000
_BATCH = 16
_PHOTOS = {
    "train": (
        "skimage/data/brick.png skimage/data/grass.png skimage/data/astronaut.png "
        "skimage/data/motorcycle_left.png skimage/data/coins.png "
        "skimage/data/moon.png skimage/data/hubble_deep_field.jpg "
        "sklearn/datasets/images/flower.jpg"
    ),
    "test": (
        "skimage/data/gravel.png skimage/data/coffee.png skimage/data/rocket.jpg skimage/data/chelsea.png "
        "skimage/data/camera.png sklearn/datasets/images/china.jpg"
    ),
}


def textures(split: str) -> list[NDArray[np.uint8]]:
    """Photos for the ground, the horizon and what stands beside the road; none is in both splits."""
    return [np.asarray(cv2.imread(str(packaged(name))), np.uint8) for name in _PHOTOS[split].split()]


def views(split: str, count: int, *, seed: int = 0) -> list[View]:
    """Frames (192, 320) and their truth; of another split or seed, others."""
    photos = textures(split)
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, 0 if split == "train" else 1, number])
        found.append(render(Scene.random(rng, photos), random_pose(rng)))
    return found


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Road(nn.Module):
    """(N, 3, 96, 160) → logits of drivable and of lanes, (N, 1, 96, 160) each, and the pose (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 16, stride=2)
        self.quarter = nn.Sequential(_conv(16, 24, stride=2), _conv(24, 24))
        self.eighth = nn.Sequential(_conv(24, 48, stride=2), _conv(48, 48))
        self.deep = nn.Sequential(_conv(48, 64, stride=2), _conv(64, 64), _conv(64, 64))
        self.up8 = nn.Sequential(_conv(64 + 48, 48, 1), _conv(48, 48))
        self.up4 = nn.Sequential(_conv(48 + 24, 24, 1), _conv(24, 24))
        self.up2 = nn.Sequential(_conv(24 + 16, 16, 1), _conv(16, 16))
        self.maps = nn.Conv2d(16, 8, 1)
        self.pose = nn.Sequential(
            _conv(64, 16, 1), nn.Flatten(), nn.Linear(16 * 60, 32), nn.ReLU(), nn.Linear(32, 2)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Down to 1/16, and up again with what was there before."""
        half = self.stem(image)
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        deep = self.deep(eighth)
        x = self.up8(torch.cat([interpolate(deep, scale_factor=2.0), eighth], 1))
        x = self.up4(torch.cat([interpolate(x, scale_factor=2.0), quarter], 1))
        x = self.up2(torch.cat([interpolate(x, scale_factor=2.0), half], 1))
        drivable, lanes = pixel_shuffle(self.maps(x), 2).chunk(2, 1)
        return drivable, lanes, self.pose(deep)


def network_spec() -> ModelSpec:
    """Task, image and heads."""
    heads = {
        "drivable": {"task": "segmentation", "outputs": ["drivable"], "labels": ["other", "drivable"]},
        "lanes": {"task": "segmentation", "outputs": ["lanes"], "labels": ["other", "line"]},
        # metres right of the lane's middle, radians to the right
        "pose": {"task": "raw", "outputs": ["pose"]},
    }
    image = image_spec("unit", size_hw=INPUT_HW, interpolation="area", mean=(0.5,) * 3, std=(0.25,) * 3)
    return ModelSpec(task="multi_head", image=image, head=heads, name="road")


def evaluate(model: Model, tests: Sequence[View]) -> dict[str, float]:
    """Mean IoU of both maps; of the pose, R²: 1 for no error, 0 for who always says the mean."""
    spec = model.spec
    metrics = [SegmentationMetric(ModelSpec(task="segmentation", image=spec.image)) for _ in range(2)]
    found, wanted = [], []
    for view in tests:
        result = cast("MultiResult", model(view.image_bgr))
        metrics[0].add(view.drivable, result["drivable"])
        metrics[1].add(view.lanes, result["lanes"])
        found.append(cast("RawOutputs", result["pose"]).tensors["pose"])
        wanted.append((view.pose.offset_m, view.pose.heading_rad))
    errors = ((np.array(found) - np.array(wanted)) ** 2).mean(axis=0)
    offset, heading = np.clip(1 - errors / np.var(wanted, axis=0), 0, 1)
    return {
        "drivable mean IoU": metrics[0].scores().metrics["mean_iou"],
        "lanes mean IoU": metrics[1].scores().metrics["mean_iou"],
        "offset R²": float(offset),
        "heading R²": float(heading),
    }


def _tensors(seen: Sequence[View]) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (n, 3, 96, 160) uint8 RGB, maps (n, 2, 96, 160) uint8 of 0 … 255, poses (n, 2)."""

    def small(picture: Any) -> Any:
        return cv2.resize(picture, INPUT_HW[::-1], interpolation=cv2.INTER_AREA)

    frames = np.stack([small(view.image_bgr)[..., ::-1].transpose(2, 0, 1) for view in seen])
    maps = np.stack([np.stack([small(255 * view.drivable), small(255 * view.lanes)]) for view in seen])
    poses = [(view.pose.offset_m, view.pose.heading_rad) for view in seen]
    return torch.from_numpy(frames), torch.from_numpy(maps), torch.tensor(poses, dtype=torch.float32)


def main() -> None:
    """Render, train, write samples/models/road.onnx."""
    options = parse(__doc__, steps=900)
    count = min(TRAINING_VIEWS, _BATCH * options.steps)
    print(f"rendering {count} views", flush=True)
    seen = views("train", count, seed=options.seed)
    frames, maps, poses = _tensors(seen)
    torch.manual_seed(options.seed)
    network = Road()

    def loss(step: int) -> Tensor:
        random = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        chosen = torch.randint(count, (_BATCH,), generator=random)
        x, wanted, pose = frames[chosen].float() / 255, maps[chosen].float() / 255, poses[chosen]
        if step % 2:  # mirrored: left is right
            x, wanted, pose = x.flip(3), wanted.flip(3), -pose
        gains = (
            1
            + 0.25 * torch.randn(_BATCH, 1, 1, 1, generator=random)
            + 0.05 * torch.randn(_BATCH, 3, 1, 1, generator=random)
        )
        x = (x * gains).clamp(0, 1)
        drivable, lanes, found = network((x - 0.5) / 0.25)
        line = lanes.sigmoid()
        overlap = (line * wanted[:, 1:]).sum() / (line + wanted[:, 1:] - line * wanted[:, 1:]).sum()
        total: Tensor = (
            binary_cross_entropy_with_logits(drivable, wanted[:, :1])
            + 2 * binary_cross_entropy_with_logits(lanes, wanted[:, 1:])
            + 0.3 * (1 - overlap)
            + 0.3 * ((found - pose).abs() * torch.tensor([1.0, 10.0])).mean()
        )
        return total

    training = train(network, loss, steps=options.steps, seed=options.seed)
    tests = views("test", options.test_frames, seed=options.seed)
    finish(
        network,
        network_spec(),
        name="road",
        frames=[view.image_bgr for view in seen[:200]],
        evaluate=lambda model: evaluate(model, tests),
        training=training,
        test_set=f"{len(tests)} rendered views, 320 × 192, of other seeds and photos",
        output=options.output,
        output_names=["drivable", "lanes", "pose"],
    )


if __name__ == "__main__":
    main()
