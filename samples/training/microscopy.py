"""Trains a segmenter of a stained tissue section: nuclei (haematoxylin), and a marked protein (DAB, brown).

The picture is scikit-image's `ihc.png`, 512 × 512 pixels of a colon's glands. Nobody has labelled it by hand.
The reference is a known classical method on the untouched picture: colour deconvolution (A. Ruifrok and
D. Johnston 2001, `skimage.color.rgb2hed`), and Otsu's threshold for each stain. What the network learns is to
find the same regions when staining, light, focus and compression change. How far off the method itself is
then, is measured on the same test frames. None of this says how good the reference is.

The left of the picture is trained on, the right is the test, with a gap between them. One section of one
patient is no evidence for any other: for research and teaching.

python -m samples.training.microscopy
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pixel_shuffle

from edgecnn.demo import packaged
from edgecnn.evaluation.tasks.segmentation import SegmentationMetric
from edgecnn.model import Model
from edgecnn.results import Segmentation
from edgecnn.spec import ModelSpec, image_spec
from samples.training.blocks import conv
from samples.training.loop import finish, parse, train

__all__ = ["LABELS", "Cells", "Tile", "classical", "evaluate", "network_spec", "tiles"]

LABELS = ("other", "nuclei", "DAB")
SIDE = 128
_BATCH = 16
_COLUMNS = {"train": (0, 304), "test": (328, 512)}  # 24 pixels apart
_TRAINING_TILES = 1200


class Tile(NamedTuple):
    """A frame (128, 128, 3) uint8 BGR, and its reference (128, 128) uint8 of class ids."""

    frame: NDArray[np.uint8]
    classes: NDArray[np.uint8]


def classical(
    picture_bgr: NDArray[np.uint8], thresholds: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """(H, W) class ids by colour deconvolution, and Otsu's thresholds of this picture where none is given."""
    from skimage.color import rgb2hed

    stains = rgb2hed(picture_bgr[..., ::-1])
    nuclei, brown = thresholds or _thresholds(stains)
    classes: NDArray[np.uint8] = (stains[..., 0] > nuclei).astype(np.uint8)
    classes[stains[..., 2] > brown] = 2
    return classes


def _thresholds(stains: NDArray[Any]) -> tuple[float, float]:
    from skimage import filters

    otsu: Any = filters.threshold_otsu
    return float(otsu(stains[..., 0])), float(otsu(stains[..., 2]))


def tiles(split: str, count: int, *, seed: int = 0) -> list[Tile]:
    """Tiles of a split's part of the picture, turned, mirrored, and stained and photographed otherwise."""
    from skimage.color import rgb2hed

    picture = np.asarray(cv2.imread(str(packaged("skimage/data/ihc.png"))), np.uint8)
    first, last = _COLUMNS["train"]
    thresholds = _thresholds(rgb2hed(picture[:, first:last, ::-1]))
    reference = classical(picture, thresholds)
    first, last = _COLUMNS[split]
    picture, reference = picture[:, first:last], reference[:, first:last]
    found = []
    for number in range(count):
        random = np.random.default_rng([seed, 0 if split == "train" else 1, number])
        y, x = (int(random.integers(0, side - SIDE + 1)) for side in reference.shape)
        place = np.s_[y : y + SIDE, x : x + SIDE]
        turns, mirrored = int(random.integers(4)), bool(random.integers(2))
        frame, classes = (np.rot90(array[place], turns) for array in (picture, reference))
        if mirrored:
            frame, classes = frame[:, ::-1], classes[:, ::-1]
        found.append(Tile(_changed(frame, random), np.ascontiguousarray(classes)))
    return found


def _changed(frame: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Other amounts of the stains, other light, focus, noise and compression."""
    from skimage.color import hed_from_rgb, rgb_from_hed

    density = -np.log((frame[..., ::-1].astype(np.float32) + 1) / 256)
    stains = density @ hed_from_rgb.astype(np.float32) * random.uniform(0.65, 1.4, 3).astype(np.float32)
    levels = 256 * np.exp(-stains @ rgb_from_hed.astype(np.float32))[..., ::-1] - 1
    levels *= (random.uniform(0.6, 1.15) * random.uniform(0.88, 1.12, 3)).astype(np.float32)
    levels = 255 * (np.clip(levels, 0, 255) / 255) ** np.float32(random.uniform(0.75, 1.3))
    sigma = random.uniform(0, 1.3)
    if sigma > 0.3:
        levels = cv2.GaussianBlur(levels, (0, 0), sigma)
    levels += random.standard_normal(levels.shape, np.float32) * np.float32(random.uniform(0, 6))
    changed: NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    if random.random() < 0.5:
        _, data = cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(40, 95))])
        changed = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return changed


class Cells(nn.Module):
    """(N, 3, 128, 128) → a score for each class (N, 3, 128, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, stride=2)
        self.quarter = nn.Sequential(conv(16, 24, stride=2), conv(24, 24))
        self.eighth = nn.Sequential(conv(24, 32, stride=2), conv(32, 32), conv(32, 32))
        self.up4 = nn.Sequential(conv(32 + 24, 24, 1), conv(24, 24))
        self.up2 = nn.Sequential(conv(24 + 16, 16, 1), conv(16, 16))
        self.classes = nn.Conv2d(16, 4 * len(LABELS), 1)

    def forward(self, image: Tensor) -> Tensor:
        """Down to 1/8, and up again with what was there before."""
        half = self.stem(image)
        quarter = self.quarter(half)
        x = self.up4(torch.cat([interpolate(self.eighth(quarter), scale_factor=2.0), quarter], 1))
        x = self.up2(torch.cat([interpolate(x, scale_factor=2.0), half], 1))
        return pixel_shuffle(self.classes(x), 2)


def network_spec() -> ModelSpec:
    """Task and image."""
    image = image_spec("unit", size_hw=(SIDE, SIDE), interpolation="area", mean=(0.5,) * 3, std=(0.25,) * 3)
    return ModelSpec(task="segmentation", image=image, labels=LABELS, name="microscopy")


def evaluate(model: Model, tests: Sequence[Tile]) -> dict[str, float]:
    """Mean IoU and Dice over the three classes."""
    return _scores((tile, cast("Segmentation", model(tile.frame))) for tile in tests)


def evaluate_classical(tests: Sequence[Tile]) -> dict[str, float]:
    """The same of the classical method, with Otsu's thresholds of each frame."""
    return _scores((tile, Segmentation(classical(tile.frame), LABELS)) for tile in tests)


def _scores(pairs: Any) -> dict[str, float]:
    metric = SegmentationMetric(network_spec())
    for tile, result in pairs:
        metric.add(tile.classes, result)
    metrics = metric.scores().metrics
    return {"mean IoU": metrics["mean_iou"], "mean Dice": metrics["mean_dice"]}


def main() -> None:
    """Train, write samples/models/microscopy.onnx."""
    options = parse(__doc__, steps=600)
    count = min(_TRAINING_TILES, _BATCH * options.steps)
    seen = tiles("train", count, seed=options.seed)
    frames = torch.from_numpy(np.stack([tile.frame[..., ::-1].transpose(2, 0, 1) for tile in seen]))
    classes = torch.from_numpy(np.stack([tile.classes for tile in seen]).astype(np.int64))
    torch.manual_seed(options.seed)
    network = Cells()

    def loss(step: int) -> Tensor:
        random = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        chosen = torch.randint(count, (_BATCH,), generator=random)
        return cross_entropy(network((frames[chosen].float() / 255 - 0.5) / 0.25), classes[chosen])

    training = train(network, loss, steps=options.steps, seed=options.seed)
    tests = tiles("test", options.test_frames, seed=options.seed)
    known = evaluate_classical(tests)
    said = ", ".join(f"{name} {100 * value:.1f}" for name, value in known.items())
    finish(
        network,
        network_spec(),
        name="microscopy",
        frames=[tile.frame for tile in seen[:200]],
        evaluate=lambda model: evaluate(model, tests),
        training=training,
        test_set=f"{len(tests)} changed tiles of the picture's right part, labelled by the classical method "
        f"before the change; on the changed tiles, that method itself reaches {said}",
        output=options.output,
        output_names=["scores"],
    )


if __name__ == "__main__":
    main()
