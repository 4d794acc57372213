"""Roads, tissue and places: the truth that networks learn, the scripts, and the networks that are shipped."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from samples.training import microscopy, reidentify, road
from samples.training.loop import MODELS, open_precisions
from samples.training.road_scenes import Pose, Scene, _to_pixels, drive, render

LEVELS = {
    "road": (lambda: road.views("test", 40, seed=7), road.evaluate, "drivable mean IoU", 0.9),
    "microscopy": (lambda: microscopy.tiles("test", 40, seed=7), microscopy.evaluate, "mean IoU", 0.6),
    "reidentify": (lambda: reidentify.unseen_views(40, seed=7), reidentify.evaluate, "mAP", 0.6),
}  # below what was measured, on other frames than those: a network that learned nothing is at 0.1 to 0.5


def test_lines_and_road_are_where_the_camera_must_see_them() -> None:
    seen = []
    photos = road.textures("test")
    for number in range(5):
        rng = np.random.default_rng(number)
        scene = Scene.random(rng, photos)
        pose = Pose(
            offset_m=rng.normal(0, 0.4), heading_rad=rng.normal(0, 0.05), curvature_per_m=rng.normal(0, 0.004)
        )
        view = render(scene, pose)
        hidden = ~view.drivable.astype(bool)
        near = cv2.dilate(view.lanes, np.ones((3, 3), np.uint8))  # a point is somewhere in its pixel
        for line in scene.lines:
            ahead = np.linspace(6, 25, 20)
            ground = np.stack([line.at_m + pose.centre_m(ahead), np.zeros(20), ahead], axis=1)
            pixels = np.floor(_to_pixels(scene, ground, view.lanes.shape)).astype(int)
            inside = ((pixels >= 0) & (pixels < view.lanes.shape[::-1])).all(axis=1)
            x, y = pixels[inside].T
            free = ~hidden[y, x]  # not behind a vehicle
            seen += near[y, x][free].tolist()
        assert 0.1 < view.drivable.mean() < 0.8
    assert len(seen) > 100
    assert np.mean(seen) > 0.97  # where a far line is almost level, it is thinner than a pixel


def test_the_same_seed_gives_the_same_road_and_a_video_moves_on() -> None:
    first, again = (road.views("train", 1, seed=3)[0] for _ in range(2))
    assert (first.image_bgr == again.image_bgr).all()
    scene = Scene.random(np.random.default_rng(1), road.textures("test"))
    one, two = drive(scene, frames=2, fps=5)
    assert two.pose.travelled_m == pytest.approx(12 / 5)
    assert (one.image_bgr != two.image_bgr).mean() > 0.3


def test_no_photo_is_on_both_sides() -> None:
    for photos in (road.textures, reidentify.photos):
        train, test = ({photo.tobytes() for photo in photos(split)} for split in ("train", "test"))
        assert train
        assert test
        assert not train & test


@pytest.mark.slow
@pytest.mark.parametrize("name", LEVELS)
def test_a_script_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script: Any = importlib.import_module(f"samples.training.{name}")
    arguments = ["--steps", "2", "--test-frames", "10", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    script.main()
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["steps"] == 2
    assert set(result["metrics"]) == {"fp32", "fp16", "int8", "int8_tensorrt"}


@pytest.mark.parametrize("name", LEVELS)
def test_a_shipped_network_has_learned_and_int8_keeps_it(name: str) -> None:
    make, evaluate, metric, least = cast("tuple[Any, Any, str, float]", LEVELS[name])
    path = MODELS / f"{name}.onnx"
    assert path.stat().st_size < 1e6
    tests: Any = make()
    with open_precisions(path, ["fp32", "int8"]) as models:
        score = {precision: evaluate(model, tests)[metric] for precision, model in models.items()}
    assert score["fp32"] > least
    assert score["int8"] > score["fp32"] - 0.02  # forty frames: the scripts measure on more
