from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import edgecnn
from edgecnn.evaluation import evaluate, open_labelled

BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


def write_colour(path: Path, color: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.empty((24, 32, 3), np.uint8)
    image[:] = BGR[color]
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Nine images: all red and blue ones are what their folder says; of the green ones, two of three are."""
    folder = tmp_path / "colours"
    for color in BGR:
        for index in range(3):
            write_colour(folder / color.upper() / f"{index}.png", color)
    write_colour(folder / "GREEN" / "2.png", "red")
    return folder


def test_what_a_real_model_gets_right(colour_onnx: Path, colours: Path) -> None:
    seen = []
    with edgecnn.load(colour_onnx) as model:
        labelled = open_labelled(colours, model.spec)
        found = evaluate(model, labelled, progress=lambda *step: seen.append(step))
    assert found.images == 9
    assert seen[-3:] == [("evaluating", 9, 9), ("metrics", 0, 1), ("metrics", 1, 1)]
    assert found.metrics["top1"] == pytest.approx(8 / 9)
    assert found.metrics["balanced_accuracy"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert found.per_class["red"] == {"images": 3, "accuracy": 1, "precision": 3 / 4}
    assert found.confusion is not None
    order = found.confusion.labels.index
    assert found.confusion.counts[order("green"), order("red")] == 1
    low, high = found.intervals["top1"]
    assert low < 8 / 9 <= high
    assert found.to_dict()["metrics"]["top1"] == found.metrics["top1"]
