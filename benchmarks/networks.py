"""Networks to time, in plain PyTorch. Their weights are random: time does not depend on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["resnet18"]


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., "Deep Residual Learning", 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else nn.Sequential()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet18(classes: int = 1000, seed: int = 0) -> nn.Module:
    """ResNet-18 for (N, 3, 224, 224): 1.81 G multiply-accumulates, 11.7 M weights."""
    torch.manual_seed(seed)
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    widths, blocks, inputs = (64, 128, 256, 512), [], 64
    for stage, width in enumerate(widths):
        blocks += [_Block(inputs, width, 1 if stage == 0 else 2), _Block(width, width, 1)]
        inputs = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
    return nn.Sequential(*stem, *blocks, *head).eval()
