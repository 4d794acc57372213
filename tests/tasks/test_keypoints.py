from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecnn.errors import InferenceError, SpecError
from tests.tasks.boxes import SIZE_HW, detect, f32, geometry_of, make

HEIGHT, WIDTH = SIZE_HW


@pytest.mark.parametrize("values", [2, 3])
@pytest.mark.parametrize("finished", [False, True])
def test_points_behind_boxes(values: int, finished: bool) -> None:
    random = np.random.default_rng(0)
    points = random.uniform(0, 1, (2, 5, 3)) * [WIDTH, HEIGHT, 1]
    behind = points[..., :values].reshape(2, -1)
    geometry = geometry_of((90, 200), "letterbox")
    if finished:
        rows = np.concatenate([[[20, 40, 60, 80, 0.9, 0], [90, 50, 130, 90, 0.8, 0]], behind], axis=1)[None]
    else:
        rows = np.zeros((1, 5 + 5 * values, 420))
        rows[0, :, :2] = np.concatenate([[[40, 60, 40, 40, 0.9], [110, 70, 40, 40, 0.8]], behind], axis=1).T
    options = {} if finished else {"objectness": False}
    found = detect(
        {"out": f32(rows)}, task="keypoints", points=5, values=values, geometry=geometry, labels=("person",),
        **({"format": "end_to_end"} if finished else {"format": "yolo"}), **options,
    )  # fmt: skip
    assert found.keypoints_xys is not None
    expected = (points[..., :2] - geometry.offset_xy) / geometry.scale_xy
    np.testing.assert_allclose(found.keypoints_xys[..., :2], expected, atol=1e-3)
    np.testing.assert_allclose(found.keypoints_xys[..., 2], points[..., 2] if values == 3 else 1, atol=1e-6)
    report = found.to_dict()
    assert np.shape(report["keypoints_xys"]) == (2, 5, 3)
    assert found[1].to_dict()["keypoints_xys"] == report["keypoints_xys"][1:]


def test_points_of_normalized_boxes_are_normalized_too() -> None:
    row = f32([[[0.25, 0.25, 0.5, 0.5, 0.9, 0, 0.5, 0.25]]])
    found = detect({"out": row}, task="keypoints", points=1, values=2, format="end_to_end", normalized=True)
    assert found.boxes_xyxy.tolist() == [[40, 32, 80, 64]]
    assert found.keypoints_xys is not None
    assert found.keypoints_xys.tolist() == [[[80, 32, 1]]]


def blob(x: float, y: float, *, peak: float = 1.0) -> Any:
    """(32, 40): a Gaussian around a place in cells, sampled at the cells' centres."""
    rows, columns = np.mgrid[:32, :40] + 0.5
    return peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)


def test_heat_maps() -> None:
    """Found to a quarter of a cell, which is one pixel of the input here, and mapped to the frame."""
    places = [(10.75, 20.25), (30.1, 5.9), (0.2, 31.8), (20.5, 16.5)]
    heat = np.stack([blob(x, y, peak=0.9) for x, y in places])[None]
    geometry = geometry_of((256, 320), "letterbox")
    found = detect({"heat": f32(heat)}, task="keypoints", geometry=geometry)
    assert found.keypoints_xys is not None
    apart = (
        found.keypoints_xys[0, :, :2] - np.array(places) * 8
    )  # four input pixels a cell, two of the frame each
    assert np.abs(apart).max() <= 0.3 * 8 + 1e-3
    np.testing.assert_allclose(found.keypoints_xys[0, 0, :2], np.array([10.75, 20.25]) * 8, atol=1e-3)
    np.testing.assert_allclose(found.keypoints_xys[0, 3, :2], np.array([20.5, 16.5]) * 8, atol=1e-3)
    np.testing.assert_allclose(found.keypoints_xys[0, 3, 2], 0.9, atol=1e-6)
    box = found.boxes_xyxy[0]
    assert (found.keypoints_xys[0, :, 0] >= box[0]).all()
    assert (found.keypoints_xys[0, :, 1] <= box[3]).all()


def test_nobody_in_the_heat_maps() -> None:
    found = detect({"heat": np.zeros((1, 4, 32, 40), np.float32)}, task="keypoints")
    assert len(found) == 0
    assert found.to_dict()["keypoints_xys"] == []
    with pytest.raises(InferenceError, match="output heat is infinite or NaN"):
        detect({"heat": np.full((1, 4, 32, 40), np.nan, np.float32)}, task="keypoints")


def test_agreement() -> None:
    heat = f32(np.stack([blob(10, 20), blob(30, 5)])[None])
    task = make({"heat": heat}, task="keypoints")
    first = detect({"heat": heat}, task="keypoints")
    assert task.agreement(first, first) == {"box_agreement": 1, "keypoint_agreement": 1}
    moved = f32(np.stack([blob(10, 20), blob(34, 5)])[None])
    assert task.agreement(first, detect({"heat": moved}, task="keypoints"))["keypoint_agreement"] == 0.5


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 300, 57), {}, "how many points does an object have.*--head points=17"),
        ((1, 300, 56), {"points": 17, "format": "end_to_end"}, r"expected \(N, K, 57\)"),
        ((1, 300, 57), {"points": 17, "skeleton": [[0, 17]]}, "skeleton is wrong.*from 0 to 16"),
        ((1, 4, 32, 40), {"skeleton": [[0, 4]]}, "skeleton is wrong"),
        ((1, 4, 32, 40), {"activation": "tanh"}, "activation is wrong"),
        ((1, 300, 57), {"format": "heatmaps"}, "which output holds output"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make({"out": np.zeros(shape)}, task="keypoints", **options)


def test_points_and_skeleton_are_drawn() -> None:
    heat = f32(np.stack([blob(10, 16), blob(30, 16)])[None])
    frame = np.full((*SIZE_HW, 3), 100, np.uint8)
    task = make({"heat": heat}, task="keypoints", skeleton=[[0, 1]])
    (found,) = task.decode({"heat": heat}, [geometry_of(SIZE_HW, "letterbox")])
    task.draw(frame, found)
    assert (frame[63:66, 44:116] != 100).any(axis=(0, 2)).all()
