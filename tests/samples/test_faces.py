"""MTCNN's three networks, with their real weights, as the sample runs them."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from edgecnn.demo import packaged
from edgecnn.export import export_onnx
from edgecnn.model import load
from samples.face_cascade import crops_of, distinct, squares

SAMPLES = Path(__file__).parents[2] / "samples"
# What facenet-pytorch 2.6.0 finds, with min_face_size=25.6: 12 pixels of the input, as here
BOX = (178.9, 59.5, 269.9, 175.0)
POINTS = ((204.2, 101.5), (247.6, 104.1), (224.9, 129.1), (202.5, 140.5), (245.6, 142.3))


def test_squares_crops_and_distinct_boxes() -> None:
    boxes = np.array([[0, 0, 10, 20], [1, 0, 11, 20], [0, 0, 5, 5], [50, 50, 60, 60]], float)
    assert squares(boxes)[0].tolist() == [-5, 0, 15, 20]
    scores = np.array([0.8, 0.9, 0.7, 0.6])
    assert distinct(boxes, scores, nested=False) == [1, 2, 3]  # IoU of the first two: 9 / 11
    assert distinct(boxes, scores, nested=True) == [1, 3]  # four fifths of the third lie in the second
    around, crops = crops_of(np.zeros((30, 40, 3), np.uint8), boxes)
    assert around.tolist() == boxes[:3].tolist()  # the fourth lies outside
    assert [crop.shape for crop in crops] == [(20, 10, 3), (20, 11, 3), (5, 5, 3)]


@pytest.fixture
def landmarks(tmp_path: Path) -> Path:
    """O-Net, exported here."""
    if importlib.util.find_spec("facenet_pytorch") is None:
        pytest.skip("facenet-pytorch is not installed")
    from samples.training.faces import NAMES, network_parts

    path = tmp_path / "landmarks.onnx"
    network, spec, outputs = network_parts(NAMES[2:])[NAMES[2]]
    export_onnx(network, spec, path, output_names=outputs)
    return path


def test_the_astronauts_face_is_where_mtcnn_finds_it(
    landmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = packaged("skimage/data/astronaut.png")
    models = [SAMPLES / "models" / f"faces_{name}.onnx" for name in ("proposals", "refine")]
    saved = tmp_path / "faces.jpg"
    words = ["face_cascade.py", *models, landmarks, picture, "--save", saved]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    runpy.run_path(str(SAMPLES / "face_cascade.py"), run_name="__main__")
    (line,) = capfd.readouterr().out.splitlines()
    faces = json.loads(line)
    assert faces["frame"] == 0
    assert len(faces["scores"]) == 1
    assert faces["scores"][0] > 0.99
    np.testing.assert_allclose(faces["boxes_xyxy"][0], BOX, atol=2)
    points = np.array(faces["keypoints_xys"][0])[:, :2]
    np.testing.assert_allclose(points, POINTS, atol=2)
    drawn = cv2.imread(str(saved))
    assert drawn is not None
    green = (drawn[..., 1].astype(int) - drawn[..., [0, 2]].max(axis=2)) > 60
    for x, y in points.round().astype(int):
        assert green[y - 2 : y + 3, x - 2 : x + 3].any()


def test_no_face_no_line_of_any(landmarks: Path) -> None:
    from samples.training.faces import find_faces

    models = [SAMPLES / "models" / f"faces_{name}.onnx" for name in ("proposals", "refine")]
    with load(models[0]) as first, load(models[1]) as second, load(landmarks) as third:
        faces = find_faces(np.full((240, 320, 3), 128, np.uint8), first, second, third)
    assert len(faces) == 0
