from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.detections import Detections
from edgecnn.errors import BackendUnavailableError, InputError
from edgecnn.masks import Masks

LABELS = ("a", "b", "c")


def make(count: int, seed: int = 0, **changes: Any) -> Detections:
    random = np.random.default_rng(seed)
    first = random.uniform(0, 50, (count, 2))
    parts: dict[str, Any] = {
        "boxes_xyxy": np.concatenate([first, first + random.uniform(1, 30, (count, 2))], axis=1),
        "scores": np.sort(random.uniform(0, 1, count))[::-1],
        "class_ids": random.integers(0, 3, count),
        "labels": LABELS,
        "masks": Masks.from_dense(random.random((count, 80, 90)) < 0.3),
        "keypoints_xys": random.uniform(0, 1, (count, 4, 3)),
        "corners_xy": random.uniform(0, 80, (count, 4, 2)),
        "track_ids": random.integers(-1, 9, count),
    }
    return Detections(**{**parts, **changes})


def same(first: Detections, second: Detections) -> None:
    assert first.to_dict() == second.to_dict()
    for name in ("boxes_xyxy", "scores", "class_ids", "keypoints_xys", "corners_xy", "track_ids"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 12), st.data())
def test_selecting_is_numpys(count: int, data: Any) -> None:
    found = make(count)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    order = np.flatnonzero(keep)[::-1]
    for index in (keep, order, slice(1, None, 2)):
        part = found[index]
        np.testing.assert_array_equal(part.scores, found.scores[index])
        np.testing.assert_array_equal(part.boxes_xyxy, found.boxes_xyxy[index])
        assert part.masks is not None
        assert found.masks is not None
        np.testing.assert_array_equal(part.masks.dense(), found.masks.dense()[index])
        assert len(part) == len(part.masks) == len(part.to_dict()["masks"])


def test_one_of_them() -> None:
    found = make(4)
    assert len(found[2]) == 1
    assert found[2].scores[0] == found.scores[2]
    assert found[-1].to_dict() == found[3:].to_dict()
    with pytest.raises(IndexError):
        found[4]


def test_filter() -> None:
    found = Detections(
        boxes_xyxy=[[0, 0, 10, 10], [0, 0, 3, 50], [5, 5, 50, 50], [0, 0, 9, 9]],  # type: ignore[arg-type]
        scores=[0.9, 0.8, 0.5, 0.25],  # type: ignore[arg-type]
        class_ids=[0, 1, 2, 1],  # type: ignore[arg-type]
        labels=LABELS,
    )
    assert found.filter().scores.tolist() == found.scores.tolist()
    assert found.filter(min_score=0.5).class_ids.tolist() == [0, 1, 2]
    assert found.filter(class_ids=[1]).scores.tolist() == pytest.approx([0.8, 0.25])
    assert found.filter(class_names=["c", "a"]).class_ids.tolist() == [0, 2]
    assert found.filter(min_side_px=5, class_ids={1}).scores.tolist() == [0.25]
    assert found[found.scores > 0.6].class_names == ["a", "b"]
    with pytest.raises(InputError, match="no such class: got d"):
        found.filter(class_names=["d"])


def test_as_json() -> None:
    found = Detections(
        boxes_xyxy=np.array([[0.123456, 1, 2, 3]]),
        scores=np.array([1 / 3]),
        class_ids=np.array([7]),
        labels=LABELS,
        keypoints_xys=np.array([[[1.234567, 2, 0.123456]]]),
        track_ids=np.array([5]),
    )
    expected = {
        "boxes_xyxy": [[0.12, 1, 2, 3]],
        "scores": [0.3333],
        "class_ids": [7],
        "labels": ["7"],
        "keypoints_xys": [[[1.23, 2, 0.1235]]],
        "track_ids": [5],
    }
    assert found.to_dict() == expected
    assert json.loads(json.dumps(found.to_dict())) == expected
    assert Detections.empty(LABELS).to_dict() == {
        "boxes_xyxy": [],
        "scores": [],
        "class_ids": [],
        "labels": [],
    }
    json.dumps(make(5).to_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(2)}, r"scores does not fit: got \(2,\), expected \(3\)"),
        ({"class_ids": np.zeros((3, 1))}, "class_ids does not fit"),
        ({"boxes_xyxy": np.zeros((3, 5))}, "boxes_xyxy does not fit"),
        ({"keypoints_xys": np.zeros((3, 4, 2))}, r"keypoints_xys does not fit.*expected \(3, K, 3\)"),
        ({"corners_xy": np.zeros((3, 2, 2))}, "corners_xy does not fit"),
        ({"track_ids": np.zeros(4)}, "track_ids does not fit"),
        ({"masks": Masks.from_dense(np.zeros((2, 8, 8)))}, "masks do not fit: got 2, expected 3, one a box"),
    ],
)
def test_parts_that_do_not_belong_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(3, **changes)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_to_supervision_and_back(count: int) -> None:
    supervision = pytest.importorskip("supervision")
    found = make(count)
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert len(theirs) == count
    assert theirs["class_name"].tolist() == found.class_names
    same(Detections.from_supervision(theirs, LABELS), found)
    if count:
        reversed_ = Detections.from_supervision(theirs[np.arange(count)[::-1]], LABELS)
        same(reversed_, found[::-1])


def test_without_the_optional_parts_supervision_takes_it_too() -> None:
    pytest.importorskip("supervision")
    bare = make(3, masks=None, keypoints_xys=None, corners_xy=None, track_ids=None)
    back = Detections.from_supervision(bare.to_supervision())
    assert back.to_dict() == {**bare.to_dict(), "labels": [str(index) for index in bare.class_ids]}
    theirs = bare.to_supervision()
    theirs.confidence = theirs.class_id = None
    nameless = Detections.from_supervision(theirs)
    assert nameless.scores.tolist() == [1, 1, 1]
    assert nameless.class_ids.tolist() == [0, 0, 0]


def test_supervision_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'edgecnn\[supervision\]'"):
        make(1).to_supervision()
