"""What the outputs' shapes tell goes into the exported file; where it is too little, nothing is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgecnn
from edgecnn.errors import SpecError
from edgecnn.export import export_onnx
from edgecnn.spec import ModelSpec, image_spec


class Shapes(nn.Module):
    """Outputs of given shapes, which depend on the image."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.shapes = shapes

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        level = self.convolution(image).mean(dim=(1, 2, 3)) * 0.01 + 0.9
        return {
            name: level.reshape(-1, *(1 for _ in shape)) * torch.ones(shape)
            for name, shape in self.shapes.items()
        }


def spec(task: str, **changes: Any) -> ModelSpec:
    return ModelSpec(task=task, image=image_spec("yolo", size_hw=(64, 96)), **changes)


PLACES = 8 * 12 + 4 * 6 + 2 * 3


def test_found_heads_are_written_into_the_file(tmp_path: Path) -> None:
    labels = ("a", "b")
    path = tmp_path / "seg.onnx"
    outputs = {"rows": (4 + 2 + 8, PLACES), "prototypes": (8, 16, 24)}
    result = export_onnx(Shapes(**outputs), spec("instance_segmentation", labels=labels), path)
    assert result.spec.head == {
        "format": "yolo",
        "objectness": False,
        "rows_first": False,
        "prototypes_output": "prototypes",
    }
    with edgecnn.load(path) as model:
        assert model.spec == result.spec
        found = model(np.zeros((48, 80, 3), np.uint8))
        assert isinstance(found, edgecnn.Detections)
        assert found.masks is not None


@pytest.mark.parametrize(
    ("outputs", "task", "message"),
    [
        (
            {"a": (100, 4), "b": (100, 7)},
            "detection",
            "expected boxes_scores or detr. Say which: --head format=",
        ),
        (
            {"a": (9, PLACES)},
            "detection",
            "does output a say whether there is an object",
        ),
        ({"a": (17, 5)}, "detection", "none of the formats of boxes"),
        ({"a": (3, 8, 8), "b": (3, 8, 8)}, "segmentation", "which output holds the classes"),
        ({"a": (3, 8, 8)}, "regression", "which output is the map"),
        ({"a": (300, 57)}, "keypoints", "how many points"),
        ({"a": (3,), "b": (4,)}, "embedding", "which output is the vector"),
    ],
)
def test_too_little_is_told_before_anything_is_exported(
    outputs: dict[str, tuple[int, ...]], task: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=message):
        export_onnx(Shapes(**outputs), spec(task), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
