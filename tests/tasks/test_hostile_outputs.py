"""Whatever numbers a network gives: a result that makes sense, or an InferenceError."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgecnn.detections import Detections
from edgecnn.errors import InferenceError
from tests.tasks.boxes import geometry_of, make

LEVELS = [{"grid_hw": [2, 3], "step_xy": [50, 60], "sizes_wh": [[30, 40]]}]
CASES: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "yolo": ({"out": (1, 7, 20)}, {"format": "yolo", "objectness": False}),
    "yolov5": ({"out": (1, 20, 7)}, {"format": "yolo", "objectness": True}),
    "oriented": ({"out": (1, 7, 20)}, {"format": "yolo", "objectness": False, "angle": True}),
    "end_to_end": ({"out": (1, 9, 6)}, {"format": "end_to_end"}),
    "detr": ({"boxes": (1, 9, 4), "logits": (1, 9, 3)}, {"format": "detr"}),
    "softmax": (
        {"boxes": (1, 9, 4), "logits": (1, 9, 3)},
        {"format": "boxes_scores", "activation": "softmax", "background": "first"},
    ),
    "anchors": (
        {"boxes": (1, 6, 4), "logits": (1, 6, 3)},
        {"format": "anchors", "levels": LEVELS, "activation": "sigmoid"},
    ),
    "fcos": (
        {"boxes": (1, 6, 4), "logits": (1, 6, 3), "centerness": (1, 6, 1)},
        {"format": "fcos", "levels": LEVELS},
    ),
    "centernet": (
        {"hm": (1, 2, 4, 5), "wh": (1, 2, 4, 5), "reg": (1, 2, 4, 5)},
        {"format": "centernet", "heat_output": "hm", "size_output": "wh", "offset_output": "reg"},
    ),
    "masks": (
        {"rows": (1, 5, 9), "prototypes": (1, 3, 8, 10)},
        {"task": "instance_segmentation", "format": "end_to_end"},
    ),
    "keypoints": ({"out": (1, 5, 12)}, {"task": "keypoints", "points": 2, "format": "end_to_end"}),
    "heatmaps": ({"out": (1, 3, 4, 5)}, {"task": "keypoints", "format": "heatmaps"}),
}
NUMBERS = st.one_of(
    st.floats(width=32), st.floats(-1, 300, width=32), st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0])
)


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_boxes(name: str, data: Any) -> None:
    shapes, options = CASES[name]
    outputs = {
        output: data.draw(arrays(np.float32, shape, elements=NUMBERS, fill=NUMBERS))
        for output, shape in shapes.items()
    }
    frame_hw = (90, 200)
    task = make(outputs, min_score=0.1, **options)
    try:
        with np.errstate(all="raise", under="ignore"):  # the caller's own, which must not matter
            (found,) = task.decode(outputs, [geometry_of(frame_hw, "letterbox")])
    except InferenceError:
        assert not all(np.isfinite(array).all() for array in outputs.values()) or _overflows(outputs)
        return
    assert isinstance(found, Detections)
    assert np.isfinite(found.boxes_xyxy).all()
    assert ((found.boxes_xyxy >= 0) & (found.boxes_xyxy <= [200, 90, 200, 90])).all()
    assert (found.boxes_xyxy[:, 2:] >= found.boxes_xyxy[:, :2]).all()
    assert ((found.scores > 0.1) & (found.scores <= 1)).all()
    assert (np.diff(found.scores) <= 0).all()
    if found.masks is not None:
        assert found.masks.dense().shape == (len(found), *frame_hw)
    found.to_dict()
    frame = np.zeros((*frame_hw, 3), np.uint8)
    task.draw(frame, found)


def _overflows(outputs: dict[str, Any]) -> bool:
    """Finite numbers, whose products are not."""
    return any(np.abs(array).max(initial=0) > 1e15 for array in outputs.values())
