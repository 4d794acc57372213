from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgecnn.tasks
from edgecnn.backends import TensorInfo
from edgecnn.cli import main
from edgecnn.errors import SpecError
from edgecnn.model import load
from edgecnn.results import RawOutputs
from edgecnn.spec import ImageSpec, ModelSpec
from edgecnn.tasks import available_tasks, create_task, register_task
from tests.onnx_files import write_means

BRIGHTNESS = '''
"""Is the frame brighter than `threshold`?"""

from dataclasses import dataclass

from edgecnn.tasks import read_head


@dataclass(frozen=True)
class Head:
    threshold: float = 0.5


@dataclass(frozen=True)
class Brightness:
    value: float
    bright: bool

    def to_dict(self):
        return {"brightness": self.value, "bright": self.bright}


class Measure:
    def __init__(self, head):
        self.head = head

    def decode(self, outputs, geometries):
        means = outputs["means"].mean(axis=1)[: len(geometries)].tolist()
        return [Brightness(mean, mean > self.head.threshold) for mean in means]

    def draw(self, image_bgr, result):
        image_bgr[0] = 255 if result.bright else 0

    def agreement(self, reference, result):
        return {"brightness_agreement": float(reference.bright == result.bright)}


def create(spec, outputs):
    return Measure(read_head(spec, Head))
'''


@pytest.fixture
def brightness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A task dropped into the package, and nothing else."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "brightness.py").write_text(BRIGHTNESS)
    (tmp_path / "tasks" / "_private.py").write_text("raise AssertionError")
    monkeypatch.setattr(edgecnn.tasks, "__path__", [*edgecnn.tasks.__path__, str(tmp_path / "tasks")])
    yield
    sys.modules.pop("edgecnn.tasks.brightness", None)


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec(**{"task": "brightness", "image": ImageSpec(size_hw=(8, 8)), **changes})


def test_a_task_is_one_module(brightness: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"brightness", "classification", "raw"} < set(available_tasks())
    assert not [name for name in available_tasks() if name.startswith("_")]
    path = write_means(tmp_path / "model.onnx", spec=spec(head={"threshold": 0.25}))
    frame = np.full((20, 30, 3), 102, np.uint8)  # 0.4 of 255
    with load(path) as model:
        result = model(frame)
        assert result.to_dict() == {"brightness": pytest.approx(0.4), "bright": True}
        assert model.task.agreement(result, result) == {"brightness_agreement": 1.0}
        model.task.draw(frame, result)
        assert (frame[0] == 255).all()
    assert main(["inspect", str(path), "--json"]) == 0
    capsys.readouterr()
    with pytest.raises(
        SpecError, match="unknown option of the brightness head: got treshold, expected one of thr"
    ):
        create_task(spec(head={"treshold": 1}), [])
    with pytest.raises(SpecError, match="the brightness head is wrong: got Expected `float`, got `str`"):
        create_task(spec(head={"threshold": "1"}), [])


class Loudest:
    """Which channel is the brightest."""

    def decode(self, outputs: Any, geometries: Any) -> list[Any]:
        return [RawOutputs({"loudest": row.argmax()}) for row in outputs["means"][: len(geometries)]]

    def draw(self, image_bgr: Any, result: Any) -> None: ...

    def agreement(self, reference: Any, result: Any) -> dict[str, float]:
        return {}


def test_a_task_of_ones_own_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgecnn.tasks, "_registered", {})
    path = write_means(tmp_path / "model.onnx", spec=spec(task="loudest"))
    with pytest.raises(SpecError, match="unknown task: got loudest"):
        load(path)
    register_task("loudest", lambda own, outputs: Loudest())
    assert "loudest" in available_tasks()
    with load(path) as model:
        result: Any = model(np.full((20, 30, 3), (10, 20, 30), np.uint8))
    assert result.tensors["loudest"] == 0  # red, as the network sees it
    for name in ("classification", "_loud", "os.path", "a:b", ""):
        with pytest.raises(SpecError, match="no name for a task of your own"):
            register_task(name, lambda own, outputs: Loudest())


@pytest.mark.parametrize("name", ["brightness", "os", "classification2", "éclair", "tasks"])
def test_an_unknown_task_is_refused_and_the_known_ones_are_named(name: str) -> None:
    with pytest.raises(SpecError, match=f"unknown task: got {name}, expected one of .*raw.*register_task"):
        create_task(spec(task=name), [TensorInfo("out", (1, 2), "float32")])
    assert f"edgecnn.tasks.{name}" not in sys.modules
