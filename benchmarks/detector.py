"""A detector with the blocks of today's one-stage ones, in plain PyTorch, for compilers to chew on.

SiLU, blocks that split, convolve and concatenate, pyramid pooling, nearest upsampling, a head that reads box
edges as expectations over 16 bins, anchors and strides. It was never trained: its times and its compiled
layers mean something, its boxes do not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["detector", "with_statistics"]

_BINS = 16


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class _Split(nn.Module):
    """Half of the channels go through two convolutions with a shortcut; all halves are joined again."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.first = _conv(inputs, outputs)
        self.inner = nn.Sequential(_conv(half, half, 3), _conv(half, half, 3))
        self.last = _conv(3 * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        joined: Tensor = self.last(torch.cat([left, right, right + self.inner(right)], 1))
        return joined


class _PyramidPool(nn.Module):
    """Three poolings in a row, and all of them joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = _conv(channels, channels // 2), _conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.first(x)]
        for _ in range(3):
            found.append(self.pool(found[-1]))
        joined: Tensor = self.last(torch.cat(found, 1))
        return joined


class _Detector(nn.Module):
    anchors: Tensor
    strides: Tensor

    def __init__(self, width: int, classes: int, side: int) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(_conv(3, w, 3, 2), _conv(w, 2 * w, 3, 2), _Split(2 * w, 2 * w))
        self.middle = nn.Sequential(_conv(2 * w, 4 * w, 3, 2), _Split(4 * w, 4 * w))
        self.deep = nn.Sequential(_conv(4 * w, 8 * w, 3, 2), _Split(8 * w, 8 * w), _PyramidPool(8 * w))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.fine, self.down, self.coarse = (
            _Split(12 * w, 4 * w),
            _conv(4 * w, 4 * w, 3, 2),
            _Split(12 * w, 8 * w),
        )
        self.boxes = nn.ModuleList(
            nn.Sequential(_conv(c, 64, 3), nn.Conv2d(64, 4 * _BINS, 1)) for c in (4 * w, 8 * w)
        )
        self.classes = nn.ModuleList(
            nn.Sequential(_conv(c, 64, 3), nn.Conv2d(64, classes, 1)) for c in (4 * w, 8 * w)
        )
        self.expectation = nn.Conv2d(_BINS, 1, 1, bias=False)
        self.expectation.weight.data[:] = torch.arange(float(_BINS)).view(1, _BINS, 1, 1)
        anchors, strides = [], []
        for stride in (8, 16):
            line = torch.arange(side // stride) + 0.5
            y, x = torch.meshgrid(line, line, indexing="ij")
            anchors.append(torch.stack([x, y]).flatten(1))
            strides.append(torch.full((1, line.numel() ** 2), float(stride)))
        self.register_buffer("anchors", torch.cat(anchors, 1)[None])
        self.register_buffer("strides", torch.cat(strides, 1)[None])

    def forward(self, image: Tensor) -> Tensor:
        middle = self.middle(self.stem(image))
        deep = self.deep(middle)
        fine = self.fine(torch.cat([self.up(deep), middle], 1))
        maps = (fine, self.coarse(torch.cat([self.down(fine), deep], 1)))
        edges = torch.cat([head(m).flatten(2) for head, m in zip(self.boxes, maps, strict=True)], 2)
        scores = torch.cat([head(m).flatten(2) for head, m in zip(self.classes, maps, strict=True)], 2)
        count = image.shape[0]
        bins = edges.view(count, 4, _BINS, -1).transpose(1, 2).softmax(1)
        low, high = self.expectation(bins).view(count, 4, -1).chunk(2, 1)
        first, second = self.anchors - low, self.anchors + high
        boxes = torch.cat([(first + second) / 2, second - first], 1) * self.strides
        return torch.cat([boxes, scores.sigmoid()], 1)


def detector(*, side: int = 160, width: int = 32, classes: int = 20, seed: int = 0) -> nn.Module:
    """(N, 3, side, side) → (N, 4 + classes, positions): centres and sizes in pixels, and scores."""
    torch.manual_seed(seed)
    module = _Detector(width, classes, side)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer is not module.expectation:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return with_statistics(module, side)


def with_statistics(module: nn.Module, side: int, seed: int = 0) -> nn.Module:
    """Let batch norms see some noise: without statistics their biases are zero, and compilers fuse that."""
    torch.manual_seed(seed)
    module.train()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.uniform_(-0.5, 0.5)
        for _ in range(5):
            module(torch.randn(4, 3, side, side))
    return module.eval()
