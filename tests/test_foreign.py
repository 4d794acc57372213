from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgecnn
from edgecnn.errors import SpecError
from edgecnn.spec import ModelSpec

NAMES = "{0: 'person', 1: \"dog's\"}"
DETECT = {
    "description": "Ultralytics YOLO11n model trained on coco.yaml",
    "author": "Ultralytics",
    "license": "AGPL-3.0",
    "stride": "32",
    "task": "detect",
    "batch": "1",
    "imgsz": "[96, 128]",
    "names": NAMES,
    "args": "{'batch': 1, 'half': False, 'nms': False}",
}


def found(**changes: str) -> ModelSpec:
    spec = ModelSpec.from_metadata({**DETECT, **changes})
    assert spec is not None
    return spec


def test_a_detector() -> None:
    spec = found()
    assert (spec.task, spec.labels, spec.name) == ("detection", ("person", "dog's"), "YOLO11n")
    assert (spec.image.size_hw, spec.image.resize, spec.image.pad_value) == ((96, 128), "letterbox", 114)
    assert spec.head == {"format": "yolo", "objectness": False, "nms_iou": 0.7, "min_score": 0.25}


@pytest.mark.parametrize(
    ("changes", "task", "head"),
    [
        ({"end2end": "True"}, "detection", {"format": "end_to_end"}),
        ({"args": "{'nms': True}"}, "detection", {"format": "end_to_end"}),
        ({"task": "obb"}, "detection", {"angle": True}),
        ({"task": "segment"}, "instance_segmentation", {"format": "yolo"}),
        ({"task": "pose", "kpt_shape": "[17, 3]"}, "keypoints", {"points": 17, "values": 3}),
        ({"task": "classify"}, "classification", {"scores": "probabilities"}),
        ({"description": "Ultralytics RT-DETR-l model"}, "detection", {"normalized": True, "nms_iou": None}),
    ],
)
def test_the_other_kinds(changes: dict[str, str], task: str, head: dict[str, Any]) -> None:
    spec = found(**changes)
    assert spec.task == task
    assert spec.head.items() >= head.items()


def test_files_of_others_say_nothing() -> None:
    assert ModelSpec.from_metadata({}) is None
    assert ModelSpec.from_metadata({"task": "detect", "names": NAMES}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": "__import__('os').system('true')"}, "metadata names cannot be read"),
        ({"names": "{0: 'a', 2: 'b'}"}, "metadata names cannot be read"),
        ({"names": "{0: 1}"}, "metadata names cannot be read"),
        ({"names": "(" * 100_000}, "metadata names cannot be read"),
        ({"names": "'" + "a" * (1 << 21) + "'"}, "metadata names cannot be read"),
        ({"imgsz": "640"}, "metadata imgsz cannot be read: got 640"),
        ({"imgsz": "[0, 640]"}, "size_hw is wrong"),
        ({"task": "pose"}, "metadata kpt_shape cannot be read: got nothing"),
        ({"task": "depth"}, "a task of Ultralytics that edgecnn does not know: got depth"),
    ],
)
def test_damaged_metadata(changes: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        found(**changes)


def test_such_a_file_is_loaded_without_a_word(tmp_path: Path) -> None:
    """A graph that always finds one dog, in the form of YOLO11's output."""
    places = 12 * 16 + 6 * 8 + 3 * 4
    rows = np.zeros((1, 6, places), np.float32)
    rows[0, :, 100] = [64, 48, 40, 20, 0.1, 0.9]
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes, "yolo",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 96, 128])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, places])],
        [
            numpy_helper.from_array(np.array([0, 1, 2, 3]), "axes"),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(rows, "rows"),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, DETECT)
    onnx.save(model, tmp_path / "yolo.onnx")
    with edgecnn.load(tmp_path / "yolo.onnx") as loaded:
        result = loaded(np.zeros((192, 256, 3), np.uint8))
        assert isinstance(result, edgecnn.Detections)
        assert result.class_names == ["dog's"]
        np.testing.assert_allclose(result.boxes_xyxy, [[88, 76, 168, 116]], atol=1e-4)
