"""MTCNN's three networks, with their real weights, as the sample runs them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from edgecnn.demo import packaged
from edgecnn.export import export_onnx
from edgecnn.model import load
from samples.training.face_cascade import distinct, find_faces, squares


def test_squares_and_distinct_boxes() -> None:
    boxes = np.array([[0, 0, 10, 20], [1, 0, 11, 20], [0, 0, 5, 5], [50, 50, 60, 60]], float)
    assert squares(boxes)[0].tolist() == [-5, 0, 15, 20]
    scores = np.array([0.8, 0.9, 0.7, 0.6])
    assert distinct(boxes, scores, nested=False) == [1, 2, 3]  # IoU of the first two: 9 / 11
    assert distinct(boxes, scores, nested=True) == [1, 3]  # four fifths of the third lie in the second


@pytest.mark.skipif(
    importlib.util.find_spec("facenet_pytorch") is None, reason="facenet-pytorch is not installed"
)
def test_the_astronauts_face_is_where_it_is(tmp_path: Path) -> None:
    from samples.training.faces import network_parts

    for name, (network, spec, outputs) in network_parts().items():
        export_onnx(network, spec, tmp_path / f"{name}.onnx", output_names=outputs)
    first, second, third = (load(tmp_path / f"{name}.onnx") for name in network_parts())
    frame = np.asarray(cv2.imread(str(packaged("skimage/data/astronaut.png"))), np.uint8)
    with first, second, third:
        faces = find_faces(frame, first, second, third)
    assert len(faces) == 1
    assert faces.scores[0] > 0.99
    left, top, right, bottom = faces.boxes_xyxy[0].tolist()
    assert 150 < left < 190
    assert 40 < top < 90
    assert 250 < right < 300
    assert 170 < bottom < 220
    assert faces.keypoints_xys is not None
    eyes, nose, mouth = faces.keypoints_xys[0, :2], faces.keypoints_xys[0, 2], faces.keypoints_xys[0, 3:]
    assert eyes[0, 0] < nose[0] < eyes[1, 0]
    assert eyes[:, 1].max() < nose[1] < mouth[:, 1].min()
