"""Trains an embedding network that recognizes places in photos: other views, other light, half covered.

An identity is a place in a photo. A view of it is what a camera would see there: turned, nearer or farther,
from aside (a homography), in other light, out of focus, with noise, and partly covered by a piece of another
photo.
No photo of the test is among those of the training, so neither is any identity. Many places of one test photo
lie side by side, and often show the same texture: telling them apart is the task.

The loss is NT-Xent (T. Chen et al. 2020): of all views in a batch, the other view of the same place shall be
the nearest.

python -m samples.training.reidentify
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from edgecnn.demo import packaged
from edgecnn.evaluation.tasks.embedding import EmbeddingMetric
from edgecnn.model import Model
from edgecnn.spec import ModelSpec, image_spec
from samples.training.blocks import conv
from samples.training.loop import finish, parse, train

__all__ = ["Embedder", "Place", "evaluate", "network_spec", "photos", "places", "unseen_views", "view"]

SIDE = 64
VIEWS = 5  # of each identity of the test
_BATCH = 48  # places; two views of each
_TEMPERATURE = 0.1
_CLASSES = (243, 559, 438, 990, 949, 853, 609, 609, 915, 455, 541, 630, 741, 471, 129, 99, 251, 22, 317, 305)
_PHOTOS = {
    "train": (
        "skimage/data/astronaut.png skimage/data/motorcycle_left.png skimage/data/ihc.png "
        "skimage/data/brick.png skimage/data/grass.png skimage/data/coins.png skimage/data/retina.jpg "
        "skimage/data/hubble_deep_field.jpg sklearn/datasets/images/flower.jpg"
    ),
    "test": (
        "skimage/data/chelsea.png skimage/data/coffee.png skimage/data/rocket.jpg skimage/data/gravel.png "
        "skimage/data/camera.png sklearn/datasets/images/china.jpg"
    ),
}
_IMAGENET_OF_TEST = range(14, 20)  # the others are for training


class Place(NamedTuple):
    """Where an identity is: the number of its photo, its middle and its side, in pixels of the photo."""

    photo: int
    x: float
    y: float
    side: float


def photos(split: str) -> list[NDArray[np.uint8]]:
    """Photos (H, W, 3) BGR, scaled to 480 pixels at the shorter side at most; none is in both splits."""
    found = []
    names = _PHOTOS[split].split()
    for number, imagenet in enumerate(_CLASSES):
        if (number in _IMAGENET_OF_TEST) == (split == "test"):
            names.append(f"foolbox/data/imagenet_{number:02d}_{imagenet}.jpg")
    for name in names:
        photo = np.asarray(cv2.imread(str(packaged(name))), np.uint8)
        scale = min(1.0, 480 / min(photo.shape[:2]))
        scaled = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found.append(np.asarray(scaled, np.uint8))
    return found


def places(pictures: Sequence[NDArray[np.uint8]], count: int, random: np.random.Generator) -> list[Place]:
    """Places whose middles are at least 3/4 of their side apart, each with something to see."""
    found: list[Place] = []
    for _ in range(200 * count):
        if len(found) == count:
            break
        photo = int(random.integers(len(pictures)))
        height, width = pictures[photo].shape[:2]
        side = random.uniform(56, 88)
        x, y = random.uniform(side / 2, width - side / 2), random.uniform(side / 2, height - side / 2)
        near = any(p.photo == photo and max(abs(p.x - x), abs(p.y - y)) < 0.75 * side for p in found)
        part = pictures[photo][int(y - side / 3) : int(y + side / 3), int(x - side / 3) : int(x + side / 3)]
        if not near and part.std(axis=(0, 1)).mean() > 12:
            found.append(Place(photo, x, y, side))
    return found


def view(
    pictures: Sequence[NDArray[np.uint8]], place: Place, random: np.random.Generator
) -> NDArray[np.uint8]:
    """(64, 64, 3) BGR: how the place looks from somewhere, in some light."""
    half = place.side / 2 * random.uniform(0.75, 1.25)
    turn = random.uniform(-0.6, 0.6)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    corners = corners @ rotation.T + random.uniform(-0.22, 0.22, (4, 2)) * half  # from aside
    corners += np.array([place.x, place.y]) + random.uniform(-0.12, 0.12, 2) * place.side
    target = np.array([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], np.float32) - np.float32(0.5)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
    seen = cv2.warpPerspective(
        pictures[place.photo], matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    if random.random() < 0.4:  # covered in part
        other = pictures[int(random.integers(len(pictures)))]
        w, h = (int(side) for side in random.integers(8, 28, 2))
        x, y = int(random.integers(0, SIDE - w)), int(random.integers(0, SIDE - h))
        top, left = int(random.integers(0, other.shape[0] - h)), int(random.integers(0, other.shape[1] - w))
        seen[y : y + h, x : x + w] = other[top : top + h, left : left + w]
    levels: Any = np.asarray(seen, np.float32) * random.uniform(0.5, 1.3) * random.uniform(0.85, 1.15, 3)
    levels = 255 * (np.clip(levels, 0, 255) / 255) ** random.uniform(0.7, 1.4)
    slope = np.linspace(random.uniform(0.7, 1), random.uniform(0.7, 1), SIDE)
    levels = levels * (slope[:, None, None] if random.random() < 0.5 else slope[None, :, None])
    sigma = random.uniform(0, 1.2)
    if sigma > 0.3:
        levels = cv2.GaussianBlur(levels, (0, 0), sigma)
    levels += random.standard_normal(levels.shape) * random.uniform(0, 8)
    picture: NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return picture


class Embedder(nn.Module):
    """(N, 3, 64, 64) → (N, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 24, stride=2), conv(24, 32, stride=2), conv(32, 32), conv(32, 64, stride=2), conv(64, 64),
            conv(64, 96, stride=2), conv(96, 32, 1),
        )  # fmt: skip
        self.embed = nn.Sequential(nn.Flatten(), nn.Linear(32 * 16, 64))

    def forward(self, image: Tensor) -> Tensor:
        """Where something is counts, not only that it is there: no pooling over the picture."""
        embedded: Tensor = self.embed(self.features(image))
        return embedded


def network_spec() -> ModelSpec:
    """Task and image."""
    image = image_spec("unit", size_hw=(SIDE, SIDE), interpolation="area", mean=(0.5,) * 3, std=(0.25,) * 3)
    return ModelSpec(task="embedding", image=image, name="reidentify")


def unseen_views(count: int, *, seed: int = 0) -> list[tuple[str, NDArray[np.uint8]]]:
    """Identity and view; `VIEWS` of each of `count` places in the photos of the test."""
    random = np.random.default_rng([seed, 1])
    pictures = photos("test")
    found = places(pictures, count, random)
    return [
        (str(number), view(pictures, place, random))
        for number, place in enumerate(found)
        for _ in range(VIEWS)
    ]


def evaluate(model: Model, tests: Sequence[tuple[str, NDArray[np.uint8]]]) -> dict[str, float]:
    """Each view looks for its like among all others: rank-1, mAP, and how well pairs are told apart."""
    metric = EmbeddingMetric()
    for name, frame in tests:
        metric.add(name, model(frame))
    metrics = metric.scores().metrics
    return {
        "rank-1": metrics["rank1"],
        "mAP": metrics["retrieval_map"],
        "AUC of pairs": metrics["verification_auc"],
    }


def main() -> None:
    """Train, write samples/models/reidentify.onnx."""
    options = parse(__doc__, steps=1200, test_frames=2000)
    pictures = photos("train")
    torch.manual_seed(options.seed)
    network = Embedder()

    def batch(step: int) -> NDArray[np.uint8]:  # new places in every step
        random = np.random.default_rng([options.seed, 0, step])
        chosen = places(pictures, _BATCH, random)
        return np.stack([view(pictures, place, random) for _ in range(2) for place in chosen])

    def loss(step: int) -> Tensor:
        frames = torch.from_numpy(batch(step)[..., ::-1].transpose(0, 3, 1, 2).copy())
        vectors = normalize(network((frames.float() / 255 - 0.5) / 0.25))
        likeness = (vectors @ vectors.T / _TEMPERATURE).fill_diagonal_(-1e4)
        others = torch.arange(len(vectors)).roll(len(vectors) // 2)
        return cross_entropy(likeness, others)

    training = train(network, loss, steps=options.steps, seed=options.seed)
    tests = unseen_views(max(2, options.test_frames // VIEWS), seed=options.seed)
    finish(
        network,
        network_spec(),
        name="reidentify",
        frames=[frame for step in range(4) for frame in batch(options.steps + step)[:_BATCH]],
        evaluate=lambda model: evaluate(model, tests),
        training=training,
        test_set=f"{len(tests)} views, {VIEWS} of each of {len(tests) // VIEWS} places in other photos",
        output=options.output,
        output_names=["embedding"],
    )


if __name__ == "__main__":
    main()
