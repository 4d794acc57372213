"""A user's own code, as `package.module:factory` finds it."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.export.networks import Residual, head, trained

READY = trained(Residual())
NUMBER = 7


class Models:
    @staticmethod
    def small(classes: int = 5, *, width: int = 8) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
        )  # fmt: skip


def talkative() -> nn.Module:
    print("building a network")  # noqa: T201  # what user code does
    return trained(head(nn.Conv2d(3, 8, 3)))


def failing() -> nn.Module:
    raise ValueError("no such dataset: \n  a second line")


def leaving() -> nn.Module:
    raise SystemExit(3)


def nothing() -> Any:
    return {"not": "a module"}


class TwoInputs(nn.Module):
    def forward(self, image: Any, mask: Any) -> Any:
        return image * mask


class NotTensors(nn.Module):
    def forward(self, image: Any) -> Any:
        return {"scores": image.mean((2, 3)), "name": "cat"}


class TwoOutputs(nn.Module):
    def forward(self, image: Any) -> Any:
        return image.mean((2, 3)), image.amax((2, 3))
