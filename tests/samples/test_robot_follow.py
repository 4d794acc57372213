"""The camera that follows an object stands when there is none, and not only when results are late."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

import edgecnn
from tests.samples.hand_made import DISC, write_detector
from tests.samples.test_samples import load_sample


def test_it_stands_when_the_object_is_gone(tmp_path: Path) -> None:
    """Although results come on: they show nothing."""
    sample = load_sample("robot_follow")
    disc = np.zeros((DISC + 1, DISC + 1, 3), np.uint8)
    cv2.circle(disc, (DISC // 2, DISC // 2), DISC // 2, (255, 255, 255), -1)
    camera = sample.PanTilt(np.full((480, 640, 3), 60, np.uint8), disc, 30)
    fastest = 0.0
    read = camera.read

    def read_until_it_stands() -> object:
        nonlocal fastest
        fastest = max(fastest, float(np.abs(camera.asked).max()))
        if fastest:
            camera.thing = np.zeros_like(disc)
            if not camera.asked.any():
                camera.last = camera.number
        return read()

    camera.read = read_until_it_stands
    with edgecnn.load(write_detector(tmp_path / "discs.onnx")) as model:
        sample.follow(camera, model)
    assert fastest > 0
    assert camera.number < 30 * sample.RATE_HZ  # it stood before the time was up
