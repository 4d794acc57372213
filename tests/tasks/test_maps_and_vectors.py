"""Regression, anomaly, embedding, and several tasks at once."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgecnn.errors import InferenceError, SpecError
from edgecnn.results import Anomaly, Detections, Embedding, MultiResult, Segmentation, ValueMap
from tests.tasks.boxes import IDENTITY, SIZE_HW, f32, geometry_of, make

HEIGHT, WIDTH = SIZE_HW
# a plane: interpolation must reproduce it wherever there are cells on both sides
ROWS, COLUMNS = np.mgrid[:32, :40] + 0.5
PLANE = f32(2 * COLUMNS + 3 * ROWS)


def first(outputs: dict[str, Any], *, geometry: Any = IDENTITY, **options: Any) -> Any:
    return make(outputs, **options).decode(outputs, [geometry])[0]


@pytest.mark.parametrize("shape", [(1, 1, 32, 40), (1, 32, 40)])
def test_a_map_is_interpolated_to_the_frame(shape: tuple[int, ...]) -> None:
    geometry = geometry_of((90, 200), "letterbox")
    found = first({"depth": PLANE.reshape(shape)}, task="regression", unit="m", scale=0.5, geometry=geometry)
    assert isinstance(found, ValueMap)
    assert found.values.shape == (90, 200)
    x, y = np.arange(10, 190), np.arange(5, 85)
    inputs = geometry.to_input(np.stack(np.meshgrid(x + 0.5, y + 0.5), axis=-1)) / 4
    expected = 0.5 * (2 * inputs[..., 0] + 3 * inputs[..., 1])
    # OpenCV before 5 rounds places to 1/32 of a cell
    np.testing.assert_allclose(found.values[5:85, 10:190], expected, atol=0.5 * 5 / 64)
    report = found.to_dict()
    assert report["unit"] == "m"
    assert report["min"] < report["median"] < report["max"]
    assert json.loads(json.dumps(report)) == report


def test_what_a_crop_leaves_out_has_no_value() -> None:
    geometry = geometry_of((200, 400), "crop")
    found = first({"depth": PLANE[None]}, task="regression", resize="crop", geometry=geometry)
    unknown = np.isnan(found.values)
    # scaled to 150 × 300, of which 128 × 160 are cut out: 11 / 0.75 rows and 70 / 0.75 columns are missing
    assert unknown[:14].all()
    assert unknown[:, :93].all()
    assert not unknown[15:185, 94:306].any()
    nothing = ValueMap(np.full((4, 4), np.nan, np.float32))
    assert nothing.to_dict()["min"] is None


def test_regression_agreement_and_errors() -> None:
    task = make({"depth": PLANE[None]}, task="regression")
    one, other = (first({"depth": plane[None]}, task="regression") for plane in (PLANE, PLANE + 50))
    assert task.agreement(one, one) == {"value_agreement": 1}
    assert task.agreement(one, other) == {"value_agreement": 0}
    with pytest.raises(InferenceError, match="infinite or NaN"):
        first({"depth": np.full((1, 8, 8), np.inf, np.float32)}, task="regression")
    with pytest.raises(SpecError, match=r"which output is the map.*--head output=NAME"):
        make({"a": np.zeros((1, 3, 8, 8))}, task="regression")
    frame = np.full((*SIZE_HW, 3), 100, np.uint8)
    task.draw(frame, one)
    assert frame[-1, -1].sum() > frame[-1, 0].sum()  # bright where the numbers are high


@pytest.mark.parametrize("given", ["score", "map", "both"])
def test_anomaly(given: str) -> None:
    heat = np.zeros((1, 1, 32, 40), np.float32)
    heat[0, 0, 10, 20] = 0.8
    outputs = {"pred_score": f32([[0.6]]), "anomaly_map": heat}
    outputs = (
        outputs if given == "both" else {given: outputs["pred_score" if given == "score" else "anomaly_map"]}
    )
    found = first(outputs, task="anomaly", threshold=0.7)
    assert isinstance(found, Anomaly)
    assert found.score == pytest.approx(0.8 if given == "map" else 0.6)
    assert found.is_anomalous == (given == "map")
    report = found.to_dict()
    assert ("hottest_xy" in report) == (given != "score")
    if given != "score":
        assert report["hottest_xy"] == pytest.approx([82, 42], abs=2)
    task = make(outputs, task="anomaly", threshold=0.7)
    assert task.agreement(found, found) == {"anomaly_agreement": 1}
    task.draw(np.zeros((*SIZE_HW, 3), np.uint8), found)


def test_anomaly_errors() -> None:
    with pytest.raises(SpecError, match="which output is the score"):
        make({"a": np.zeros((1, 1)), "b": np.zeros((1,))}, task="anomaly")
    with pytest.raises(SpecError, match="which output is the map"):
        make({"a": np.zeros((1, 5))}, task="anomaly")
    with pytest.raises(InferenceError, match="infinite or NaN"):
        first({"a": f32([[np.nan]])}, task="anomaly")


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1)])
def test_an_embedding_has_length_one(shape: tuple[int, ...]) -> None:
    found = first({"out": f32([3, 0, 4, 0]).reshape(shape)}, task="embedding")
    assert isinstance(found, Embedding)
    np.testing.assert_allclose(found.vector, [0.6, 0, 0.8, 0])
    other = first({"out": f32([[0, 5, 0, 0]])}, task="embedding")
    task = make({"out": f32([[0, 5, 0, 0]])}, task="embedding")
    assert task.agreement(found, found) == {"embedding_agreement": pytest.approx(1)}
    assert task.agreement(found, other) == {"embedding_agreement": 0}
    assert found.to_dict() == {"embedding": pytest.approx([0.6, 0, 0.8, 0])}


@pytest.mark.parametrize("vector", [[0, 0], [np.nan, 1], [np.inf, 1]])
def test_what_has_no_direction_is_no_embedding(vector: list[float]) -> None:
    with pytest.raises(InferenceError, match="output out has no direction"):
        first({"out": f32([vector])}, task="embedding")


def test_embedding_errors() -> None:
    with pytest.raises(SpecError, match="which output is the vector"):
        make({"a": f32([[1]]), "b": f32([[1]])}, task="embedding")
    with pytest.raises(SpecError, match="is no vector"):
        make({"a": np.zeros((1, 3, 8, 8))}, task="embedding")


DRIVING: dict[str, Any] = {
    "lanes": {"task": "segmentation", "outputs": ["lane"], "labels": ["road", "lane"]},
    "objects": {
        "task": "detection", "outputs": ["boxes"], "head": {"format": "end_to_end"}, "labels": ["car", "bus"],
    },
}  # fmt: skip


def driving() -> dict[str, Any]:
    lane = np.full((1, 1, 32, 40), -1, np.float32)
    lane[..., 20:] = 1
    return {"boxes": f32([[[10, 10, 30, 30, 0.9, 1]]]), "lane": lane}


def test_several_tasks_of_one_network() -> None:
    found = first(driving(), task="multi_head", **DRIVING)
    assert isinstance(found, MultiResult)
    assert isinstance(found["lanes"], Segmentation)
    assert isinstance(found["objects"], Detections)
    report = found.to_dict()["results"]
    assert report["objects"]["labels"] == ["bus"]
    assert report["lanes"]["labels"] == ["road", "lane"]
    task = make(driving(), task="multi_head", **DRIVING)
    assert task.agreement(found, found) == {
        "lanes.mean_iou": 1,
        "lanes.pixel_agreement": 1,
        "objects.box_agreement": 1,
    }
    frame = np.full((*SIZE_HW, 3), 100, np.uint8)
    task.draw(frame, found)
    assert (frame[100, 90:] != 100).any(axis=1).all()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({}, "which tasks does the network do"),
        ({"a": 1}, "a is no task"),
        ({"a": {"task": "multi_head", "outputs": ["lane"]}}, "a is no task"),
        (
            {"a": {"task": "segmentation", "outputs": ["x"]}},
            "a: no such output: got x, expected one of boxes, lane",
        ),
        ({"a": {"task": "segmentation", "outputs": []}}, "a: no such output: got none"),
        (
            {"a": {"task": "segmentation", "outputs": ["lane"], "head": {"x": 1}}},
            "a: unknown option of the segm",
        ),
        (
            {"a": {"task": "segmentation", "outputs": ["lane"], "label": []}},
            "unknown option of the head a: got label",
        ),
        ({"a": {"task": "segment", "outputs": ["lane"]}}, "a: unknown task"),
    ],
)
def test_heads_that_do_not_fit(head: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make(driving(), task="multi_head", **head)
