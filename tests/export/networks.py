"""Small networks, one for each construction that CNNs are made of, without weights that are zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgecnn.export import ExportResult
from edgecnn.spec import ModelSpec, image_spec

SIZE = 16


def spec(task: str = "classification", **head: Any) -> ModelSpec:
    return ModelSpec(task=task, image=image_spec("imagenet", size_hw=(SIZE, SIZE)), head=head, name="test")


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """A fresh batch norm is the identity, and folding it wrongly would go unnoticed: give it statistics."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        with torch.no_grad():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for parameter in module.parameters():
        bound = 1.5 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.5
        uniform(parameter, -bound, bound)
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            uniform(layer.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            uniform(layer.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            uniform(layer.weight, 0.5, 1.5)
    return module


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Any:
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(torch.flatten(self.pool(x), 1))


class ManyOutputs(nn.Module):
    """A detector's shape: maps of two scales, from a shared head with a batch norm for each scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.stem(image)
        coarse = self.down(fine)
        return {"fine": self.norms[0](self.head(fine)), "coarse": self.norms[1](self.head(coarse))}


class Shuffle(nn.Module):
    """Channel shuffle: a reshape that mentions the batch, a transpose, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, groups=1)

    def forward(self, image: Tensor) -> Any:
        x = self.conv(image)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).mean((2, 3))


class ThreeMeans(nn.Module):
    """The global average in three more spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, image: Tensor) -> Any:
        x = self.conv(image)
        a = x.mean(3).mean(2)
        b = torch.nn.functional.avg_pool2d(x, SIZE).flatten(1)
        return a + 2 * b + 3 * x.mean((-1, -2), keepdim=True)[:, :, 0, 0]


class Dropping(nn.Module):
    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.drop = nn.Dropout(0.5)
        self.always = always

    def forward(self, image: Tensor) -> Any:
        x = self.drop(self.conv(image))
        if self.always:
            x = torch.nn.functional.dropout(x, 0.5, training=True)
        return x.mean((2, 3))


class Branching(nn.Module):
    """Its way depends on the picture: torch.export refuses it, and the tracer freezes one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Any:
        x = self.conv(image).mean((2, 3))
        return -x if image.mean() > 100 else x  # never true of a normalized image


def head(*layers: nn.Module, channels: int = 8) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "conv_bn_relu": (
        lambda: head(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "depthwise_relu6": (
        lambda: head(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        ),
        {"Conv": 2, "Clip": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "grouped": (
        lambda: head(
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        ),
        {"Conv": 2, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "residual": (Residual, {"Conv": 2, "Relu": 2, "Add": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}),
    "transposed": (
        lambda: head(nn.ConvTranspose2d(3, 8, 2, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        {"ConvTranspose": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "transposed_grouped": (
        lambda: head(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 8, 2, 2, groups=2), nn.BatchNorm2d(8)),
        {"Conv": 1, "ConvTranspose": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "hard_swish": (
        lambda: head(nn.Conv2d(3, 8, 3), nn.Hardswish()),
        {"Conv": 1, "HardSwish": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "silu": (
        lambda: head(nn.Conv2d(3, 8, 3), nn.SiLU()),
        {"Conv": 1, "Sigmoid": 1, "Mul": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "softmax": (
        lambda: nn.Sequential(head(nn.Conv2d(3, 8, 3)), nn.Softmax(dim=1)),
        {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1},
    ),
    "bn_before_conv": (
        lambda: head(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.ReLU()),
        {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "bn_before_padded_conv": (
        lambda: head(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
        {"BatchNormalization": 1, "Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "bn_around_linear": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.BatchNorm1d(8), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5),
        ),
        {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 2, "Relu": 1},
    ),
    "dropout": (Dropping, {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1}),
    "shuffle": (Shuffle, {"Conv": 1, "Reshape": 2, "Transpose": 1, "GlobalAveragePool": 1, "Flatten": 1}),
    "flatten_only": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * (SIZE - 2) ** 2, 5)),
        {"Conv": 1, "Flatten": 1, "Gemm": 1},
    ),
}  # fmt: skip
"""Name → what makes it, and the operators that it must become."""


class Exported(Protocol):
    """The fixture `exported`: exports one of `NETWORKS`, once a session."""

    def __call__(self, name: str, batch: int | None = 1) -> tuple[nn.Module, ExportResult]: ...
