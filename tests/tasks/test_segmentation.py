from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecnn.errors import InferenceError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import UNSEEN, Segmentation
from edgecnn.spec import Resize
from tests.tasks.boxes import IDENTITY, SIZE_HW, f32, geometry_of, make

HEIGHT, WIDTH = SIZE_HW


def segment(
    values: Any, *, geometry: Geometry = IDENTITY, resize: Resize = "letterbox", **options: Any
) -> Any:
    (result,) = make({"out": values}, task="segmentation", resize=resize, **options).decode(
        {"out": values}, [geometry]
    )
    assert isinstance(result, Segmentation)
    assert result.class_map.shape == geometry.frame_hw
    return result


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("frame_hw", [(128, 160), (90, 200), (333, 77), (480, 640)])
@pytest.mark.parametrize("kind", ["scores", "ids"])
def test_each_pixel_has_the_class_of_the_cell_it_lies_in(
    resize: Resize, frame_hw: tuple[int, int], kind: str
) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(0, 1, (5, 32, 40)).astype(np.float32)
    ids = scores.argmax(axis=0)
    geometry = geometry_of(frame_hw, resize)
    values = scores[None] if kind == "scores" else ids[None].astype(np.int64)
    found = segment(values, geometry=geometry, resize=resize, labels="abcde")
    assert found.class_map.dtype == np.uint8
    height, width = frame_hw
    for y in range(0, height, 7):
        for x in range(0, width, 5):
            u, v = geometry.to_input([x + 0.5, y + 0.5])
            inside = 0 <= u < WIDTH and 0 <= v < HEIGHT
            assert inside or resize == "crop"
            cell = ids[int(v * 32 / HEIGHT), int(u * 40 / WIDTH)] if inside else UNSEEN[np.dtype(np.uint8)]
            assert found.class_map[y, x] == cell, (x, y)


def test_one_score_and_a_threshold() -> None:
    """A slope from left to right: the edge is where it crosses the threshold, between cells."""
    slope = np.tile(np.linspace(-4, 4, 40, dtype=np.float32), (32, 1))[None, None]
    centre = segment(slope).class_map
    assert (centre[:, :80] == 0).all()
    assert (centre[:, 80:] == 1).all()
    later = segment(slope, threshold=0.9).class_map
    # logit(0.9) = 2.197 at cell 19.5 + 2.197 / (8 / 39) = 30.21, whose centre is 30.71 cells from the left
    np.testing.assert_array_equal(later[0], np.arange(160) + 0.5 >= 30.71 * 4)
    probabilities = 1 / (1 + np.exp(-slope))
    same = segment(probabilities, scores="probabilities", threshold=0.5).class_map
    np.testing.assert_array_equal(same, centre)


def test_more_classes_than_a_byte_holds() -> None:
    scores = np.zeros((1, 300, 8, 10), np.float32)
    scores[0, 299, :4] = scores[0, 255, 4:] = 1
    found = segment(scores)
    assert found.class_map.dtype == np.uint16
    assert found.class_ids == [255, 299]


def test_equal_scores_are_the_first_class() -> None:
    assert segment(np.zeros((1, 3, 8, 10), np.float32)).class_ids == [0]


def test_what_is_in_the_result() -> None:
    ids = np.zeros((1, 8, 10), np.int32)
    ids[0, :, 5:] = 2
    found = segment(ids, labels=("road", "lane", "tree"))
    report = found.to_dict()
    assert report["class_ids"] == [0, 2]
    assert report["labels"] == ["road", "tree"]
    assert report["shares"] == [0.5, 0.5]
    assert report["masks"][1] == {"size": [128, 160], "counts": "P`PPPP"} or len(report["masks"]) == 2
    np.testing.assert_array_equal(found.mask(2), np.arange(160)[None].repeat(128, 0) >= 80)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("channels", [1, 4])
def test_what_is_no_number_is_no_result(wrong: float, channels: int) -> None:
    scores = np.zeros((1, channels, 8, 10), np.float32)
    scores[0, -1, 3, 3] = wrong
    with pytest.raises(InferenceError, match="output out is infinite or NaN"):
        segment(scores)


def test_huge_scores_are_numbers() -> None:
    assert segment(np.full((1, 2, 8, 10), 1e30, np.float32)).class_ids == [0]


@pytest.mark.parametrize("wrong", [-1, 3])
def test_ids_that_are_no_classes(wrong: int) -> None:
    with pytest.raises(InferenceError, match="holds what is no class id"):
        segment(np.full((1, 8, 10), wrong, np.int64), labels="abc")


def test_agreement() -> None:
    ids = np.zeros((1, 8, 10), np.int32)
    task = make({"out": ids}, task="segmentation")
    half = ids.copy()
    half[0, :, 5:] = 1
    nothing, both = segment(ids), segment(half)
    assert task.agreement(both, both) == {"mean_iou": 1, "pixel_agreement": 1}
    assert task.agreement(nothing, both) == {"mean_iou": 0.25, "pixel_agreement": 0.5}


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        (
            {"a": np.zeros((1, 3, 8, 8)), "b": np.zeros((1, 3, 8, 8))},
            {},
            "which output holds the classes.*output=NAME",
        ),
        ({"a": np.zeros((1, 3))}, {}, "is no map of classes"),
        ({"a": np.zeros((1, 3, 8, 8), np.int64)}, {}, "is no map of classes"),
        ({"a": f32(np.zeros((1, 3, 8, 8)))}, {"labels": "ab"}, "got 2 labels, expected 3"),
        ({"a": f32(np.zeros((1, 1, 8, 8)))}, {"labels": "a"}, "got 1 labels, expected 2"),
        ({"a": np.zeros((1, 1, 8, 8))}, {"threshold": 1}, "threshold is wrong"),
        ({"a": np.zeros((1, 1, 8, 8))}, {"output": "b"}, "no such output: got b"),
    ],
)
def test_what_does_not_fit_is_refused(outputs: dict[str, Any], options: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make(outputs, task="segmentation", **options)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_the_picture_is_tinted_but_for_the_background(dtype: Any) -> None:
    ids = np.zeros((1, 8, 10), dtype)
    ids[0, 4:, 5:] = 1
    frame = np.full((*SIZE_HW, 3), 100, np.uint8)
    task = make({"out": ids}, task="segmentation", labels=("road", "lane"))
    task.draw(frame, segment(ids, labels=("road", "lane")))
    assert (frame[64:, 80:] != 100).any(axis=2).all()
    assert (frame[64:, :80] == 100).all()
